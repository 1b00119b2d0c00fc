"""Posteriors of real data: half-hidden digits, and wines of which measurements are missing.

python -m benchmarks.posteriors [--digits=50] [--broken]

Digits: a network trained on four fifths of the 8x8 digits; of held-out ones the upper half is
measured with noise .1 (grey levels from -1 to 1). How long 200 draws of one take; what share of the
draws a classifier, trained on the same four fifths, gives the truth's class, beside what it says
of the upper half with the other pixels at their mean; TARP and ranks of the held-out digits, on
request also with a likelihood whose noise variance is off by 2.

Wine: networks trained on 125 of the 178 wines; of the others about 3 of 13 numbers are hidden. How
often 90 % intervals hold them, and the rms error of posterior means in units of the columns' sds,
beside scikit-learn's IterativeImputer with Bayesian ridge regression.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (its import is the switch)
from sklearn.impute import IterativeImputer
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import NETWORKS, ROOT, Line, report
from dnnlib.util import aligned
from experiments.calibration.observations import calibrate
from flow import Flow, Posterior, load_flow, observe
from metrics import classifier
from torch_utils.work import Parts
from training.data.images import ImageSource

Rows = list[tuple[str, str, str]]
NOISE = 0.1
HOW: dict[str, Any] = {"solver": "ab3", "steps": 6}
UPPER = np.arange(64) < 32
DRAWS = 200
CHAINS = 16  # of each of many digits
FEW = 12  # draws of each: of so many chains, no more are independent enough
TOGETHER = 4  # digits, whose 64 chains are a block of the network's
NETWORK = [
    "--cbase=24", "--cres=1,2", "--num_blocks=1", "--dropout=0", "--batch=32", "--lr=4e-3",
    "--lr_decay=cosine", "--lr_rampup=0.005", "--ema=0.008", "--duration=0.07", "--tick=10",
    "--t_sampling=arc", "--weighting=arc", "--tmax=6.51",
]  # fmt: skip
HIDDEN = 0.23  # share of a wine's numbers
RELATIVE = 0.1  # noise of a wine's numbers, in sds of their columns


def run(*words: object) -> None:
    """A script of the suite, quietly."""
    subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def digits() -> tuple[Flow, tuple[Tensor, Tensor], tuple[np.ndarray, np.ndarray]]:
    """The flow; images [n, 1, 8, 8] and classes it knows; images [m, 64] and classes held out."""
    pixels = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    labels = load_digits().target
    kept, held = classifier.hold_out(labels, 0.2, 0)
    folder = NETWORKS / "posteriors"
    if not (folder / "kept.zip").exists():
        (folder / "kept").mkdir(parents=True, exist_ok=True)
        for i in kept:
            Image.fromarray(pixels[i]).save(folder / "kept" / f"{i:05d}.png")
        run("dataset_tool.py", f"--source={folder / 'kept'}", f"--dest={folder / 'kept.zip'}")
    run("train.py", f"--outdir={folder / 'digits'}", f"--data={folder / 'kept.zip'}", *NETWORK,
        "--resume=latest", "--no-plot")  # fmt: skip
    x = pixels.reshape(len(pixels), -1) / 127.5 - 1
    seen = torch.from_numpy(x[kept]).float().view(-1, 1, 8, 8), torch.from_numpy(labels[kept])
    assert len(ImageSource(str(folder / "kept.zip"))) == len(kept)
    return load_flow(folder / "digits", "cpu"), seen, (x[held], labels[held])


def measured(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The upper half of a digit [64] with noise; NaN below."""
    return np.where(UPPER, x + NOISE * rng.standard_normal(64), np.nan)


def some(folder: Path, y: np.ndarray, first: int, factor: float) -> Tensor:
    """Draws [rows, FEW, 64], and last how many are independent, of measured digits [rows, 64]."""
    torch.set_num_threads(1)  # of so few rows, threads make nothing faster
    flow = load_flow(folder / "digits", "cpu")
    flow.block = TOGETHER * CHAINS
    posterior = Posterior.batch(
        flow, [observe(v, noise=NOISE * math.sqrt(factor)) for v in y], **HOW
    )
    found = posterior.sample(FEW, 0, "hmc", first=first, chains=CHAINS, draws=1)
    return torch.stack([torch.cat([d.x, d.x.new_full((1, 64), d.effective)]) for d in found])


def draws(y: np.ndarray, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draws [digits, FEW, 64] of digits of which y [digits, 64] was measured, on all cores.

    Finished ones are kept, so that the same command goes on.

    Returns:
        the draws, and how many of each digit's are independent, [digits].
    """
    folder = NETWORKS / "posteriors"
    batches = [range(k, min(k + TOGETHER, len(y))) for k in range(0, len(y), TOGETHER)]
    how = [*HOW.values(), NOISE, CHAINS, FEW, factor]
    kept = Parts(folder / "draws", {"of": load_flow(folder / "digits", "cpu").model, "how": how})
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context) as pool, ThreadPoolExecutor() as waiting:

        def one(rows: range) -> Tensor:
            def work() -> dict[str, Tensor]:
                return {"x": pool.submit(some, folder, mine, rows.start, factor).result()}

            mine = y[rows.start : rows.stop]
            return kept.also(y=mine).get(rows, work)["x"]

        found = list(tqdm(waiting.map(one, batches), total=len(batches), unit="batch"))
    whole = torch.cat(found).numpy()
    return whole[:, :FEW], whole[:, FEW, 0]


def recognised(
    flow: Flow,
    seen: tuple[Tensor, Tensor],
    truth: tuple[np.ndarray, np.ndarray],
    y: np.ndarray,
    found: np.ndarray,
) -> tuple[Rows, list[Line]]:
    """Seconds for one digit's draws, and the share of draws that a classifier takes for the truth.

    Args:
        flow: the flow.
        seen: images and classes of the classifier.
        truth: images [n, 64] and classes [n].
        y: what was measured of them, [n, 64].
        found: their draws, [n, draws, 64].
    """
    model = classifier.train(*seen, 10, epochs=40, seed=0)
    mean = seen[0].mean(0).flatten().numpy()

    def right(x: np.ndarray, classes: np.ndarray) -> float:
        images = torch.from_numpy(x).float().view(-1, 1, 8, 8)
        return float((classifier.judge(model, images).predicted.numpy() == classes).mean())

    posterior = Posterior(flow, observe(y[0], noise=NOISE), **HOW)
    began = time.monotonic()
    first = posterior.sample(DRAWS, seed=0, method="hmc").x.numpy()
    seconds = time.monotonic() - began
    shares = [right(x, c) for x, c in zip(found, truth[1], strict=True)]
    whole, guess = right(truth[0], truth[1]), right(np.where(UPPER, y, mean), truth[1])
    rows = [
        ("seconds for 200 draws of one digit, all cores", f"{seconds:.0f}", "120 allowed"),
        (f"classifier's share for the truth's class, {len(y)} digits",
         f"{np.mean(shares):.3f} +- {np.std(shares) / math.sqrt(len(shares)):.3f}",
         f"{whole:.3f} of whole digits, {guess:.3f} with the mean below"),
    ]  # fmt: skip
    np.savez(NETWORKS / "posteriors" / "draws.npz", y=y, truth=truth[0], first=first,
             few=found, shares=shares)  # fmt: skip
    return rows, [Line("200 draws of a half-hidden digit", f"{seconds:.0f} s", "120 s allowed",
                       120 / seconds, 1.0)]  # fmt: skip


def calibrated(truths: np.ndarray, y: np.ndarray, found: np.ndarray, effective: np.ndarray) -> str:
    """TARP and ranks of digits [n, 64], what was measured of them, draws [n, FEW, 64]."""
    # Made side by side before, and handed out in the order in which they are asked for.
    each = iter([SimpleNamespace(x=a, effective=b) for a, b in zip(found, effective, strict=True)])
    seen = iter(y)

    def log_likelihood(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return -0.5 * np.square((x - y)[:, UPPER] / NOISE).sum(1)

    verdict = calibrate(truths, lambda x, rng: next(seen), lambda y, n, seed: next(each),
                        FEW, log_likelihood=log_likelihood)  # fmt: skip
    tarp = verdict.tests["tarp"]
    outside = tarp["share_of_ecdf_outside_band"]
    return (f"{verdict.line()}; TARP alone: p = {tarp['kolmogorov_smirnov_p']:.2g}, "
            f"{outside:.0%} of the ECDF outside its band")  # fmt: skip


def wine() -> tuple[Rows, list[Line]]:
    """Hidden numbers of held-out wines."""
    frame = load_wine(as_frame=True).data.sample(frac=1, random_state=0)
    known, truth = frame[:125], frame[125:].to_numpy()
    folder = NETWORKS / "posteriors"
    folder.mkdir(parents=True, exist_ok=True)
    known.to_csv(folder / "wine.csv", index=False)
    run("toy_train.py", f"--outdir={folder / 'wine'}", f"--data={folder / 'wine.csv'}",
        "--resume=latest", "--no-plot")  # fmt: skip
    flow, sd = load_flow(folder / "wine", "cpu"), known.std().to_numpy()
    rng = np.random.default_rng(0)
    hidden = rng.random(truth.shape) < HIDDEN
    y = np.where(hidden, np.nan, truth)
    models = [observe(row, noise=RELATIVE * sd) for row in y]
    found = Posterior.batch(flow, models).sample(500, seed=0, particles=256)
    x = np.stack([d.x.numpy() for d in found])
    low, high = np.quantile(x, [0.05, 0.95], axis=1)
    inside = ((low <= truth) & (truth <= high))[hidden]
    error = ((x.mean(1) - truth) / sd)[hidden]
    imputer = IterativeImputer(random_state=0, max_iter=50).fit(known.to_numpy())
    other = ((imputer.transform(y) - truth) / sd)[hidden]
    mean = ((known.mean().to_numpy() - truth) / sd)[hidden]
    ours, theirs, plain = (float(np.sqrt(np.mean(e**2))) for e in (error, other, mean))
    count = len(inside)
    rows = [
        (f"share of {count} hidden numbers in 90 % intervals", f"{inside.mean():.3f} +- "
         f"{math.sqrt(0.09 / count):.3f}", ".85 to .95 wanted"),
        ("rms error of the posterior mean, sds", f"{ours:.3f}",
         f"{theirs:.3f} by IterativeImputer, {plain:.3f} by the mean"),
        ("least effective draws of 500", f"{min(d.effective for d in found):.0f}", ""),
    ]  # fmt: skip
    return rows, [Line("hidden numbers of wines, rms error", f"{ours:.3f}",
                       f"IterativeImputer {theirs:.3f}", theirs / ours)]  # fmt: skip


@click.command()
@click.option("--digits", "count", type=click.IntRange(min=20), default=50,
              help="held-out digits, each about half a minute")  # fmt: skip
@click.option("--broken", is_flag=True, help="also draw with a likelihood that is wrong")
def main(count: int, broken: bool) -> None:
    """Measure, and write the table."""
    rows, lines = wine()
    flow, seen, (held, classes) = digits()
    rng = np.random.default_rng(1)
    picks = rng.permutation(len(held))[:count]
    noise = math.sqrt(float(flow.schedule.gamma0)) * flow.model.scale.numpy()
    truths = held[picks] + noise * rng.standard_normal((len(picks), 64))
    y = np.stack([measured(x, rng) for x in truths])
    found, effective = draws(y)
    more, other = recognised(flow, seen, (truths, classes[picks]), y, found)
    remarks = [f"digits: {calibrated(truths, y, found, effective)}"]
    if broken:
        wrong = calibrated(truths, y, *draws(y, 2.0))
        remarks.append(f"digits, noise variance off by 2: {wrong}")
    table = aligned(("what", "this suite", "beside it"), [*more, *rows])
    title = "Posteriors of held-out digits and wines"
    report("posteriors", title, [table, *remarks], [*other, *lines])


if __name__ == "__main__":
    main()
