"""How far the latents of data are from the N(0, I) that a flow's density takes them to be.

Dimensions one by one do not tell: u = (a, a) has normal dimensions. So their correlations, the
squared norm and projections on fixed random directions are compared with what N(0, I) gives too.
All bounds together are passed by normal latents at least 98 times in a hundred: 99 by distances
(Massart's inequality for every one of them), 99 by correlations (Student's t for every pair).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2
from scipy.stats import t as student

from dnnlib.util import Json
from torch_utils import seeding

# What beyond chance earns a warning: Kolmogorov-Smirnov distances, and a correlation, which moves
# that of a projection by about an eighth of itself.
KS_TOLERANCE, CORRELATION_TOLERANCE = 0.01, 0.05
LEVEL = 0.01  # that normal latents exceed chance in any distance; the same for any correlation
PROJECTIONS = 64


@dataclass
class Gaussianity:
    """How far latents are from N(0, I).

    Attributes:
        mean, variance, excess_kurtosis: of whitened latents, [d].
        ks: Kolmogorov-Smirnov distance of each dimension from N(0, 1), [d].
        projection_ks: the same of projections on random directions, [p]; empty for d = 1.
        norm_ks: distance of |u|^2 from its chi-squared distribution.
        chance: largest distance among all these that so many Gaussian samples reach once in a
            hundred.
        correlation: the largest of two dimensions, by magnitude; 0 for d = 1.
        pair: these two dimensions.
        correlation_chance: the largest that Gaussian samples reach once in a hundred.
    """

    mean: np.ndarray
    variance: np.ndarray
    excess_kurtosis: np.ndarray
    ks: np.ndarray
    projection_ks: np.ndarray
    norm_ks: float
    chance: float
    correlation: float
    pair: tuple[int, int]
    correlation_chance: float

    @property
    def worst(self) -> np.ndarray:
        """Dimensions, the least Gaussian first."""
        return np.argsort(-self.ks)

    @property
    def excess(self) -> dict[str, float]:
        """What each kind of figure has beyond chance and tolerance; above 0 if not Gaussian."""
        most = self.chance + KS_TOLERANCE
        allowed = self.correlation_chance + CORRELATION_TOLERANCE
        return {
            "dimensions": float(self.ks.max()) - most,
            "norm": self.norm_ks - most,
            "projections": float(self.projection_ks.max(initial=0.0)) - most,
            "correlations": abs(self.correlation) - allowed,
        }

    @property
    def gaussian(self) -> bool:
        """Whether latents are Gaussian, up to chance and tolerance."""
        return all(value <= 0 for value in self.excess.values())

    def summary(self, dims_to_keep: int) -> Json:
        """Plain values for a .json file."""
        rows = [
            {
                "dimension": int(i),
                "group": "kept" if i < dims_to_keep else "compressed",
                "mean": float(self.mean[i]),
                "variance": float(self.variance[i]),
                "excess_kurtosis": float(self.excess_kurtosis[i]),
                "ks_distance": float(self.ks[i]),
            }
            for i in self.worst[:5]
        ]
        return {
            "gaussian": self.gaussian,
            "not_gaussian_by": [name for name, value in self.excess.items() if not value <= 0],
            "ks_largest": float(self.ks.max()),
            "ks_by_chance": self.chance,
            "ks_of_squared_norm": self.norm_ks,
            "ks_of_projections_largest": float(self.projection_ks.max(initial=0.0)),
            "projections": len(self.projection_ks),
            "correlation_largest": self.correlation,
            "correlation_dimensions": list(self.pair),
            "correlation_by_chance": self.correlation_chance,
            "variance_mean": float(self.variance.mean()),
            "worst_dimensions": rows,
        }

    def warning(self, dims_to_keep: int) -> str | None:
        """A sentence for those who trust the density, or None."""
        if self.gaussian:
            return None
        i = int(self.worst[0])
        group = "kept" if i < dims_to_keep else "compressed"
        words = {
            "dimensions": f"{group} dimension {i} (from 0) has KS distance {self.ks[i]:.3f} from "
            f"N(0, 1), variance {self.variance[i]:.3g}, excess kurtosis "
            f"{self.excess_kurtosis[i]:.2g}",
            "norm": f"|u|^2 has KS distance {self.norm_ks:.3f} from chi-squared",
            "projections": f"one of {len(self.projection_ks)} random projections has KS distance "
            f"{self.projection_ks.max(initial=0.0):.3f}",
            "correlations": f"dimensions {self.pair[0]} and {self.pair[1]} have correlation "
            f"{self.correlation:.3f} (by chance: up to {self.correlation_chance:.3f})",
        }
        found = "; ".join(words[name] for name, value in self.excess.items() if not value <= 0)
        return (
            f"latents are not Gaussian, as the density takes them to be: {found} (KS by chance: up "
            f"to {self.chance:.3f}); the values are too pessimistic by what a Gaussian misses "
            "there. A longer --tmax inflates further; for reducing schedules, a small "
            "--g_rescaling with it (the paper: 0.15 and 15.01) inflates compressed dimensions too"
        )


def gaussianity(u: np.ndarray) -> Gaussianity:
    """Compare whitened latents [n, d] with N(0, I)."""
    n, d = u.shape
    mean, variance = u.mean(0), u.var(0)
    z = (u - mean) / np.sqrt(variance).clip(1e-300)
    ks = np.concatenate(
        [ks_distance(ndtr(np.sort(u[:, i : i + 64], axis=0))) for i in range(0, d, 64)]
    )
    norm_ks = float(ks_distance(chi2.cdf(np.sort((u**2).sum(1)), d)[:, None])[0])
    directions = seeding.normals(0, "projections", 0, PROJECTIONS if d > 1 else 0, d).T  # [d, p]
    directions = directions / np.linalg.norm(directions, axis=0)
    projected = ks_distance(ndtr(np.sort(u @ directions, axis=0)))
    chance = math.sqrt(math.log(2 * (d + len(projected) + 1) / LEVEL) / (2 * n))
    correlation, pair = largest_correlation(z)
    return Gaussianity(
        mean, variance, (z**4).mean(0) - 3, ks, projected, norm_ks, chance,
        correlation, pair, correlation_by_chance(n, d),
    )  # fmt: skip


def largest_correlation(z: np.ndarray) -> tuple[float, tuple[int, int]]:
    """The largest correlation of standardised columns [n, d], by magnitude, and which two."""
    n, d = z.shape
    if d == 1:
        return 0.0, (0, 0)
    matrix = np.triu(z.T @ z / n, 1)
    i, j = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    return float(matrix[i, j]), (int(i), int(j))


def correlation_by_chance(n: int, d: int) -> float:
    """What the largest correlation of d independent normal columns exceeds with `LEVEL`."""
    if n <= 2 or d == 1:
        return 1.0
    t = student.isf(LEVEL / (d * (d - 1)), n - 2)  # two tails of d (d - 1) / 2 pairs
    return float(t / math.sqrt(n - 2 + t * t))


def ks_distance(cdf: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance: of the CDF at sorted samples [n, d] from the empirical, [d]."""
    n = len(cdf)
    steps = np.arange(n + 1)[:, None] / n
    return np.maximum((steps[1:] - cdf).max(0), (cdf - steps[:-1]).max(0))
