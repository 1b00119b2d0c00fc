"""Pictures of flows. NumPy arrays in, one file out, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dnnlib.util import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 4000
UNLIKE = 4.0  # times the span of another axis
PLAIN = "#1f5f8b"
BORDER = 96  # grey between images, neither paper nor ink


def subplots(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options: Any
) -> tuple[Figure, Any]:
    """A figure that no window system, and nothing set for pyplot, has to do with; and its axes.

    Args:
        rows, columns: of the axes.
        figsize: inches.
        options: of matplotlib's Figure.subplots.
    """
    # Slow to import, for a command that may draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 120) -> None:
    """Write a figure, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", facecolor="white")


def hues(points: np.ndarray) -> np.ndarray:
    """A colour value in [0, 1] for each point [n, d], by which it is recognised in other panels."""
    x = points - points.mean(0)
    if x.shape[1] == 1:
        return np.argsort(np.argsort(x[:, 0])) / max(len(x) - 1, 1)
    return (np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi)) % 1.0


def scatter(ax: Any, points: np.ndarray, colour: np.ndarray | None, limits: np.ndarray) -> None:
    """Draw points [n, d] into axes of ranges `limits_of`: a histogram (d = 1) or a scatter."""
    points = points[:MAX_POINTS]
    style: dict = {"s": 2.0, "linewidths": 0}
    if colour is None:
        style["color"] = PLAIN
    else:
        style |= {"c": colour[:MAX_POINTS], "cmap": "hsv", "vmin": 0, "vmax": 1}
    if points.shape[1] == 1:
        ax.hist(points[:, 0], bins=100, range=tuple(limits[0]), color=PLAIN, density=True)
        ax.set_yticks([])
    else:
        ax.scatter(*points[:, :3].T, **style)
        if points.shape[1] > 2:
            ax.view_init(elev=18, azim=-70)
            ax.locator_params(nbins=5)
    fit_axes(ax, limits)


def limits_of(*clouds: np.ndarray, own: bool | None = False) -> np.ndarray:
    """Ranges of axes, [k, 2], that hold all but stray points of clouds [n, d]; k = min(d, 3).

    Args:
        clouds: points.
        own: give each axis a range of its own, as columns of unlike units need, in place of one
            range around zero for all; None: where one range would make some a line or a dot.
    """
    quantiles = [np.quantile(c[:, :3], (0.0005, 0.9995), axis=0) for c in clouds]
    low, high = np.min([q[0] for q in quantiles], 0), np.max([q[1] for q in quantiles], 0)
    spans = high - low
    if own is None:
        own = bool(spans.max() > UNLIKE * spans.min() or np.abs(low + high).max() > 2 * spans.max())
    if own:
        return np.stack([low, high], 1) + np.outer(0.05 * spans + 1e-12, [-1, 1])
    limit = 1.1 * max(np.quantile(np.abs(c[:, :3]), 0.9995) for c in clouds) + 1e-12
    return np.tile([-limit, limit], (len(spans), 1))


def fit_axes(ax: Any, limits: np.ndarray) -> None:
    """Give axes their ranges [k, 2]; two alike are drawn to one scale."""
    for axis, (low, high) in zip("xyz", limits.tolist(), strict=False):
        getattr(ax, f"set_{axis}lim")(low, high)
    if len(limits) == 2 and np.array_equal(limits[0], limits[1]):
        ax.set_aspect("equal")


def panels_in_a_row(n: int, d: int, size: float) -> tuple[Figure, list[Any]]:
    """A figure and its n square panels of `size` inches, with three axes if d > 2."""
    kind = {"projection": "3d"} if d > 2 else {}
    figure, axes = subplots(1, n, figsize=(size * n, size), subplot_kw=kind, squeeze=False)
    return figure, list(axes[0])


def panels(
    path: str | os.PathLike,
    clouds: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    title: str = "",
    own: Collection[str] = (),
) -> None:
    """A row of scatter plots.

    Args:
        path: .png to write.
        clouds: caption -> (points [n, d], colours [n] or None). More than 3 dimensions are drawn
            by their first 3.
        title: above the row.
        own: captions of those whose axes have units, and so ranges, of their own.
    """
    d = next(iter(clouds.values()))[0].shape[1]
    figure, axes = panels_in_a_row(len(clouds), d, 3.4)
    for ax, (caption, (points, colour)) in zip(axes, clouds.items(), strict=True):
        scatter(ax, points, colour, limits_of(points, own=caption in own))
        ax.set_title(caption, fontsize=10)
        ax.tick_params(labelsize=7)
    figure.suptitle(title + (f" (first 3 of {d} dimensions)" if d > 3 else ""), fontsize=11)
    save_figure(figure, path)


def strip(
    path: str | os.PathLike,
    states: np.ndarray,
    times: np.ndarray,
    colour: np.ndarray,
    title: str,
    own: bool = False,
) -> None:
    """States of a trajectory, equally spaced in steps, side by side.

    Args:
        path: .png to write.
        states: [k, n, d].
        times: time of each state, [k].
        colour: of each point, [n].
        title: above the strip.
        own: give each axis a range of its own.
    """
    picks = np.unique(np.linspace(0, len(states) - 1, 7).round().astype(int))
    figure, axes = panels_in_a_row(len(picks), states.shape[2], 2.2)
    for ax, k in zip(axes, picks, strict=True):
        scatter(ax, states[k], colour, limits_of(states[k], own=own))
        ax.set_title(f"t = {times[k]:.2f}", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
        if states.shape[2] > 2:
            ax.set_zticks([])
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def animate(
    path: str | os.PathLike,
    states: np.ndarray,
    times: np.ndarray,
    colour: np.ndarray,
    title: str,
    own: bool = False,
) -> None:
    """The same trajectory as an animated GIF, there and back; arguments of `strip`."""
    figure, (ax,) = panels_in_a_row(1, states.shape[2], 4.0)
    figure.set_dpi(80)
    canvas: Any = figure.canvas
    limits = limits_of(*states, own=own)
    frames = []
    for state, t in zip(states, times, strict=True):
        ax.clear()
        scatter(ax, state[:1500], colour[:1500], limits)
        ax.set_title(f"{title}, t = {t:.2f}", fontsize=10)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))
    film = [frame.quantize(64) for frame in frames]
    film += film[-2:0:-1]
    with atomic_path(path) as temporary:
        film[0].save(temporary, save_all=True, append_images=film[1:], duration=70, loop=0)


def curve(
    path: str | os.PathLike,
    x: np.ndarray,
    lines: Mapping[str, np.ndarray],
    labels: tuple[str, str],
    title: str = "",
    ylim: tuple[float, float] | None = None,
) -> None:
    """Curves over a common x.

    Args:
        path: .png to write.
        x: abscissa, [n].
        lines: legend -> ordinates, [n].
        labels: of the two axes.
        title: above the axes.
        ylim: range of the ordinate; None for that of the curves.
    """
    figure, ax = subplots(figsize=(5.2, 3.4))
    for name, y in lines.items():
        ax.plot(x, y, label=name, lw=1.5, marker="o" if len(x) < 3 else None)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.set_title(title, fontsize=11)
    if ylim is not None:
        ax.set_ylim(*ylim)
    ax.grid(alpha=0.3)
    if len(lines) > 1:
        ax.legend(fontsize=8)
    save_figure(figure, path)


def histogram(path: str | os.PathLike, values: np.ndarray, label: str, title: str = "") -> None:
    """A histogram.

    Args:
        path: .png to write.
        values: [n].
        label: of the abscissa.
        title: above the axes.
    """
    figure, ax = subplots(figsize=(5.2, 3.4))
    ax.hist(values, bins=min(60, max(10, len(values) // 20)), color=PLAIN)
    ax.set_xlabel(label)
    ax.set_ylabel("count")
    ax.set_title(title, fontsize=11)
    save_figure(figure, path)


def plot_loss(stats: str | os.PathLike, path: str | os.PathLike) -> None:
    """The loss over training, from stats.jsonl."""
    records = [json.loads(line) for line in Path(stats).read_text().splitlines()]
    records = [r for r in records if "loss" in r]  # of a tick whose steps were all skipped
    if not records:
        return
    kimg = np.array([r["kimg"] for r in records])
    loss = np.array([r["loss"] for r in records])
    smooth = np.array([np.median(loss[max(0, i - 4) : i + 5]) for i in range(len(loss))])
    lines = {"each tick": loss, "running median": smooth} if len(loss) > 4 else {"loss": loss}
    curve(path, kimg, lines, ("kimg", "loss |F - F*|²"), "Training loss")


def image_grid(path: str | os.PathLike, images: np.ndarray, columns: int) -> None:
    """Images side by side, small ones enlarged pixel by pixel.

    Args:
        path: .png to write.
        images: uint8 [n, H, W, C].
        columns: images a row.
    """
    n, h, w, c = images.shape
    rows = -(-n // columns)
    zoom = max(1, 64 // h)
    gap = 4 if h * zoom >= 16 else 1
    large = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    sheet = np.full((rows * columns, h * zoom + gap, w * zoom + gap, c), BORDER, np.uint8)
    sheet[:n, gap:, gap:] = large
    _, height, width, _ = sheet.shape
    sheet = sheet.reshape(rows, columns, height, width, c).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * height, columns * width, c)
    sheet = np.pad(sheet, ((0, gap), (0, gap), (0, 0)), constant_values=BORDER)
    picture = Image.fromarray(sheet[..., 0] if c == 1 else sheet)
    with atomic_path(path) as temporary:
        picture.save(temporary)
