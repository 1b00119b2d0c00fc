"""Whether values that should be uniform are: calibration checks end in this question."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from dnnlib.util import Json
from torch_utils import seeding

LEVEL = 0.95
SIMULATED = 4000  # sets of uniform values from which the band is adjusted
BINS = 10  # of the chi-square test
CENTRAL = (0.5, 0.8, 0.9)  # intervals whose coverage is reported


class Calibration(NamedTuple):
    """What a check of calibration has found.

    Attributes:
        arrays: name -> array, for a file.
        tests: of what -> `assess`, to be printed.
        summary: plain values, for a file.
    """

    arrays: dict[str, np.ndarray]
    tests: dict[str, Json]
    summary: Json


def ecdf(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Share of values [n] below each point [m], [m]."""
    return np.searchsorted(np.sort(values), points, side="left") / len(values)


@cache
def _deepest(n: int, points: tuple[float, ...], seed: int) -> np.ndarray:
    """Least local tail probability of each of SIMULATED sets of n uniform values."""
    rng, grid = seeding.generator(seed, "ecdf band", n), np.array(points)
    counts = np.stack(
        [np.searchsorted(np.sort(rng.random(n)), grid) for _ in range(SIMULATED)]
    )  # [s, m]
    below = stats.binom.cdf(counts, n, grid)
    above = stats.binom.sf(counts - 1, n, grid)
    return 2 * np.minimum(below, above).min(1)


def band(
    n: int, points: np.ndarray, seed: int = 0, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Simultaneous band of the ECDF of n uniform values.

    The whole ECDF lies within it with probability `level`: binomial intervals at each point,
    widened until that holds in simulations.

    Args:
        n: number of values.
        points: in (0, 1), ascending, [m].
        seed: of the simulations.
        level: of the band.

    Returns:
        lower and upper bounds, [m] each.

    Reference: Saeilynoja, Buerkner and Vehtari 2022, "Graphical test for discrete uniformity".
    """
    tail = np.quantile(_deepest(n, tuple(points.tolist()), seed), 1 - level)
    low, high = (stats.binom.ppf(q, n, points) / n for q in (tail / 2, 1 - tail / 2))
    return low, high


def assess(values: np.ndarray, points: np.ndarray, seed: int = 0, level: float = LEVEL) -> Json:
    """Tests of uniformity on (0, 1), as plain values.

    Args:
        values: [n].
        points: where the ECDF is compared with its band, ascending, [m].
        seed: of the band.
        level: of the band.
    """
    low, high = band(len(values), points, seed, level)
    found = ecdf(values, points)
    counts = np.histogram(values, bins=BINS, range=(0, 1))[0]
    inside = {f"{level:g}": float((np.abs(values - 0.5) <= level / 2).mean()) for level in CENTRAL}
    return {
        "chi_square_p": float(stats.chisquare(counts).pvalue),
        "kolmogorov_smirnov_p": float(stats.kstest(values, "uniform").pvalue),
        "share_of_ecdf_outside_band": float(((found < low) | (found > high)).mean()),
        "coverage_of_central_intervals": inside,
    }
