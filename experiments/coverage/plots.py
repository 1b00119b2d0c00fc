"""Pictures of coverage experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from dnnlib.plot import fit_axes, limits_of, save_figure, subplots
from experiments.coverage.boundaries import Boundary, coverage_of_ball
from experiments.coverage.carrier import CAPTIONS, STAGES
from experiments.coverage.coverage import Report

STYLES = {"latent": ("o", "#1f5f8b"), "gen": ("s", "#d1495b"), "roundtrip": ("^", "#66a182")}
INSIDE, OUTSIDE = "#1f5f8b", "#b3b8bf"
POINTS_2D, POINTS_3D = 5000, 2500
SHOWN_RADIUS = 1.5  # of the surface drawn in three dimensions; the nearest there is


def coverage_plot(path: Path, report: Report, title: str) -> None:
    """Coverage against radius beside the chi-square value, and its distance from it."""
    figure, (top, low) = subplots(2, figsize=(5.6, 6.0), sharex=True, height_ratios=[2, 1])
    fine = np.linspace(0, report.radii.max() * 1.05, 300)
    exact = Report(report.d, fine, report.seeds, report.points, np.empty(0))
    top.plot(fine, exact.theory, color="black", lw=1.2, label=rf"$\chi^2_{report.d}$ (exact)")
    band = 300 * exact.standard_error
    low.fill_between(fine, -band, band, color="0.9", label="3 binomial standard errors")
    low.axhline(0, color="black", lw=1.2)
    mean, two = report.shares.mean(0), 2 * report.spread()
    step = np.diff(report.radii).min() if len(report.radii) > 1 else 1.0
    for k, stage in enumerate(STAGES):
        marker, colour = STYLES[stage]
        x = report.radii + 0.06 * step * (k - 1)  # beside each other, not on top
        style: dict[str, Any] = {"fmt": marker, "color": colour, "ms": 4, "capsize": 2, "lw": 1}
        top.errorbar(x, mean[k], two[k], label=CAPTIONS[stage], **style)
        low.errorbar(x, 100 * (mean[k] - report.theory), 100 * two[k], **style)
    top.set_ylabel("share of points inside")
    top.set_title(title, fontsize=11)
    top.legend(fontsize=8, frameon=False, loc="lower right")
    low.set_ylabel("minus exact, points of %")
    low.set_xlabel("Mahalanobis radius of the boundary")
    low.legend(fontsize=8, frameon=False, loc="best")
    for ax in (top, low):
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
    save_figure(figure, path)


def bands_plot(
    path: Path, points: dict[str, np.ndarray], bands: np.ndarray, radii: np.ndarray, title: str
) -> None:
    """The first two coordinates of points at the three stages, coloured by the sphere they are in.

    Args:
        path: .png to write.
        points: for each stage, [n, d].
        bands: how many of the radii each point is beyond, [n].
        radii: ascending, [r].
        title: above the row.
    """
    figure, axes = subplots(1, 3, figsize=(11.4, 4.2))
    hues = colormaps["viridis"].resampled(len(radii) + 1)
    for ax, stage in zip(axes, STAGES, strict=True):
        some = points[stage][:POINTS_2D, :2]
        drawn = ax.scatter(
            *some.T, s=3.0, linewidths=0, c=bands[: len(some)], cmap=hues,
            vmin=-0.5, vmax=len(radii) + 0.5,
        )  # fmt: skip
        fit_axes(ax, limits_of(some, own=None))
        ax.set_title(CAPTIONS[stage], fontsize=10)
        ax.tick_params(labelsize=7)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01, ticks=range(len(radii) + 1))
    bar.ax.set_yticklabels([*(f"< {r:g}" for r in radii), f"≥ {radii[-1]:g}"])
    bar.set_label("Mahalanobis radius after inflating back", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def held_out_plot(path: Path, u: np.ndarray, title: str) -> None:
    """Share of latents within each radius beside the chi distribution; u [n, d] whitened."""
    figure, (top, low) = subplots(2, figsize=(5.6, 6.0), sharex=True, height_ratios=[2, 1])
    n, d = u.shape
    r = np.sort(np.linalg.norm(u, axis=1))
    share, exact = (np.arange(n) + 0.5) / n, coverage_of_ball(r, d)
    top.plot(r, exact, color="black", lw=1.2, label=rf"$\chi_{{{d}}}$ (exact)")
    top.plot(r, share, color=INSIDE, lw=1.2, label=f"{n} held-out data, inflated")
    band = 300 * np.sqrt(exact * (1 - exact) / n)
    low.fill_between(r, -band, band, color="0.9", label="3 binomial standard errors")
    low.axhline(0, color="black", lw=1.2)
    low.plot(r, 100 * (share - exact), color=INSIDE, lw=1.2)
    top.set_ylabel("share within the radius")
    low.set_ylabel("minus exact, points of %")
    low.set_xlabel("radius in the whitened latent")
    top.set_title(f"{title}: held-out data", fontsize=11)
    for ax in (top, low):
        ax.legend(fontsize=8, frameon=False, loc="best")
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
    save_figure(figure, path)


def boundary_plot(
    path: Path, boundaries: list[Boundary], points: dict[str, np.ndarray], title: str
) -> None:
    """Boundaries and test points at the three stages, side by side.

    Args:
        path: .png to write.
        boundaries: of each radius; in three dimensions one is drawn.
        points: for each stage, [n, d].
        title: above the row.
    """
    d = points["latent"].shape[1]
    kind = {"projection": "3d"} if d == 3 else {}
    figure, axes = subplots(1, 3, figsize=(11.4, 4.2), subplot_kw=kind)
    if d == 3:
        radii = np.array([b.radius for b in boundaries])
        chosen = boundaries[int(np.abs(radii - SHOWN_RADIUS).argmin())]
        title = f"{title}: boundary of radius {chosen.radius:g}, points inside (blue) and outside"
    for ax, stage in zip(axes, STAGES, strict=True):
        if d == 2:
            _flat(ax, boundaries, stage, points[stage][:POINTS_2D])
        else:
            _solid(ax, chosen, stage, points[stage][:POINTS_3D])
        ax.set_title(CAPTIONS[stage], fontsize=10)
        ax.tick_params(labelsize=7)
    if d == 2:
        colours = ScalarMappable(_scale(boundaries), "viridis")
        bar = figure.colorbar(colours, ax=axes, shrink=0.8, pad=0.01)
        bar.set_label("Mahalanobis radius", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _scale(boundaries: list[Boundary]) -> Any:
    radii = [b.radius for b in boundaries]
    return Normalize(min(radii), max(radii) if len(radii) > 1 else min(radii) + 1)


def _flat(ax: Any, boundaries: list[Boundary], stage: str, points: np.ndarray) -> None:
    """Points, and over them the outlines of all boundaries."""
    scale, hues = _scale(boundaries), colormaps["viridis"]
    ax.scatter(*points.T, s=2.0, linewidths=0, color=OUTSIDE)
    for boundary in boundaries:
        for ring in boundary.regions[stage].rings():
            ax.plot(*ring.T, color=hues(scale(boundary.radius)), lw=1.0)
    fit_axes(ax, limits_of(points, own=None))


def _solid(ax: Any, boundary: Boundary, stage: str, points: np.ndarray) -> None:
    """A translucent surface among points; dimensions are drawn to the same length."""
    mesh = boundary.regions[stage].shape
    inside = boundary.regions[stage].contains(points)
    ax.computed_zorder = False  # points over the surface, or it hides them
    ax.plot_trisurf(
        *mesh.vertices.T, triangles=mesh.faces, color="#edae49", alpha=0.3, linewidth=0,
        shade=True, antialiased=False, zorder=1,
    )  # fmt: skip
    for some, colour, size in ((points[~inside], OUTSIDE, 1.5), (points[inside], INSIDE, 2.5)):
        ax.scatter(*some.T, s=size, linewidths=0, color=colour, depthshade=False, zorder=2)
    fit_axes(ax, limits_of(points, own=True))
    ax.set_box_aspect((4, 4, 3.4), zoom=1.1)
    ax.view_init(elev=18, azim=-70)
    ax.locator_params(nbins=5)
