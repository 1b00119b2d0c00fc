"""Evaluations for equally exact images: the paper's Heun beside integrators in the angle.

One network on the digits for each schedule, the recipe of `make demo-images`. Every method carries
the same latents and classes. What a method changes in an image is its rms difference from the image
of the same latent by a fine integration of the same flow (EXACT). The paper's grid ends at t = .01,
not at 0, which is part of its change. Beside it the Frechet distance to real images in the features
of a classifier (metrics.digit_quality, not FID), as the paired difference from that of EXACT, with
its standard error over seeds of latents: distances alone scatter more from seed to seed than the
methods differ. Images are kept in out/bench/evaluations-images, so that the same command goes on.

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
POINTS = (17, 33, 65, 256)  # of the paper's grid, which has 256
ANGLE = {"ab2": (4, 8, 16, 32, 64), "rk4": (2, 4, 8)}
PAPER = "paper's Heun"
EXACT = "rk4, 128 steps"


@dataclass
class Found:
    """What a method gives.

    Attributes:
        evaluations: of the network, an image.
        distances: Frechet distance of the images of each seed, [seeds].
        confidence: of the classifier, mean.
        change: rms difference of its images from those of EXACT of the same latents, grey levels.
    """

    evaluations: int
    distances: np.ndarray
    confidence: float
    change: float


def methods(flow: Flow) -> dict[str, Method]:
    """All methods, the exact one first."""
    tmax = flow.schedule.tmax
    found = {EXACT: Method("rk4", 128, tmax)}
    for n in POINTS:
        found[f"{PAPER}, {n} points"] = paper_method(flow, "heun", "vp_ode", n)
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
        changes = [sets[f"{name}|{k}"] - sets[f"{EXACT}|{k}"] for k in range(seeds)]
        found[name] = Found(
            evaluations[name],
            np.array([r["classifier_frechet_distance"] for r in own]),
            float(np.mean([r["mean_confidence"] for r in own])),
            127.5 * float(torch.stack(changes).square().mean().sqrt()),
        )
    return found, {name: rows[name] for name in (REAL, NOISE)}


def paired(f: Found, exact: Found) -> tuple[float, float]:
    """Mean difference of the distances over seeds, and its standard error."""
    d = f.distances - exact.distances
    return float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))


def verdict(found: dict[str, Found], case: str) -> list[str]:
    """For each of the paper's grids, the cheapest angle integrator that changes images no more."""
    lines = []
    ours = [(n, f) for n, f in found.items() if n.startswith(tuple(ANGLE)) and n != EXACT]
    for name, theirs in found.items():
        if not name.startswith(PAPER):
            continue
        enough = [item for item in ours if item[1].change <= theirs.change]
        if not enough:
            lines.append(f"{case}: nothing tried changes images as little as {name}")
            continue
        best, f = min(enough, key=lambda item: item[1].evaluations)
        lines.append(
            f"{case}: {name}: {theirs.evaluations} evaluations, {theirs.change:.2f} levels; "
            f"{best}: {f.evaluations}, {f.change:.2f}: {theirs.evaluations / f.evaluations:.1f} "
            "times fewer"
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
            (name, f.evaluations, f"{f.change:.2f}", f"{f.distances.mean():.3f}",
             "{:+.3f} +- {:.3f}".format(*paired(f, found[EXACT])), f"{f.confidence:.3f}")
            for name, f in found.items()
        ]  # fmt: skip
        rows += [
            (name, "-", "-", f"{r['classifier_frechet_distance']:.3f}", "-",
             f"{r['mean_confidence']:.3f}")
            for name, r in yardsticks.items()
        ]  # fmt: skip
        header = ("method", "evaluations", "rms change, grey levels", "distance",
                  "paired difference", "confidence")  # fmt: skip
        parts.append(f"{case}\n" + aligned(header, rows))
        verdicts += verdict(found, case)
        click.echo("\n".join([parts[-1], *verdicts]))
    title = f"Evaluations for equally exact digits, {seeds} seeds of {count} images"
    report("evaluations", title, [*parts, "\n".join(verdicts)])


if __name__ == "__main__":
    main()
