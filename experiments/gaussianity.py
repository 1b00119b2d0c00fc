"""How far the latents of data are from the N(0, I) that a flow's density takes them to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2

KS_TOLERANCE = 0.01  # Kolmogorov-Smirnov distance from N(0, 1) beyond chance that earns a warning


@dataclass
class Gaussianity:
    """How far latents are from N(0, I), dimension by dimension.

    Attributes:
        mean, variance, excess_kurtosis: of whitened latents, [d].
        ks: Kolmogorov-Smirnov distance of each dimension from N(0, 1), [d].
        chance: largest distance among d that so many Gaussian samples reach once in a hundred.
        norm_ks: distance of |u|^2 from its chi-squared distribution.
    """

    mean: np.ndarray
    variance: np.ndarray
    excess_kurtosis: np.ndarray
    ks: np.ndarray
    chance: float
    norm_ks: float

    @property
    def worst(self) -> np.ndarray:
        """Dimensions, the least Gaussian first."""
        return np.argsort(-self.ks)

    @property
    def gaussian(self) -> bool:
        """Whether every dimension is Gaussian, up to chance and `KS_TOLERANCE`."""
        return float(self.ks.max()) <= self.chance + KS_TOLERANCE

    def summary(self, dims_to_keep: int) -> dict[str, Any]:
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
            "ks_largest": float(self.ks.max()),
            "ks_by_chance": self.chance,
            "ks_of_squared_norm": self.norm_ks,
            "variance_mean": float(self.variance.mean()),
            "worst_dimensions": rows,
        }

    def warning(self, dims_to_keep: int) -> str | None:
        """A sentence for those who trust the density, or None."""
        if self.gaussian:
            return None
        i = int(self.worst[0])
        group = "kept" if i < dims_to_keep else "compressed"
        return (
            f"latents are not Gaussian, as the density takes them to be: {group} dimension {i} "
            f"(from 0) has KS distance {self.ks[i]:.3f} from N(0, 1) (by chance: up to "
            f"{self.chance:.3f}), variance {self.variance[i]:.3g}, excess kurtosis "
            f"{self.excess_kurtosis[i]:.2g}; the values are too pessimistic by what a Gaussian "
            "misses there. A longer --tmax inflates further; for reducing schedules, a small "
            "--g_rescaling with it (the paper: 0.15 and 15.01) inflates compressed dimensions too"
        )


def gaussianity(u: np.ndarray) -> Gaussianity:
    """Compare whitened latents [n, d] with the standard normal."""
    n, d = u.shape
    mean, variance = u.mean(0), u.var(0)
    z = (u - mean) / np.sqrt(variance).clip(1e-300)
    ks = np.concatenate(
        [ks_distance(ndtr(np.sort(u[:, i : i + 64], axis=0))) for i in range(0, d, 64)]
    )
    norms = chi2.cdf(np.sort((u**2).sum(1)), d)[:, None]
    chance = math.sqrt(math.log(2 * d / 0.01) / (2 * n))
    return Gaussianity(mean, variance, (z**4).mean(0) - 3, ks, chance, float(ks_distance(norms)[0]))


def ks_distance(cdf: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance: of the CDF at sorted samples [n, d] from the empirical, [d]."""
    n = len(cdf)
    steps = np.arange(n + 1)[:, None] / n
    return np.maximum((steps[1:] - cdf).max(0), (cdf - steps[:-1]).max(0))
