"""Pictures of densities, latents and paths. NumPy arrays in, one file out."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from dnnlib.plot import MAX_POINTS, PLAIN, panels_in_a_row, save_figure, subplots

COLOURS = ("#d1495b", "#1f5f8b", "#edae49", "#66a182")
PATHS = 36  # drawn of a time-resolved picture
INK = "black"


def density_1d(
    path: str | os.PathLike,
    x: np.ndarray,
    curves: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    title: str = "",
) -> None:
    """Density curves over histograms of samples.

    Args:
        path: .png to write.
        x: abscissa, ascending, [m].
        curves: legend -> density, [m].
        samples: legend -> values, [n].
        title: above the axes.
    """
    figure, ax = subplots(figsize=(6.4, 3.8))
    edges = np.linspace(x[0], x[-1], 101).tolist()
    for k, (name, values) in enumerate(samples.items()):
        ax.hist(
            values, edges, density=True, label=name, histtype="stepfilled" if k == 0 else "step",
            color="0.85" if k == 0 else COLOURS[(k + 1) % len(COLOURS)], lw=1.2,
        )  # fmt: skip
    for k, (name, y) in enumerate(curves.items()):
        ax.plot(x, y, "--" if k else "-", label=name, color=INK if k else COLOURS[0], lw=1.6)
    ax.set_xlim(x[0], x[-1])
    ax.set_xlabel("x")
    ax.set_ylabel("density")
    ax.set_title(title, fontsize=11)
    ax.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def density_2d(
    path: str | os.PathLike,
    limits: tuple[float, float, float, float],
    clouds: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    title: str = "",
) -> None:
    """Samples beside maps of densities, all on the same axes and one colour scale.

    Args:
        path: .png to write.
        limits: left, right, bottom, top of the maps.
        clouds: caption -> points [n, 2].
        maps: caption -> density on a regular grid, rows from bottom to top, [m, m].
        title: above the row.
    """
    figure, axes = panels_in_a_row(len(clouds) + len(maps), 2, 3.4)
    top = max(float(np.quantile(m, 0.999)) for m in maps.values())
    for ax, (caption, points) in zip(axes, clouds.items(), strict=False):
        ax.scatter(*points[:MAX_POINTS].T, s=2.0, linewidths=0, color=PLAIN)
        ax.set_title(caption, fontsize=10)
    shown = None
    for ax, (caption, density) in zip(axes[len(clouds) :], maps.items(), strict=True):
        shown = ax.imshow(
            density, origin="lower", extent=limits, vmin=0, vmax=top, cmap="magma",
            interpolation="bilinear",
        )  # fmt: skip
        ax.set_title(caption, fontsize=10)
    for ax in axes:
        ax.set_xlim(*limits[:2])
        ax.set_ylim(*limits[2:])
        ax.set_aspect("equal")
        ax.tick_params(labelsize=7)
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def latent_histograms(
    path: str | os.PathLike, columns: Mapping[str, np.ndarray], title: str = ""
) -> None:
    """Whitened latents, one dimension a panel, under the normal density they are taken to have.

    Args:
        path: .png to write.
        columns: caption -> values, [n].
        title: above the row.
    """
    figure, axes = panels_in_a_row(len(columns), 1, 2.6)
    x = np.linspace(-4, 4, 201)
    for ax, (caption, values) in zip(axes, columns.items(), strict=True):
        ax.hist(values, np.linspace(-4, 4, 61), density=True, color="0.75")
        ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=COLOURS[0], lw=1.5)
        ax.set_title(caption, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.set_yticks([])
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def paths(
    path: str | os.PathLike,
    times: np.ndarray,
    states: Mapping[str, np.ndarray],
    label: str,
    title: str = "",
) -> None:
    """Some paths of processes over the distribution of all, side by side.

    Args:
        path: .png to write.
        times: of the states, [k].
        states: caption -> one coordinate of samples over time, [k, n].
        label: of the ordinate.
        title: above the row.
    """
    from matplotlib import colormaps  # slow to import, see `plot.subplots`

    size = (5.2 * len(states), 3.6)
    figure, axes = subplots(1, len(states), figsize=size, sharey=True, squeeze=False)
    order = np.argsort(times)
    t, place = times[order], np.arange(len(times))
    limit = 1.15 * max(float(np.quantile(np.abs(s), 0.9995)) for s in states.values())
    edges = np.linspace(-limit, limit, 121)
    sides = np.concatenate([place[:1], (place[1:] + place[:-1]) / 2, place[-1:]])
    ticks = np.unique(np.linspace(0, len(t) - 1, 7).round().astype(int))
    for ax, (caption, values) in zip(axes[0], states.items(), strict=True):
        heat = np.stack([np.histogram(v, edges, density=True)[0] for v in values[order]], axis=1)
        ax.pcolormesh(sides, edges, heat, cmap="Greys", vmax=1.4 * np.quantile(heat, 0.98))
        picks = np.argsort(values[order[-1]], kind="stable")  # coloured by their latents
        picks = picks[(np.linspace(0.01, 0.99, PATHS) * (len(picks) - 1)).astype(int)]
        hues = colormaps["viridis"](np.linspace(0, 1, len(picks)))
        for i, hue in zip(picks, hues, strict=True):
            ax.plot(place, values[order, i], color=hue, lw=0.7)
        ax.set_xticks(ticks, [f"{t[k]:.2g}" for k in ticks])
        ax.set_title(caption, fontsize=10)
        ax.set_xlabel("t, in steps of the integration (0: data, right end: latent)")
    axes[0][0].set_ylabel(label)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
