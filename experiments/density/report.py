"""What a likelihood run says, writes and draws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib import density_plot, plot
from dnnlib.results import Measured
from dnnlib.util import Json
from experiments.density.density import (
    Evaluation,
    Settings,
    log_density_on,
    true_log_density,
    true_model,
)
from experiments.density.gaussianity import Gaussianity, gaussianity
from flow.arguments import VolumeHow
from flow.exact import MixtureField
from flow.flow import Flow
from flow.likelihood import log_prob
from flow.method import Method
from flow.results import Record
from flow.steppers import SOLVERS

CURVE, MAP = 2001, 120  # points of a density picture, 1-D and a side of 2-D
WORST = 4  # dimensions of the latent picture


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """Mean of values [n] and its standard error."""
    n = len(values)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return {"mean": float(values.mean()), "standard_error": error}


def summarise(found: Evaluation, flow: Flow, latents: Gaussianity) -> Json:
    """Plain values of the results: nats a sample and bits a dimension, ODE and SDE, latents."""
    d = flow.schedule.data_dim
    bit = d * math.log(2)
    nll, bound = -found.column("log_prob"), found.bound
    told: Json = {
        "samples": len(nll),
        "dimensions": d,
        "nll_nats": mean_and_error(nll),
        "bits_per_dim": mean_and_error(nll / bit),
        "evaluations_per_sample": found.evaluations,
    }
    trace = found.column("standard_error")
    if np.isfinite(trace).all():
        told["trace_standard_error_nats"] = float(np.sqrt((trace**2).mean()))
    if np.isfinite(bound).all():
        told["sde_nll_nats"] = mean_and_error(bound)
        told["sde_bits_per_dim"] = mean_and_error(bound / bit)
        told["sde_parts_nats"] = {
            k: float(found.column(k).mean()) for k in ("prior", "diffusion", "rest")
        }
    told["latents"] = latents.summary(flow.schedule.dims_to_keep)
    return told


def integration_error(flow: Flow, x: Tensor, method: Method, settings: Settings) -> dict | None:
    """Change of the log density of pilots x [n, d] with twice the steps; None if steps adapt."""
    if method.times is not None or SOLVERS[method.solver]().order is None:
        return None
    coarse = log_prob(flow, x, **settings.asked()).value
    finer: VolumeHow = {**settings.asked(), "steps": 2 * method.steps}
    fine = log_prob(flow, x, **finer).value
    change = coarse - fine
    return {"mean_nats": float(change.mean()), "rms_nats": float(change.square().mean().sqrt())}


def against_truth(found: Evaluation, truth: MixtureField) -> Json:
    """NLL under the true density at the same points, and the flow's excess (a divergence)."""
    true = -true_log_density(truth, found.points)
    nll = -found.column("log_prob")
    return {
        "true_nll_nats": float(true.mean()),
        "excess_over_truth_nats": mean_and_error(nll - true),
    }


def finish(
    record: Record,
    flow: Flow,
    found: Evaluation,
    told: Json,
    arrays: dict[str, np.ndarray],
    nats: bool,
    draw: bool,
    grid: Json | None = None,
) -> None:
    """Summarise and warn, and write .json, .npz and pictures; for rank 0.

    Args:
        record: of the run.
        flow: the flow.
        found: results.
        told: further results.
        arrays: further arrays of the .npz.
        nats: whether values are shown in nats or in bits a dimension.
        draw: whether to draw.
        grid: density to draw, from `on_grid`; None to draw the samples' values.
    """
    stem, keep = record.path.with_suffix(""), flow.schedule.dims_to_keep
    latents = gaussianity(found.latents)
    results = summarise(found, flow, latents) | told | (grid["told"] if grid else {})
    warning = latents.warning(keep)
    results["warnings"] = [*flow.schedule.warnings(), *([warning] if warning else [])]
    columns = {"log_prob": found.column("log_prob"), "latents": found.latents.astype(np.float32)}
    for name in ("standard_error", "prior", "diffusion", "rest"):
        if np.isfinite(found.column(name)).all():
            columns[name] = found.column(name)
    record.save(f"{stem}.npz", {**columns, **arrays})
    if draw:
        title = stem.name.removesuffix("_nll")
        draw_latents(found, latents, Path(f"{stem}_latents.png"), keep)
        if grid is None:
            draw_values(found, nats, Path(f"{stem}_values.png"), title)
        else:
            draw_density(flow, found.points, grid, Path(f"{stem}_density.png"), title)
    nll, error = results["nll_nats"]["mean"], results["nll_nats"]["standard_error"]
    truth = results.get("true_nll_nats")
    figures = [Measured("NLL", nll, "nats", error, truth, "true density" if truth else "")]
    record.finish(results, f"{stem}*", "Likelihood", figures)
    for note in results["warnings"]:
        print(f"Warning: {note}", flush=True)
    if warning and draw:
        print(f"See {stem}_latents.png", flush=True)
    print(headline(results, nats), flush=True)


def headline(results: Json, nats: bool) -> str:
    """One line: the figure that was asked for."""
    key, unit = ("nll_nats", "nats") if nats else ("bits_per_dim", "bits/dim")
    value = results[key]
    line = f"NLL {value['mean']:.4f} +- {value['standard_error']:.4f} {unit}"
    other = results.get(f"sde_{key}")
    return line + (
        f"; SDE bound {other['mean']:.4f} +- {other['standard_error']:.4f}" if other else ""
    )


def draw_latents(found: Evaluation, latents: Gaussianity, path: Path, dims_to_keep: int) -> None:
    """The least Gaussian dimensions of the latents under the normal density."""
    columns = {}
    for i in latents.worst[:WORST]:
        group = "kept" if i < dims_to_keep else "compressed"
        columns[f"dimension {i} ({group}): KS {latents.ks[i]:.3f}"] = found.latents[:, i]
    density_plot.latent_histograms(path, columns, "Whitened latents and N(0, 1), worst first")


def density_grid(points: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """A regular grid over data [n, d], d = 1 or 2: its axes, and its points [m^d, d]."""
    low, high = np.quantile(points, [0.0005, 0.9995], axis=0)
    middle, half = (low + high) / 2, 0.62 * (high - low)
    if points.shape[1] == 2:
        half = np.full(2, half.max())  # a square, so that pictures are not distorted
    size = CURVE if points.shape[1] == 1 else MAP
    axes = [np.linspace(m - h, m + h, size) for m, h in zip(middle, half, strict=True)]
    mesh = np.meshgrid(*axes, indexing="ij")
    return axes, np.stack([m.ravel() for m in mesh], axis=1)


def on_grid(
    flow: Flow, points: np.ndarray, settings: Settings, truth: MixtureField | None
) -> Json | None:
    """Densities of the flow and, where known, the truth on a grid over data; every rank computes.

    Args:
        flow: the flow.
        points: data, [n, d], the same on every rank.
        settings: of the evaluation.
        truth: see `density.true_model`.

    Returns:
        on rank 0 axes, flow density, true density or None, each of the grid's shape, and their
        comparison; elsewhere None.
    """
    axes, where = density_grid(points)
    log_density = log_density_on(flow, torch.from_numpy(where), replace(settings, trace="exact"))
    if log_density is None:
        return None
    shape = tuple(len(a) for a in axes)
    cell = float(np.prod([a[1] - a[0] for a in axes]))
    density = np.exp(log_density).reshape(shape)
    told = {"mass_on_grid": float(density.sum() * cell)}
    true = None
    if truth is not None:
        true = np.exp(true_log_density(truth, where)).reshape(shape)
        told["total_variation_from_truth"] = float(0.5 * np.abs(density - true).sum() * cell)
    return {"axes": axes, "density": density, "true": true, "told": told}


def draw_density(flow: Flow, data: np.ndarray, grid: Json, path: Path, title: str) -> None:
    """Density of the flow beside data, samples and the true density, 1-D or 2-D."""
    made = flow.sample(len(data), seed=0, solver="rk4", steps=16).cpu().numpy()
    if data.shape[1] == 1:
        curves = {"flow density (ODE)": grid["density"]}
        if grid["true"] is not None:
            curves["true density"] = grid["true"]
        samples = {"data": data[:, 0], "samples (ODE)": made[:, 0]}
        density_plot.density_1d(path, grid["axes"][0], curves, samples, title)
        return
    maps = {"flow density": grid["density"].T}
    if grid["true"] is not None:
        maps["true density"] = grid["true"].T
    (x, y) = grid["axes"]
    limits = (x[0], x[-1], y[0], y[-1])
    density_plot.density_2d(path, limits, {"data": data, "samples": made}, maps, title)


def draw_values(found: Evaluation, nats: bool, path: Path, title: str) -> None:
    """A histogram of the samples' values."""
    nll = -found.column("log_prob")
    if not nats:
        nll = nll / (found.points.shape[1] * math.log(2))
    unit = "nats" if nats else "bits/dim"
    plot.histogram(path, nll, f"negative log likelihood of a sample, {unit}", title)


def known_truth(flow: Flow, source: Any) -> MixtureField | None:
    """`density.true_model` of a toy source; None for other data."""
    description = source.description()
    if description.get("kind") != "toy" or "augment_to" in description:
        return None
    return true_model(flow, description["name"])
