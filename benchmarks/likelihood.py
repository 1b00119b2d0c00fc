"""Bits a dimension of digits by how the flow was trained, and how noisy the gradient is.

All networks see the same number of images, from the same 1,500 digits and in the same order, at
noise levels of the same range (--precond=vp_velocity); what is measured are the 297 digits that
none has seen. All densities take the same dequantization noise and probes, so that differences
between networks are known better than their values.

python -m benchmarks.likelihood [--kimg=60]
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import NETWORKS, report
from benchmarks.image_round_trips import digits, script
from dnnlib.arrays import load_npz
from dnnlib.util import aligned, run_dirs
from flow.flow import Flow, load_flow
from torch_utils.checkpoint import find_network
from training.batches import Batches
from training.data.images import ImageSource
from training.loss import flow_loss
from training.precond import InflationPrecond
from training.times import LikelihoodWeighting, Times

FOLDER = NETWORKS / "likelihood"
TRAINED_ON, HELD_OUT = 1500, 297
RECIPE = [
    "--precond=vp_velocity", "--cbase=24", "--cres=1,2", "--num_blocks=1", "--dropout=0.1",
    "--batch=32", "--lr_decay=cosine", "--lr_rampup=0.005", "--ema=0.004", "--tick=10", "--seed=0",
    "--no-plot",
]  # fmt: skip
BASE = "edm weighted"
IMPORTANCE = "likelihood weighted, importance sampling"
SECOND = "the same, its last fifth with second order"
CONTROL = "the same, its last fifth alike, without second order"
CASES = {
    BASE: ["--weighting=edm", "--no-importance", "--t_sampling=uniform"],
    "likelihood weighted": ["--weighting=likelihood", "--no-importance"],
    IMPORTANCE: ["--weighting=likelihood", "--importance"],
}
SECOND_SHARE = 0.2  # of the images, for fine-tuning
RATE, SECOND_RATE = "--lr=4e-3", "--lr=1e-3"
BATCH, BATCHES = 32, 200  # for the gradient
TMIN = 1e-7  # the default of training
GOAL = 2.0  # that importance sampling should divide variances by


def split() -> tuple[Path, Path]:
    """Zips of the digits to train on and of those held out."""
    paths = FOLDER / "train-8x8.zip", FOLDER / "test-8x8.zip"
    with zipfile.ZipFile(digits()) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".png"))
        order = np.random.default_rng(0).permutation(len(names))
        for path, rows in zip(paths, np.split(order, [TRAINED_ON]), strict=True):
            if path.exists():
                continue
            source = FOLDER / path.stem
            source.mkdir(parents=True, exist_ok=True)
            for i in sorted(rows):
                (source / Path(names[i]).name).write_bytes(archive.read(names[i]))
            script("dataset_tool.py", f"--source={source}", f"--dest={path}", "--no-plot")
    return paths


def train(name: str, data: Path, kimg: float, options: list[str]) -> Path:
    """The folder of a run, which goes on if it was begun."""
    folder = FOLDER / f"{name.replace(',', '').replace(' ', '-')}-{kimg:g}"
    if run_dirs(folder):
        options = ["--resume=latest"]
    script(
        "train.py", f"--outdir={folder}", f"--data={data}", f"--duration={kimg / 1000:g}",
        *RECIPE, *options,
    )  # fmt: skip
    return folder


def train_all(data: Path, kimg: float) -> dict[str, Path]:
    """Folders of all cases, at equal numbers of images."""
    runs = {case: train(case, data, kimg, [RATE, *how]) for case, how in CASES.items()}
    rest = SECOND_SHARE * kimg
    start = find_network(train("first part", data, kimg - rest, [RATE, *CASES[IMPORTANCE]]))
    tuning = [SECOND_RATE, *CASES[IMPORTANCE], f"--transfer={start}"]
    runs[SECOND] = train("second order", data, rest, [*tuning, "--second_order"])
    runs[CONTROL] = train("continued", data, rest, tuning)
    return runs


def bits(network: Path, data: Path) -> np.ndarray:
    """Bits a dimension of each held-out image, truncated-normal dequantization, [n]."""
    folder = network / "nll"
    script(
        "calc_nll.py", "net", f"--network={network}", f"--save_dir={folder}", f"--data_root={data}",
        f"--total_samples={HELD_OUT}", "--dequantization=tn", "--solver=ab3", "--steps=30",
        "--no-plot",
    )  # fmt: skip
    (found,) = folder.glob("*_nll.npz")
    return -load_npz(found)["log_prob"] / (64 * np.log(2))


@dataclass
class Spread:
    """Means and variances of the likelihood loss and its gradient.

    Attributes:
        losses: mean and variance of one sample's loss.
        gradient: mean over batches, [weights].
        variance: of a batch's gradient, summed over weights.
    """

    losses: tuple[float, float]
    gradient: Tensor
    variance: float


def spread(flow: Flow, data: Path, drawn: bool) -> Spread:
    """Of the loss with times drawn in proportion to its weight, or uniformly."""
    model, source = flow.model, ImageSource(str(data), use_labels=False)
    assert isinstance(model, InflationPrecond)
    how = "likelihood" if drawn else "uniform"
    times = Times(model.schedule, how, "likelihood", TMIN)
    batches = Batches(source, int(drawn), BATCH, torch.device("cpu"), model.W.dtype)
    parameters = [p.requires_grad_() for p in model.parameters()]
    total, squares, losses = torch.zeros(1, dtype=torch.float64), 0.0, []
    for i in range(BATCHES):
        x, noise, _ = batches.piece(i * BATCH, range(BATCH))
        t = times.batch(int(drawn), i * BATCH, BATCH)
        loss = flow_loss(model, x, t, noise, times.weights(t)).mean(1)
        found = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
        gradient = torch.cat([g.flatten().double() for g in found if g is not None])
        total = total + gradient
        squares += float(gradient.square().sum())
        losses.append(loss.detach().double())
    mean, all_losses = total / BATCHES, torch.cat(losses)
    variance = (squares - BATCHES * float(mean.square().sum())) / (BATCHES - 1)
    return Spread((float(all_losses.mean()), float(all_losses.var())), mean, variance)


def spread_rows(networks: dict[str, Path], data: Path) -> list[tuple]:
    """Lines of the table of variances."""
    rows = []
    for name, network in networks.items():
        flow = load_flow(network)
        uniform, drawn = (spread(flow, data, d) for d in (False, True))
        pairs = {
            "loss of a sample": (uniform.losses[1], drawn.losses[1]),
            "gradient of a batch": (uniform.variance, drawn.variance),
        }
        apart = {
            "loss of a sample": (uniform.losses[0] - drawn.losses[0]) ** 2
            / (sum(pairs["loss of a sample"]) / (BATCH * BATCHES)),
            "gradient of a batch": float((uniform.gradient - drawn.gradient).square().sum())
            / (sum(pairs["gradient of a batch"]) / BATCHES),
        }
        for what, (loud, quiet) in pairs.items():
            ratio = loud / quiet
            met = "yes" if ratio >= GOAL else "NO"
            rows.append((name, what, f"{loud:.3g}", f"{quiet:.3g}", f"{ratio:.2f}", met,
                         f"{apart[what]:.2f}"))  # fmt: skip
    return rows


def largest_ratio(flow: Flow) -> float:
    """What the gradient's variance can fall by at most: E[w^2 s] / (E[w] E[w s]) for any s >= 0.

    That is max w / E[w] over uniform times, w being the likelihood's weight.
    """
    t = torch.linspace(TMIN, flow.schedule.tmax, 4097)
    weight = LikelihoodWeighting(flow.schedule, TMIN).weights(t, False)
    return float(weight.max() / weight.mean())


def nll_rows(networks: dict[str, Path], data: Path) -> list[tuple]:
    """Lines of the table of likelihoods."""
    values = {name: bits(network, data) for name, network in networks.items()}

    def with_error(v: np.ndarray) -> str:
        return f"{v.mean():.4f} +- {v.std(ddof=1) / len(v) ** 0.5:.4f}"

    return [
        (name, with_error(v), "" if name == BASE else with_error(v - values[BASE]),
         f"{v.mean() / values[BASE].mean():.3f}")
        for name, v in values.items()
    ]  # fmt: skip


@click.command()
@click.option("--kimg", type=float, default=60.0, help="training images of each network, thousands")
def main(kimg: float) -> None:
    """Train what is missing, measure, and write the tables."""
    learn, held = split()
    networks = train_all(learn, kimg)
    first = ("training", "bits/dim", "above edm weighted", "ratio")
    second = (
        "network", "variance of", "uniform times", "importance", "ratio", f">= {GOAL:g}",
        "means apart",
    )  # fmt: skip
    start = train("one batch", learn, BATCH / 1000, [RATE, *CASES[IMPORTANCE]])
    some = {"almost untrained": start, "trained": networks[IMPORTANCE]}
    bound = largest_ratio(load_flow(networks[IMPORTANCE]))
    parts = [
        f"{HELD_OUT} held-out digits (8x8, 17 of 256 grey levels), {kimg:g} thousand images in\n"
        "training, one run each\n" + aligned(first, nll_rows(networks, held)),
        f"Likelihood loss and its gradient, {BATCHES} batches of {BATCH}, noise levels from\n"
        "log SNR 13.3 to -5\n" + aligned(second, spread_rows(some, learn)),
        "Errors are standard errors over images, not over trainings. 'Means apart' is the squared\n"
        "distance of the two means over what is expected if both estimate the same: 1.\n"
        "Where the variance comes from single samples, as a gradient's does, importance sampling\n"
        f"cannot divide it by more than the largest weight over the mean weight, {bound:.3f}\n"
        "here, whatever the network: the weight is 1 over most of these noise levels.\n"
        "Estimates of the gradient's variance scatter, few samples of little noise carry most.",
    ]
    report("likelihood", "Maximum likelihood training", parts)


if __name__ == "__main__":
    main()
