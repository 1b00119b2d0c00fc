"""Pictures of posteriors of data: densities, images, and how the sampler came there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.density_plot import COLOURS
from dnnlib.plot import MAX_POINTS, PLAIN, curve, image_grid, save_figure, subplots
from experiments.inference.observations import Observations, size_of
from flow.flow import Flow
from flow.images import shape_of
from flow.inference.operators import Separable
from training.data.images import to_pixels

MOST = 4  # observations drawn of vectors
SHOWN = 4  # values of a datum drawn against each other
ROWS, DRAWS = 12, 8  # of a grid of images
PRIOR = 2000  # draws of the prior behind a posterior
UNSEEN = 128  # grey of pixels that were not measured


def draw(
    folder: Path, flow: Flow, found: dict[str, np.ndarray], seen: Observations, method: str
) -> list[str]:
    """Draw all pictures, and name them."""
    names = ["path.png"]
    steps = found["path"][: min(MOST, len(found["path"]))]
    longest = int(np.isfinite(steps).sum(1).max())
    lines = {f"observation {i + 1}": row[:longest] for i, row in enumerate(steps)}
    label = "effective proposals" if method == "importance" else "share of the log likelihood"
    curve(folder / "path.png", np.arange(longest), lines, ("step", label), "Prior to posterior")
    if flow.images:
        pictures(folder / "images.png", flow, found, seen)
        return ["images.png", *names]
    prior = flow.sample(PRIOR, seed=0, steps=8).cpu().numpy()
    for i in range(min(MOST, len(found["x"]))):
        name = f"posterior-{i + 1}.png"
        density(folder / name, flow, found["x"][i], prior, seen, i)
        names.insert(i, name)
    return names


def density(
    path: Path, flow: Flow, x: np.ndarray, prior: np.ndarray, seen: Observations, i: int
) -> None:
    """Draws x [n, d] of one posterior over the prior [m, d], values against each other.

    Those not measured come first; lines are what was measured, a cross is the truth.
    """
    y = seen.y[i] if seen.y.shape[1] == x.shape[1] and seen.plain else np.full(x.shape[1], np.nan)
    chosen = np.argsort(np.isfinite(y), kind="stable")[:SHOWN]
    names = flow.columns or [f"x{j}" for j in range(x.shape[1])]
    chosen = np.sort(chosen) if len(chosen) <= 2 else chosen
    k, truth = len(chosen), None if seen.truth is None else seen.truth[i]
    size = (5.0, 4.6) if k <= 2 else (2.5 * k, 2.4 * k)
    rows = columns = 1 if k <= 2 else k
    figure, axes = subplots(rows, columns, figsize=size, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            ax = axes[row, column]
            a = chosen[column]
            b = chosen[row] if k > 2 else chosen[-1]
            if a == b:
                _single(ax, x[:, a], prior[:, a])
            elif row >= column:
                ax.scatter(*prior[:MAX_POINTS, [a, b]].T, s=2, color="0.8", linewidths=0)
                ax.scatter(*x[:MAX_POINTS, [a, b]].T, s=3, color=PLAIN, alpha=0.5, linewidths=0)
                _lines(ax.axhline, y[b])
                if truth is not None:
                    ax.plot(truth[a], truth[b], "+", color="black", ms=11, mew=2)
                ax.set_ylabel(names[b], fontsize=8)
            else:
                ax.axis("off")
                continue
            _lines(ax.axvline, y[a])
            ax.set_xlabel(names[a], fontsize=8)
            ax.tick_params(labelsize=7)
    lines = "; lines: measured" if np.isfinite(y[chosen]).any() else ""
    cross = "; cross: truth" if truth is not None and k > 1 else ""
    figure.suptitle(f"Observation {i + 1}: blue posterior, grey prior{lines}{cross}", fontsize=10)
    save_figure(figure, path)


def _single(ax: Any, values: np.ndarray, prior: np.ndarray) -> None:
    low, high = np.quantile(np.concatenate([prior, values]), [0.002, 0.998])
    edges = np.linspace(float(low), float(high), 50).tolist()
    ax.hist(prior, edges, density=True, color="0.85")
    ax.hist(values, edges, density=True, color=PLAIN, histtype="step", lw=1.4)
    ax.set_yticks([])


def _lines(line: Any, value: float) -> None:
    if np.isfinite(value):
        line(value, color=COLOURS[0], lw=1.2)


def pictures(path: Path, flow: Flow, found: dict[str, np.ndarray], seen: Observations) -> None:
    """A row of images an observation: measured, truth where known, mean, sd, draws."""
    shape = shape_of(flow)
    rows = []
    for i in range(min(ROWS, len(found["x"]))):
        x = found["x"][i]
        row = [measured_image(seen, i, shape)]
        if seen.truth is not None:
            row.append(to_pixels(torch.from_numpy(seen.truth[i]), shape)[0])
        row.append(to_pixels(torch.from_numpy(x.mean(0)), shape)[0])
        row.append(to_pixels(torch.from_numpy(2 * x.std(0) - 1), shape)[0])
        rows.append(np.stack([*row, *to_pixels(torch.from_numpy(x[:DRAWS]), shape)]))
    image_grid(path, np.concatenate(rows), len(rows[0]))


def measured_image(seen: Observations, i: int, shape: tuple[int, ...]) -> np.ndarray:
    """What was measured as an image of the network's size, [H, W, C]; grey where nothing was."""
    size = size_of(seen.operator, shape)
    if size is None:
        return np.full((*shape[1:], shape[0]), UNSEEN, np.uint8)
    y = np.where(np.isfinite(seen.y[i]), seen.y[i], 0.0)
    if seen.counts:
        y = 2 * y / max(float(y.max()), 1.0) - 1
    image = to_pixels(torch.from_numpy(y), size)[0]
    gaps = ~np.isfinite(seen.y[i]).reshape(size).transpose(1, 2, 0)
    image = np.where(gaps, UNSEEN, image).astype(np.uint8)
    if isinstance(seen.operator, Separable):
        image = image.repeat(shape[1] // size[1], 0).repeat(shape[2] // size[2], 1)
    return image
