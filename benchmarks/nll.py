"""Likelihood: error against the truth, what integrators and networks lose, and what it costs.

python -m benchmarks.nll [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import numpy as np
import torch

from benchmarks.common import Line, quick_option, report, trained
from dnnlib.util import aligned
from experiments.density.density import Settings, evaluate, true_log_density, true_model
from experiments.density.report import mean_and_error, on_grid
from flow.flow import Flow, ifs_times
from flow.likelihood import log_prob
from flow.steppers import PAPER_SOLVERS
from training.basis import Basis
from training.data.toys import ToySource
from training.network_file import build
from training.precond import FieldModel

NETWORKS = {
    "circles_sharp, PRP": "PRP",
    "circles_sharp, PRR to 1-D": "PRR to 1-D, rescaled",
    "gmm1d": "gmm1d",
}
QUICK = 2  # of them
SAMPLES = 4000
POINTS = 300  # for the integrators, whose error is the same for each sample
METHODS = [
    ("euler", 701), ("heun", 129), ("ab2", 31), ("ab3", 30), ("rk4", 8), ("rk4", 16),
    ("angle_heun", 64), ("ab3", 126), ("rk4", 32), ("rk4", 64),
]  # fmt: skip
PAPER, LEAST_FEWER = "euler-701", 10.0
REPEATS = 7
LIMIT = 0.03  # nats above the true entropy that trained networks may be


def set_of(name: str) -> str:
    """The toy set of a network."""
    return "gmm1d" if name == "gmm1d" else "circles_sharp"


def integrators(name: str, flow: Flow) -> tuple[str, Line]:
    """NLL error of the exact field by each method, against the exact density."""
    errors: dict[str, tuple[int, float]] = {}
    truth = true_model(flow, set_of(name))
    assert isinstance(truth, FieldModel)
    exact, rows, T = Flow(truth), [], flow.schedule.tmax
    x = ToySource(set_of(name)).samples(1, 0, POINTS)
    for solver, steps in METHODS:
        times = ifs_times(steps, T / steps) if solver in PAPER_SOLVERS else None
        exact.evaluations = 0
        how: dict[str, Any] = {"solver": solver, "steps": steps, "times": times}
        found = log_prob(exact, x, **how).value.numpy()
        error = found - true_log_density(truth, x.numpy())
        errors[f"{solver}-{steps}"] = exact.evaluations, float(np.abs(error).mean())
        rows.append((f"{solver}-{steps}", exact.evaluations, f"{abs(error.mean()):.1e}",
                     f"{np.abs(error).mean():.1e}"))  # fmt: skip
    header = ("method", "evaluations", "error of the mean NLL", "mean error of a sample")
    calls, most = errors[PAPER]
    best = min((m for m in errors if errors[m][1] <= most), key=lambda m: errors[m])
    line = Line(
        f"{name}: evaluations for errors no larger than the paper's", f"{errors[best][0]} ({best})",
        f"Euler {calls} ({most:.0e} nats)", calls / errors[best][0], LEAST_FEWER,
    )  # fmt: skip
    return f"{name}: exact field, nats\n" + aligned(header, rows), line


def part_of(x: torch.Tensor, block: range) -> torch.Tensor:
    """A range of samples."""
    return x[block.start : block.stop]


def networks(names: list[str]) -> tuple[str, list[Line]]:
    """How far trained networks are from the truth."""
    rows, lines = [], []
    for name in names:
        recipe = NETWORKS[name]
        flow, _ = trained(recipe)
        settings = Settings(seed=1, times=32, how={"solver": "rk4", "steps": 32})
        x = ToySource(set_of(name)).samples(1, 0, SAMPLES)
        found = evaluate(flow, partial(part_of, x), SAMPLES, settings)
        truth = true_model(flow, set_of(name))
        assert found is not None
        assert truth is not None
        true = -true_log_density(truth, found.points)
        excess = mean_and_error(-found.column("log_prob") - true)
        bound = mean_and_error(found.bound)
        grid = on_grid(flow, found.points, Settings(how={"steps": 16}), truth)
        assert grid is not None
        rows.append((
            name, f"{true.mean():.4f}", f"{excess['mean']:.4f} +- {excess['standard_error']:.4f}",
            f"{bound['mean']:.4f} +- {bound['standard_error']:.4f}",
            f"{grid['told']['total_variation_from_truth']:.4f}",
            "yes" if excess["mean"] <= LIMIT else "NO",
        ))  # fmt: skip
        lines.append(Line(f"{name}: excess over the true entropy, nats", f"{excess['mean']:.4f}",
                          f"bound {LIMIT:g}", LIMIT / max(excess["mean"], 1e-4), 1.0))  # fmt: skip
    header = ("network", "true NLL", "excess of the ODE", "SDE bound", "total variation",
              f"excess <= {LIMIT}")  # fmt: skip
    return f"Trained networks, {SAMPLES} noisy samples, nats\n" + aligned(header, rows), lines


def unet_flow(resolution: int) -> tuple[Flow, torch.Tensor]:
    """A small U-Net with random weights, and a block of data for it."""
    d = 3 * resolution**2
    one = torch.ones(d, dtype=torch.float64)
    basis = Basis(0 * one, one, one, torch.eye(d, dtype=torch.float64))
    network = {"class": "SongUNet", "kwargs": {
        "img_resolution": resolution, "in_channels": 3, "out_channels": 3, "model_channels": 16,
        "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
    }}  # fmt: skip
    shape = [3, resolution, resolution]
    model = build(network, {"dims_to_keep": d}, basis, {"space": "ES", "shape": shape})
    x = torch.randn(16, d, generator=torch.Generator().manual_seed(0)).double()
    return Flow(model.eval().requires_grad_(False)), x


def seconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median time of each, taken in turn so that a busy machine slows all alike."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for k in range(REPEATS + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if k:  # the first warms up
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def costs() -> tuple[str, list[Line]]:
    """Cost of log_prob beside plain inflation with as many evaluations."""
    toy, _ = trained("PRP")
    cases = {
        "ToyMLP, d = 2, 2,048 samples": (toy, ToySource("circles_sharp").samples(0, 0, 2048), True),
        "U-Net, 3 x 16 x 16, 16 samples": (*unet_flow(16), False),
    }
    rows, lines = [], []
    for name, (flow, x, small) in cases.items():
        density = partial(log_prob, flow, x, steps=2)
        works: dict[str, Callable[[], object]] = {
            "inflation": partial(flow.inflate, x, steps=2),
            "hutchinson": partial(density, trace="hutchinson"),
            "hutchinson, 4 probes": partial(density, trace="hutchinson", probes=4),
        }
        if small:
            works["exact"] = partial(density, trace="exact")
        taken = seconds(works)
        rows += [
            (name, kind, f"{t / 8 / len(x) * 1e6:.1f}", f"{t / taken['inflation']:.2f}")
            for kind, t in taken.items()
        ]
        kind = "exact" if small else "hutchinson"
        lines.append(Line(
            f"log density ({kind} trace) of {name}, us an evaluation",
            f"{taken[kind] / 8 / len(x) * 1e6:.1f}",
            f"plain inflation {taken['inflation'] / 8 / len(x) * 1e6:.1f}",
            taken["inflation"] / taken[kind],
        ))  # fmt: skip
    header = ("network", "what", "microseconds a sample and evaluation", "over plain inflation")
    return "Cost (median of runs taken in turn)\n" + aligned(header, rows), lines


@click.command()
@quick_option
def main(quick: bool) -> None:
    """Measure and write the tables."""
    names = list(NETWORKS)[: QUICK if quick else None]
    tables = [integrators(name, trained(NETWORKS[name])[0]) for name in names]
    excess, lines = networks(names)
    cost, more = costs()
    parts = [*(t for t, _ in tables), excess, cost]
    report("nll", "Likelihood", parts, [*(x for _, x in tables), *lines, *more], quick)


if __name__ == "__main__":
    main()
