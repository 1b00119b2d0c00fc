r"""Held-out data inflated: whether a flow is that of the data.

Truths that come from the flow itself cannot tell, since an untrained flow passes: they test the
code. Data that the flow has not seen must become N(0, I): within balls |u| < r there must be a
share chi2_d(r^2), for all r, and projections on any direction must be standard normal. That is
necessary and, over all directions, sufficient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import chi2, kstest
from torch import Tensor

from dnnlib.util import Json
from experiments.density.density import noise_at_start
from experiments.density.gaussianity import KS_TOLERANCE, Gaussianity, gaussianity
from flow.arguments import How
from flow.flow import Flow
from torch_utils.work import shared_rows

RADII = (1.0, 2.0, 3.0)


@dataclass
class Held:
    """What held-out data say of a flow.

    Attributes:
        latents: whitened, [n, d].
        shares: of data within `RADII`, [3].
        norm_p: p value of the Kolmogorov-Smirnov test of |u|^2, over all radii.
        normal: distances of dimensions, norm and projections from N(0, I).
    """

    HEADER: ClassVar = ("radius", "share", "chi-square", "binomial standard error")

    latents: np.ndarray
    shares: np.ndarray
    norm_p: float
    normal: Gaussianity

    @property
    def passed(self) -> bool:
        """Whether the data are normal up to chance and the tolerance of `gaussianity`."""
        return self.normal.gaussian

    def rows(self) -> list[tuple[float, float, float, float]]:
        """Of each radius: share, what it should be, and its standard error."""
        n, d = self.latents.shape
        exact = chi2.cdf(np.square(RADII), d)
        error = np.sqrt(exact * (1 - exact) / n)
        return list(zip(RADII, self.shares.tolist(), exact.tolist(), error.tolist(), strict=True))

    def summary(self) -> Json:
        """Plain values for a .json file."""
        rows = [dict(zip(("radius", "share", "exact", "standard_error"), r, strict=True))
                for r in self.rows()]  # fmt: skip
        return {
            "passed": self.passed,
            "held_out": len(self.latents),
            "balls": rows,
            "ks_p_of_norm": self.norm_p,
            "latents": self.normal.summary(self.latents.shape[1]),
        }

    def lines(self) -> list[str]:
        """The result as text; the last line says pass or fail."""
        g = self.normal
        balls = [f"|u| < {r:g}: {s:.3f} (exact {e:.3f} +- {se:.3f})" for r, s, e, se in self.rows()]
        worst = max(float(g.ks.max()), float(g.projection_ks.max(initial=0.0)))
        why = ", ".join(k for k, v in g.excess.items() if v > 0)
        verdict = "PASS" if self.passed else f"FAIL ({why})"
        return [
            *balls,
            f"KS distance of |u|^2 {g.norm_ks:.3f} (p {self.norm_p:.2g}), of dimensions and "
            f"{len(g.projection_ks)} random projections at most {worst:.3f}; by chance up to "
            f"{g.chance:.3f}, tolerated {KS_TOLERANCE:g} more",
            f"Held-out data: {verdict}",
        ]


def held_out(flow: Flow, x: Tensor, how: How, seed: int = 0) -> Held:
    """Inflate held-out data, in a session; every rank must call this.

    Args:
        flow: the flow.
        x: data that it has not been trained on, [n, d], in their own units.
        how: solver, steps, ... of the integration.
        seed: of the noise of t = 0, which is added since the flow is of data with it.

    Raises:
        ValueError: if latents do not stay finite.
    """

    def work(rows: range) -> Tensor:
        here = x[rows.start : rows.stop].to(flow.device, flow.dtype)
        here = here + noise_at_start(flow, seed, rows.start, rows.stop)
        return flow.inflate(here, coords="whitened", **how).cpu()

    u = shared_rows(work, len(x), flow.block, "held-out data").double().numpy()
    return judge(u)


def judge(u: np.ndarray) -> Held:
    """What whitened latents [n, d] of held-out data say.

    Raises:
        ValueError: if latents are not finite.
    """
    lost = int((~np.isfinite(u).all(1)).sum())
    if lost:
        raise ValueError(f"{lost} of {len(u)} held-out samples do not stay finite")
    square = (u**2).sum(1)
    shares = np.array([(square < r * r).mean() for r in RADII])
    return Held(u, shares, float(kstest(square, chi2(u.shape[1]).cdf).pvalue), gaussianity(u))
