"""The eigenbasis of the data: one streamed pass, the same on every rank.

Covariances are accumulated in float64 from shifted data, summed over all ranks, and diagonalised
once; the result is broadcast, so no two ranks ever disagree about a sign or a near-degenerate
pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils import distributed

PANEL = 512  # columns at a time of a covariance
MIDDLE, HALF = 128.0, 127.5  # of 8-bit levels: integers about zero, and what is 1 in [-1, 1]
EXACT = 1024  # rows of these whose products add up to 2^24 at most: exact in float32
EIGENVALUE_FLOOR = 1e-6  # of the largest eigenvalue: a constant pixel must not divide by zero


@dataclass
class Basis:
    """Affine whitening of the data: raw = mean + scale * (W y_es), float64.

    Attributes:
        mean: centre of the raw data, [d].
        scale: unit of each raw column, [d] (ones unless the user's vectors were standardised).
        xi: eigenvalues of the covariance of (raw - mean)/scale, descending, floored, [d].
        W: eigenvectors in columns, [d, d].
        floored: how many eigenvalues the floor raised.
    """

    mean: Tensor
    scale: Tensor
    xi: Tensor
    W: Tensor
    floored: int = 0

    def isotropic(self, variance: float | None = None) -> Basis:
        """The same centre with one variance for all dimensions and no rotation (EDM, VP).

        Args:
            variance: that of all dimensions; None for the mean of the data's.
        """
        identity = torch.eye(len(self.xi), dtype=torch.float64)
        one = self.xi.mean() if variance is None else torch.tensor(variance, dtype=torch.float64)
        return Basis(self.mean, self.scale, one.expand_as(self.xi), identity)


def moments(batches: Iterable[Tensor], d: int) -> tuple[int, Tensor, Tensor]:
    """Count, mean [d] and covariance [d, d] of a stream of batches [n, d], over all ranks.

    Each rank streams its own share. Data is shifted by rank 0's first batch, so that a large mean
    costs no digits. Batches of uint8 are 8-bit levels, which stand for level / 127.5 - 1; their
    sums are integers and exact, so that these moments are the same for any number of processes.

    Raises:
        ValueError: if there are fewer than two samples in all.
    """
    device = distributed.device() if distributed.device().type != "mps" else torch.device("cpu")
    batches = iter(batches)
    first = next(batches, None)
    levels = distributed.broadcast(first is not None and first.dtype == torch.uint8)
    dtype = torch.float32 if levels else torch.float64
    shift = torch.full((d,), MIDDLE if levels else 0.0, dtype=torch.float64, device=device)
    if first is not None and len(first) and not levels:
        shift = first.to(device, torch.float64).mean(0)
    distributed.broadcast_(shift)
    count = torch.zeros((), dtype=torch.float64, device=device)
    total = torch.zeros(d, dtype=torch.float64, device=device)
    outer = torch.zeros(d, d, dtype=torch.float64, device=device)
    while first is not None:
        x = first.to(device, dtype) - shift.to(dtype)  # [n, d]
        count += len(x)
        total += x.sum(0, dtype=torch.float64)
        _add_upper_(outer, x)
        first = next(batches, None)
    for tensor in (count, total, outer):
        distributed.all_sum_(tensor)
    outer = outer.triu() + outer.triu(1).T
    n = int(count)
    if n < 2:
        raise ValueError(f"an eigenbasis needs at least 2 samples, got {n}")
    mean = total / n
    if levels:
        covariance = (n * outer - torch.outer(total, total)) / (n * HALF) ** 2
        return n, (mean + MIDDLE) / HALF - 1, covariance
    return n, mean + shift, outer / n - torch.outer(mean, mean)


def _add_upper_(outer: Tensor, x: Tensor) -> None:
    """Add x^T x [d, d] to `outer`, on and above its diagonal; below it values are undefined.

    By panels of columns, which leaves out most of the half that symmetry gives for nothing. Of
    float32, which holds centred levels here, few enough rows at a time that products are exact.
    """
    for rows in x.split(EXACT if x.dtype == torch.float32 else max(1, len(x))):
        for i in range(0, x.shape[1], PANEL):
            left, right = rows[:, i : i + PANEL].T, rows[:, i:]
            if rows.dtype == outer.dtype:
                outer[i : i + PANEL, i:].addmm_(left, right)
            else:
                outer[i : i + PANEL, i:] += left @ right


def eigenbasis(batches: Iterable[Tensor], d: int, scale: Tensor | None = None) -> Basis:
    """Mean, eigenvalues and eigenvectors of a stream of raw batches [n, d], over all ranks.

    Args:
        batches: this rank's share of the data, in its raw units; or 8-bit levels, see `moments`.
        d: dimensions.
        scale: units to divide the raw columns by before the covariance is taken, [d].

    Returns:
        the basis on the CPU, identical on every rank; each eigenvector's largest entry is positive.

    Raises:
        ValueError: if the data have none: too few samples, all alike, or too large.
    """
    _, mean, covariance = moments(batches, d)
    if not bool(covariance.isfinite().all()):
        raise ValueError(
            "values are so large that their squares overflow: remove those that stand for missing "
            "ones, or divide the data by a constant"
        )
    scale = torch.ones_like(mean) if scale is None else scale.to(mean)
    covariance = covariance / torch.outer(scale, scale)
    xi, W = torch.linalg.eigh(covariance)
    xi, W = xi.flip(0).contiguous(), W.flip(1).contiguous()
    W = W * W.gather(0, W.abs().argmax(0, keepdim=True)).sign()
    for tensor in (mean, xi, W):
        distributed.broadcast_(tensor)
    floor = EIGENVALUE_FLOOR * float(xi[0])
    if floor <= 0:
        raise ValueError("the data does not vary in any dimension")
    floored = int((xi < floor).sum())
    return Basis(mean.cpu(), scale.cpu(), xi.clamp_min(floor).cpu(), W.cpu(), floored)
