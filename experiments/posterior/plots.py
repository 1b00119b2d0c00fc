"""Pictures of posteriors of the weights and of their calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import gaussian_kde

from dnnlib.plot import PLAIN, save_figure, subplots
from dnnlib.util import Json
from experiments.posterior.sbc import RANKS, unit_ranks
from experiments.posterior.tarp import LEVELS
from experiments.posterior.uniformity import BINS, LEVEL, band, ecdf

TRUE, MEAN, BAND = "#c0392b", "#111111", "#d5dde5"
KDE_POINTS, KDE_DRAWS = 90, 3000
MASSES = (0.95, 0.8, 0.5)  # of the regions that contours enclose
NAMES = {"exact": "under the flow's own prior", "flat": "under a flat prior of the datum"}


def posterior(path: Path, weights: np.ndarray, summary: Json, title: str) -> None:
    """Joint and single densities of the weights, and a table of diagnostics.

    Args:
        path: .png to write.
        weights: [chains, draws, K].
        summary: of `mcmc.report`.
        title: above.
    """
    K = weights.shape[2]
    flat = weights.reshape(-1, K)
    flat = flat[:: max(1, len(flat) // KDE_DRAWS)]
    truth, mean = summary["truth"], summary["mean"]
    size = (2.9 * K, 2.6 * K + 1.3)
    heights = [1.0] * K + [0.5]
    figure, axes = subplots(K + 1, K, figsize=size, squeeze=False, height_ratios=heights)
    for i in range(K):
        for j in range(K):
            ax = axes[i, j]
            if j > i:
                ax.axis("off")
                continue
            if i == j:
                _single(ax, flat[:, i], truth[i], mean[i])
            else:
                _pair(ax, flat[:, j], flat[:, i], (truth[j], truth[i]), (mean[j], mean[i]))
                ax.set_ylabel(f"$w_{i + 1}$")
            ax.set_xlabel(f"$w_{j + 1}$")
            ax.tick_params(labelsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    shades = ", ".join(f"{m:.0%}" for m in reversed(MASSES))
    axes[0, K - 1].legend(
        handles, labels, loc="center", frameon=False, fontsize=10,
        title=f"Shades hold {shades}\nof the posterior",
    )  # fmt: skip
    _table(figure, axes[K], summary)
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def _single(ax: Any, values: np.ndarray, truth: float, mean: float) -> None:
    where = np.linspace(values.min(), values.max(), 200)
    density = gaussian_kde(values)(where) if np.ptp(values) > 0 else np.zeros_like(where)
    ax.fill_between(where, density, color=PLAIN, alpha=0.25)
    ax.plot(where, density, color=PLAIN, lw=1.5)
    ax.axvline(truth, color=TRUE, lw=1.5, label="truth")
    ax.axvline(mean, color=MEAN, lw=1.2, ls="--", label="posterior mean")
    ax.set_yticks([])
    ax.set_ylim(bottom=0)


def _pair(
    ax: Any,
    x: np.ndarray,
    y: np.ndarray,
    truth: tuple[float, float],
    mean: tuple[float, float],
) -> None:
    moving = min(np.ptp(x), np.ptp(y)) > 0
    if moving and abs(np.corrcoef(x, y)[0, 1]) < 1 - 1e-9:  # else on a line: no density to draw
        (a, b), (c, e) = (_range(v) for v in (x, y))
        X, Y = np.meshgrid(np.linspace(a, b, KDE_POINTS), np.linspace(c, e, KDE_POINTS))
        density = gaussian_kde(np.stack([x, y]))(np.stack([X.ravel(), Y.ravel()])).reshape(X.shape)
        ranked = np.sort(density.ravel())[::-1]
        enclosed = np.cumsum(ranked) / ranked.sum()
        levels = np.unique([ranked[np.searchsorted(enclosed, m)] for m in MASSES])
        ax.contourf(X, Y, density, [*levels, density.max() * 1.001], cmap="Blues", alpha=0.8)
        ax.contour(X, Y, density, levels, colors=PLAIN, linewidths=0.8)
    ax.plot(*truth, "x", color=TRUE, ms=9, mew=2.2)
    ax.plot(*mean, "o", color=MEAN, ms=5)


def _range(values: np.ndarray) -> tuple[float, float]:
    margin = 0.15 * np.ptp(values)
    return float(values.min() - margin), float(values.max() + margin)


def _table(figure: Any, axes: Any, summary: Json) -> None:
    for ax in axes[1:]:
        ax.remove()
    ax = axes[0]
    ax.set_subplotspec(ax.get_gridspec()[len(summary["mean"]), :])
    ax.axis("off")
    rows = [
        [f"{summary['truth'][k]:.3f}", f"{summary['mean'][k]:.4f}", f"{summary['sd'][k]:.4f}",
         f"{summary['mcse_mean'][k]:.1e}", f"{summary['r_hat'][k]:.4f}",
         f"{summary['ess_bulk'][k]:.0f}"]
        for k in range(len(summary["mean"]))
    ]  # fmt: skip
    table = ax.table(
        rows,
        rowLabels=[f"$w_{k + 1}$" for k in range(len(rows))],
        colLabels=["truth", "mean", "sd", "MC error", "R-hat", "bulk ESS"],
        loc="center",
        cellLoc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1.0, 1.35)


def traces(path: Path, weights: np.ndarray, truth: list[float], title: str) -> None:
    """Every chain's draws of each weight.

    Args:
        path: .png to write.
        weights: [chains, draws, K].
        truth: [K].
        title: above.
    """
    K = weights.shape[2]
    figure, axes = subplots(K, figsize=(9, 1.9 * K), sharex=True, squeeze=False)
    for k, ax in enumerate(axes[:, 0]):
        for c, chain in enumerate(weights[..., k]):
            ax.plot(chain, lw=0.5, alpha=0.75, label=f"chain {c}")
        ax.axhline(truth[k], color=MEAN, lw=1.6, label="truth")
        ax.set_ylabel(f"$w_{k + 1}$")
        ax.margins(x=0)
    axes[-1, 0].set_xlabel("draw after burn-in")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles[-8:], labels[-8:], ncol=8, loc="outside lower right", fontsize=8)
    for line in legend.get_lines():
        line.set_linewidth(2)
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def ranks(path: Path, found: np.ndarray, title: str, seed: int = 0) -> None:
    """Histogram, and ECDF less uniform with its simultaneous band, of each weight's ranks.

    Args:
        path: .png to write.
        found: ranks in 0..RANKS, [sets, K].
        title: above.
        seed: of the band.
    """
    sets, K = found.shape
    points = np.arange(1, RANKS + 1) / (RANKS + 1)
    low, high = band(sets, points, seed)
    figure, axes = subplots(2, K, figsize=(3.2 * K, 5.2), sharey="row", squeeze=False)
    spread = 1.96 * np.sqrt(sets / BINS * (1 - 1 / BINS))
    for k in range(K):
        top, bottom = axes[:, k]
        top.axhspan(sets / BINS - spread, sets / BINS + spread, color=BAND, label="95% of each bin")
        top.hist(found[:, k], bins=BINS, range=(-0.5, RANKS + 0.5), color=PLAIN, rwidth=0.92)
        top.axhline(sets / BINS, color=MEAN, lw=0.8)
        top.set_xlabel(f"rank of true $w_{k + 1}$")
        _against_band(bottom, points, {"": ecdf(unit_ranks(found[:, k]), points)}, low, high)
        bottom.set_xlabel("rank / (draws + 1)")
    axes[0, 0].set_ylabel("data sets")
    axes[1, 0].set_ylabel("ECDF − uniform")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    axes[1, 0].legend(fontsize=8, loc="lower center")
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def coverage(path: Path, credibility: Mapping[str, np.ndarray], title: str, seed: int = 0) -> None:
    """Expected coverage against credibility, and their difference with its band.

    Args:
        path: .png to write.
        credibility: kind of posterior -> credibility of each truth, [n].
        title: above.
        seed: of the band.
    """
    curves = {NAMES[name]: ecdf(c, LEVELS) for name, c in credibility.items()}
    low, high = band(len(next(iter(credibility.values()))), LEVELS, seed)
    figure, (left, right) = subplots(1, 2, figsize=(9.2, 4.2))
    left.fill_between(LEVELS, low, high, color=BAND)
    left.plot([0, 1], [0, 1], color=MEAN, lw=0.8)
    for name, y in curves.items():
        left.plot(LEVELS, y, lw=1.6, label=name)
    left.set_ylabel("expected coverage")
    left.set_xlabel("credibility")
    left.set_aspect("equal")
    left.legend(fontsize=8)
    _against_band(right, LEVELS, curves, low, high)
    right.set_xlabel("credibility")
    right.set_ylabel("coverage − credibility")
    right.legend(fontsize=8, loc="lower center")
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def _against_band(
    ax: Any, points: np.ndarray, curves: Mapping[str, np.ndarray], low: np.ndarray, high: np.ndarray
) -> None:
    inside = f"{LEVEL:.0%} simultaneous band"
    ax.fill_between(points, low - points, high - points, color=BAND, label=inside)
    ax.axhline(0, color=MEAN, lw=0.8)
    for name, y in curves.items():
        style = {"label": name} if name else {"color": PLAIN}
        ax.plot(points, y - points, lw=1.4, **style)
