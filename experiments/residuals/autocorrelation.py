r"""Residuals of a network along the flow's time, and how they correlate between times.

The residual of a sample y at time t is e(t) = D(x, t) - y, with x = y + noise and D the denoiser.
In whitened coordinates, without the cancellation of D - y, it is

    e_i = sqrt(xi_i) sin(phi_i) (F_i - F*_i),      F* = sin(phi) y/sqrt(xi) - cos(phi) n.

F* is what a network is trained towards, and random given x. The exact field is its mean, F_exact,
and leaves a residual too, as large as y is uncertain given x; a good network's is hardly larger.
What the network itself gets wrong is known where the exact field is, for toy sets that are mixtures
of Gaussians:

    g_i = sqrt(xi_i) sin(phi_i) (F_i - F_exact_i).

Correlations with the first time are one d x d matrix product a chunk of samples, never a batch of
outer products.

Reference: Inflationary Flows, appendix C.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from flow.flow import Flow
from torch_utils import seeding
from training.precond import FieldModel

NOISES = ("fresh", "shared")
NORMALIZATIONS = ("pearson", "published")


@torch.no_grad()
def denoised(
    flow: Flow, x: Tensor, noise: Tensor, t: float, exact: FieldModel | None = None
) -> list[Tensor]:
    """Denoiser outputs, residuals and, where the exact field is known, the network's errors.

    Args:
        flow: the flow.
        x: data in its own units, [n, d].
        noise: standard normals, [n, d].
        t: time.
        exact: the field of the distribution of the data, with the flow's schedule and basis.

    Returns:
        D, e = D - y and, given `exact`, g, [n, d] each, centred and standardised as the network's
        data is, in the axes that it was trained in: the eigenbasis (ES) or the data's own (IS).
    """
    root = flow.schedule.xi.to(flow.dtype).sqrt()
    cos, sin = (v.to(flow.dtype) for v in flow.schedule.cos_sin(t))
    y = flow.model.encode(x.to(flow.device)).to(flow.dtype)
    v, n = y / root, noise.to(y)
    u = cos * v + sin * n
    F = flow.field(u, t)
    e = root * sin * (F - (sin * v - cos * n))
    found = [y + e, e]
    if exact is not None:
        F_exact = exact(u.cpu().double(), torch.tensor([t], dtype=torch.float64))
        found.append(root * sin * (F - F_exact.to(F)))
    if space_of(flow) == "IS":
        W = flow.model.W.to(e)
        return [values @ W.T for values in found]
    return found


def space_of(flow: Flow) -> str:
    """Axes that the network was trained in: ES or IS."""
    return getattr(flow.model, "space", "ES")


def noise_rows(seed: int, kind: str, k: int, start: int, stop: int, d: int) -> Tensor:
    """Standard normals of samples start..stop at time point k, [stop - start, d].

    Args:
        seed: of the stream.
        kind: "fresh" for other noise at every time, "shared" for a sample's own noise at all.
        k: number of the time point.
        start, stop: range of samples; a sample's noise does not depend on it.
        d: dimensions.
    """
    stream = "residual noise" if kind == "shared" else f"residual noise {k}"
    return torch.from_numpy(seeding.normals(seed, stream, start, stop, d))


@dataclass
class Correlation:
    """Cross-correlations of residuals a and b, entry by entry.

    Attributes:
        matrix: [d, d]; NaN where a standard deviation is zero.
        sd_a, sd_b: standard deviations, [d].
    """

    matrix: Tensor
    sd_a: Tensor
    sd_b: Tensor

    @property
    def mean_diagonal(self) -> float:
        """Mean of the diagonal over dimensions that vary; NaN if none does."""
        return float(self.matrix.diagonal().nanmean())


def cross_correlation(
    pairs: Iterable[tuple[Tensor, Tensor]], normalization: str = "pearson"
) -> Correlation:
    """E[(a - mean)(b - mean)^T] over standard deviations, from chunks of samples.

    Products are in the chunks' own precision, sums in float64, and both are taken about the first
    chunk's mean, so that nothing is lost where the mean is large.

    Args:
        pairs: chunks of the same samples at two times, [m, d] each.
        normalization: "pearson" divides entry (i, j) by sd_a(i) sd_b(j). "published" divides it by
            sd_a(j) sd_b(j), as the published code does: the diagonal, which the paper plots, is
            the same.

    Raises:
        ValueError: without samples.
    """
    n = 0
    for a, b in pairs:
        if n == 0:
            shift_a, shift_b = a.mean(0), b.mean(0)
            product = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
            sums = torch.zeros(4, a.shape[1], dtype=torch.float64, device=a.device)
        a, b = a - shift_a, b - shift_b
        product += a.T @ b
        sums += torch.stack([_sum(a), _sum(b), _sum(a * a), _sum(b * b)])
        n += len(a)
    if n == 0:
        raise ValueError("there are no samples to correlate")
    mean_a, mean_b, square_a, square_b = sums / n
    sd_a = (square_a - mean_a.square()).clamp_min(0).sqrt()
    sd_b = (square_b - mean_b.square()).clamp_min(0).sqrt()
    unit = sd_a * sd_b if normalization == "published" else torch.outer(sd_a, sd_b)
    matrix = product.div_(n).sub_(torch.outer(mean_a, mean_b)).div_(unit)
    matrix.masked_fill_(unit.expand_as(matrix) == 0, torch.nan)
    return Correlation(matrix, sd_a, sd_b)


def _sum(x: Tensor) -> Tensor:
    return x.sum(0, dtype=torch.float64)
