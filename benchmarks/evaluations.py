"""Evaluations for equally good images: the paper's Heun-256 beside integrators in the angle.

One network on the digits for each schedule, the recipe of `make demo-images`. Every method carries
the same latents and classes; images are compared with real ones in the features of a classifier
(metrics.digit_quality: Frechet distance, not FID). A method is as good as Heun-256 if its mean
distance over the seeds of latents exceeds that of Heun-256 by at most the latter's sd over seeds.
The paper's Heun with fewer points stands beside, and so does the change of the images themselves.
Images are kept in out/bench/evaluations-images, so that the same command goes on when interrupted.

python -m benchmarks.evaluations [--seeds=3] [--images=359]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import NETWORKS, report
from benchmarks.image_round_trips import DATA, digits, script
from dnnlib.arrays import load_npz
from dnnlib.util import aligned, atomic_path
from flow.flow import Flow, load_flow
from flow.images import shape_of
from flow.latents import one_hot
from flow.method import Method, paper_method
from flow.numbered_images import block_classes
from metrics.digit_quality import NOISE, REAL, measure
from torch_utils import checkpoint
from training.data.images import ImageSource

RECIPE = [
    f"--data={DATA}", "--cond", "--cbase=24", "--cres=1,2", "--num_blocks=1", "--dropout=0",
    "--batch=32", "--lr=4e-3", "--lr_decay=cosine", "--lr_rampup=0.005", "--ema=0.008",
    "--duration=0.07", "--tick=10", "--t_sampling=arc", "--weighting=arc", "--seed=0",
    "--resume=latest", "--no-plot",
]  # fmt: skip
CASES = {
    "PRP": ["--dims_to_keep=64", "--tmax=6.51"],
    "PRR to 8, gap 1.02": ["--dims_to_keep=8", "--tmax=10.01"],
}
POINTS = 256  # of the paper's grid
FEWER = (17, 33, 65)  # points of the same grid
ANGLE = {"ab2": (4, 8, 16, 32, 64), "rk4": (2, 4, 8)}
PAPER = f"paper's Heun, {POINTS} points"
LEAST_RATIO = 16.0


@dataclass
class Found:
    """What a method gives.

    Attributes:
        evaluations: of the network, an image.
        distances: Frechet distance of the images of each seed, [seeds].
        confidence: of the classifier, mean.
        change: rms difference of its images from those of Heun-256 of the same latents, pixels.
    """

    evaluations: int
    distances: np.ndarray
    confidence: float
    change: float


def methods(flow: Flow) -> dict[str, Method]:
    """All methods, Heun-256 first."""
    tmax = flow.schedule.tmax
    found = {PAPER: paper_method(flow, "heun", "vp_ode", POINTS)}
    for n in FEWER:
        found[f"paper's Heun, {n} points"] = paper_method(flow, "heun", "vp_ode", n)
    for solver, steps in ANGLE.items():
        found |= {f"{solver}, {n} steps": Method(solver, n, tmax) for n in steps}
    return found


@torch.no_grad()
def images(flow: Flow, method: Method, count: int, seed: int) -> tuple[Tensor, int]:
    """Images of the latents of a seed, [count, C, H, W] in [-1, 1]; and evaluations an image."""
    own = range(seed * count, (seed + 1) * count)
    here = flow.given(one_hot(flow, block_classes(flow, own, None, None)))
    x = here.generate(here.latents(count, seed), coords="whitened", **method.how())
    return x.clamp(-1, 1).float().unflatten(1, shape_of(flow)), here.evaluations


def kept_images(
    folder: Path, name: str, flow: Flow, method: Method, count: int, seed: int
) -> tuple[Tensor, int]:
    """The same, from a file if they were made before."""
    path = folder / f"{name}-{count}-images-seed-{seed}.npz".replace(" ", "-")
    if path.exists():
        kept = load_npz(path)
        return torch.from_numpy(kept["images"]), int(kept["evaluations"])
    x, evaluations = images(flow, method, count, seed)
    with atomic_path(path) as temporary:
        np.savez(temporary, images=x.numpy(), evaluations=evaluations)
    return x, evaluations


def measured(source: Path, real: ImageSource, count: int, seeds: int) -> tuple[dict, dict]:
    """Generate with all methods; `Found` of each, and the rows of the yardsticks."""
    file = Path(checkpoint.find_network(source))
    flow = load_flow(file, "cpu")
    folder = NETWORKS / "evaluations-images" / hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    sets, evaluations = {}, {}
    todo = [(name, m, k) for name, m in methods(flow).items() for k in range(seeds)]
    for name, method, k in tqdm(todo, desc=flow.schedule.name):
        made = kept_images(folder, name, flow, method, count, k)
        sets[f"{name}|{k}"], evaluations[name] = made
    rows = measure(real, sets)["rows"]
    found = {}
    for name in evaluations:
        own = [rows[f"{name}|{k}"] for k in range(seeds)]
        changes = [sets[f"{name}|{k}"] - sets[f"{PAPER}|{k}"] for k in range(seeds)]
        found[name] = Found(
            evaluations[name],
            np.array([r["classifier_frechet_distance"] for r in own]),
            float(np.mean([r["mean_confidence"] for r in own])),
            127.5 * float(torch.stack(changes).square().mean().sqrt()),
        )
    return found, {name: rows[name] for name in (REAL, NOISE)}


def fewest(found: dict[str, Found], prefixes: tuple[str, ...]) -> tuple[str, Found] | None:
    """The method of fewest evaluations that is as good as Heun-256, as all dearer ones are too."""
    base = found[PAPER]
    limit = base.distances.mean() + base.distances.std(ddof=1)
    best = None
    for prefix in prefixes:
        own = [(n, f) for n, f in found.items() if n.startswith(prefix)]
        for name, f in sorted(own, key=lambda item: -item[1].evaluations):
            if f.distances.mean() > limit:
                break
            if best is None or f.evaluations < best[1].evaluations:
                best = name, f
    return best


def verdict(found: dict[str, Found], case: str) -> list[str]:
    """What was reached, of angle integrators and of the paper's own with fewer points."""
    base, lines = found[PAPER], []
    for label, prefixes in (("angle integrators", tuple(ANGLE)), ("the paper's Heun", ("paper",))):
        best = fewest(found, prefixes)
        if best is None:
            lines.append(f"{case}: none of {label} is as good as {PAPER}")
            continue
        name, f = best
        ratio = base.evaluations / f.evaluations
        met = f"; target {LEAST_RATIO:g}: {'met' if ratio >= LEAST_RATIO else 'missed'}"
        lines.append(
            f"{case}: {label}: {name}, {f.evaluations} evaluations instead of "
            f"{base.evaluations}: {ratio:.1f} times fewer{met if prefixes != ('paper',) else ''}"
        )
    return lines


def network(case: str) -> Path:
    """The folder of a case's network, trained if it is not there yet."""
    digits()
    folder = NETWORKS / f"evaluations-{case}".replace(" ", "-").replace(",", "")
    script("train.py", f"--outdir={folder}", *RECIPE, *CASES[case])
    return folder


@click.command()
@click.option("--seeds", type=click.IntRange(min=2), default=3, help="sets of latents")
@click.option("--images", "count", type=click.IntRange(min=10), default=359, help="a set")
@click.option("--network", "given", multiple=True, help="networks to take instead, one a case")
def main(seeds: int, count: int, given: tuple[str, ...]) -> None:
    """Train what is missing, measure, and write the table."""
    parts, verdicts = [], []
    for i, case in enumerate(CASES):
        source = Path(given[i]) if given else network(case)
        found, yardsticks = measured(source, ImageSource(DATA, use_labels=True), count, seeds)
        rows = [
            (name, f.evaluations, f"{f.distances.mean():.3f}", f"{f.distances.std(ddof=1):.3f}",
             f"{f.confidence:.3f}", f"{f.change:.2f}")
            for name, f in found.items()
        ]  # fmt: skip
        rows += [
            (name, "-", f"{r['classifier_frechet_distance']:.3f}", "-",
             f"{r['mean_confidence']:.3f}", "-")
            for name, r in yardsticks.items()
        ]  # fmt: skip
        header = ("method", "evaluations", "distance", "sd over seeds", "confidence",
                  "change from Heun-256, pixels")  # fmt: skip
        parts.append(f"{case}\n" + aligned(header, rows))
        verdicts += verdict(found, case)
        click.echo("\n".join([parts[-1], *verdicts]))
    title = f"Evaluations for equally good digits, {seeds} seeds of {count} images"
    report("evaluations", title, [*parts, "\n".join(verdicts)])


if __name__ == "__main__":
    main()
