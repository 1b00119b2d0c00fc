"""Posteriors of real data: half-hidden digits, and wines of which measurements are missing.

python -m benchmarks.posteriors [--digits=50] [--truths=0]

Digits: a network trained on four fifths of the 8x8 digits; of held-out ones the upper half is
measured with noise .1 (grey levels from -1 to 1). How long 200 draws of one take; what share of the
draws a classifier, trained on the same four fifths, gives the truth's class, beside what it says
of the upper half with the other pixels at their mean; on request TARP and ranks of held-out digits,
with the likelihood and with one whose noise variance is off by 2.

Wine: networks trained on 125 of the 178 wines; of the others about 3 of 13 numbers are hidden. How
often 90 % intervals hold them, and the rms error of posterior means in units of the columns' sds,
beside scikit-learn's IterativeImputer with Bayesian ridge regression.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (its import is the switch)
from sklearn.impute import IterativeImputer
from torch import Tensor

from benchmarks.common import NETWORKS, ROOT, Line, report
from dnnlib.util import aligned
from experiments.calibration.observations import calibrate
from flow import Flow, Posterior, load_flow, observe
from metrics import classifier
from torch_utils import seeding
from training.data.images import ImageSource

Rows = list[tuple[str, str, str]]
NOISE = 0.1
HOW: dict[str, Any] = {"solver": "ab3", "steps": 6}
UPPER = np.arange(64) < 32
DRAWS = 200
FEW = {"chains": 16, "draws": 4}  # of each of many digits
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


def posterior(
    flow: Flow, y: np.ndarray, n: int, seed: int, factor: float = 1.0, **more: Any
) -> Any:
    """Draws of a digit of which y [64] was measured; `factor` on the noise's variance."""
    seen = observe(y, noise=NOISE * math.sqrt(factor))
    return Posterior(flow, seen, **HOW).sample(n, seed=seed, method="hmc", **more)


def recognised(
    flow: Flow, seen: tuple[Tensor, Tensor], held: tuple[np.ndarray, np.ndarray], count: int
) -> tuple[Rows, list[Line]]:
    """Seconds for one digit's draws, and the share of draws that a classifier takes for the truth.

    Args:
        flow: the flow.
        seen: images and classes of the classifier.
        held: images and classes to hide half of.
        count: how many of them.
    """
    model = classifier.train(*seen, 10, epochs=40, seed=0)
    mean = seen[0].mean(0).flatten().numpy()

    def classes(x: np.ndarray) -> np.ndarray:
        return classifier.judge(
            model, torch.from_numpy(x).float().view(-1, 1, 8, 8)
        ).predicted.numpy()

    rng = seeding.generator(0, "measured")
    picks = np.arange(len(held[0]))[:: max(1, len(held[0]) // count)][:count]
    y = np.stack([measured(held[0][i], rng) for i in picks])
    began = time.monotonic()
    first = posterior(flow, y[0], DRAWS, 0)
    seconds = time.monotonic() - began
    shares, pictures = [], []
    torch.set_num_threads(1)  # of so few rows, threads make nothing faster
    flow.block = FEW["chains"]
    for k, i in enumerate(picks):
        draws = (first if k == 0 else posterior(flow, y[k], 64, k, **FEW)).x.numpy()
        shares.append(float((classes(draws) == held[1][i]).mean()))
        pictures.append(draws)
    guess = classes(np.where(UPPER, y, mean))
    whole = classes(held[0][picks])
    rows = [
        ("seconds for 200 draws of one digit, all cores", f"{seconds:.0f}", "120 allowed"),
        (f"classifier's share for the truth's class, {len(picks)} digits",
         f"{np.mean(shares):.3f} +- {np.std(shares) / math.sqrt(len(shares)):.3f}",
         f"{(whole == held[1][picks]).mean():.3f} of whole digits, "
         f"{(guess == held[1][picks]).mean():.3f} with the mean below"),
    ]  # fmt: skip
    np.savez(NETWORKS / "posteriors" / "draws.npz", y=y, truth=held[0][picks], first=pictures[0],
             few=np.stack(pictures[1:]), shares=shares)  # fmt: skip
    return rows, [Line("200 draws of a half-hidden digit", f"{seconds:.0f} s", "120 s allowed",
                       120 / seconds, 1.0)]  # fmt: skip


def calibrated(flow: Flow, truths: np.ndarray, factor: float) -> str:
    """TARP and ranks of held-out digits, [n, 64]."""

    def sample(y: np.ndarray, n: int, seed: int) -> Any:
        return posterior(flow, y, n, seed, factor, **FEW)

    def log_likelihood(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return -0.5 * np.square((x - y)[:, UPPER] / NOISE).sum(1)

    verdict = calibrate(truths, measured, sample, 16, log_likelihood=log_likelihood)
    return verdict.line()


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
@click.option("--digits", "count", default=50, help="held-out digits to recognise")
@click.option("--truths", default=0, help="held-out digits of TARP, each about a minute; 0: none")
def main(count: int, truths: int) -> None:
    """Measure, and write the table."""
    rows, lines = wine()
    flow, seen, held = digits()
    more, other = recognised(flow, seen, held, count)
    rows, lines = [*more, *rows], [*other, *lines]
    remarks = []
    if truths:
        rng = np.random.default_rng(1)
        x = held[0][rng.permutation(len(held[0]))[:truths]]
        noise = math.sqrt(float(flow.schedule.gamma0)) * flow.model.scale.numpy()
        x = x + noise * rng.standard_normal(x.shape)
        for factor, name in ((1.0, "the likelihood"), (2.0, "its noise variance off by 2")):
            remarks.append(f"digits, {name}: {calibrated(flow, x, factor)}")
    table = aligned(("what", "this suite", "beside it"), rows)
    report("posteriors", "Posteriors of held-out digits and wines", [table, *remarks], lines)


if __name__ == "__main__":
    main()
