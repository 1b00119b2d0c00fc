"""The Frechet distance of 2,048 features, beside the square root of a general matrix (scipy).

Truth: covariances with the same eigenvectors, of which the distance is sum (sqrt a - sqrt b)^2. One
pair has full rank, one that of 1,000 images, fewer than there are features.

python -m benchmarks.frechet
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from benchmarks.common import Line, report
from dnnlib.util import aligned
from metrics.features import frechet_distance

FEATURES, FEW = 2048, 1000
LEAST_FASTER, MOST_ERROR = 3.0, 1e-6
OURS, SCIPY = "symmetric eigenvalues (this suite)", "scipy.linalg.sqrtm"


def by_sqrtm(mu: Tensor, sigma: Tensor, mu_ref: Tensor, sigma_ref: Tensor) -> float:
    """The distance with the square root of sigma sigma_ref, as it is usually written down."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of singular matrices
        root = scipy.linalg.sqrtm((sigma @ sigma_ref).numpy())
    trace = float(np.real(np.trace(root)))
    return float((mu - mu_ref).square().sum() + sigma.trace() + sigma_ref.trace()) - 2 * trace


def pair(rank: int) -> tuple[tuple[Tensor, ...], float]:
    """Means and covariances of two Gaussians of a rank, and their distance."""
    torch.manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(FEATURES, FEATURES, dtype=torch.float64))
    k = torch.arange(FEATURES, dtype=torch.float64)
    a, b = (0.1 / (1 + k) ** power * (k < rank) for power in (1.0, 1.1))
    mu = [0.01 * torch.randn(FEATURES, dtype=torch.float64) for _ in range(2)]
    sigma = [(vectors * v) @ vectors.T for v in (a, b)]
    truth = float((mu[0] - mu[1]).square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    return (mu[0], sigma[0], mu[1], sigma[1]), truth


def measured(method: Callable[..., float], given: tuple[Tensor, ...]) -> tuple[float, float]:
    """Time of a method, s, and its value."""
    method(*(g[:64, :64] if g.dim() == 2 else g[:64] for g in given))  # warm up
    started = time.perf_counter()
    value = method(*given)
    return time.perf_counter() - started, value


def main() -> None:
    """Measure and write the table."""
    rows, lines = [], []
    for name, rank in (("full rank", FEATURES), (f"rank {FEW}", FEW)):
        given, truth = pair(rank)
        found = {OURS: measured(frechet_distance, given), SCIPY: measured(by_sqrtm, given)}
        (own, value), (other, _) = found[OURS], found[SCIPY]
        error = abs(value / truth - 1)
        rows += [
            (name, method, f"{s:.2f}", f"{other / s:.1f}", f"{abs(v / truth - 1):.0e}")
            for method, (s, v) in found.items()
        ]
        lines.append(Line(f"Frechet distance, {name}, s", f"{own:.2f}", f"sqrtm {other:.2f}",
                          other / own, LEAST_FASTER))  # fmt: skip
        lines.append(Line(f"its relative error, {name}", f"{error:.0e}", f"{MOST_ERROR:g}",
                          MOST_ERROR / max(error, 1e-16), 1.0))  # fmt: skip
    header = ("covariances", "method", "seconds", "faster", "relative error")
    title = f"Frechet distance of {FEATURES:,} features"
    report("frechet", title, [aligned(header, rows)], lines)


if __name__ == "__main__":
    main()
