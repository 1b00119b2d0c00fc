r"""Observation models: log likelihoods of data x [n, d] given what was measured of one datum.

    observe(x, mask=seen, noise=0.1)     y_i = x_i + N(0, noise_i^2) of the coordinates seen
    observe.linear(A, y, noise=0.1)      y = A x + N(0, noise^2)
    observe.poisson(y, A, exposure=9.0)  y ~ Poisson(exposure max(A x + offset, 0) + background)

All are normalised, so that evidences of models compare, and differentiable. NaN in y is what was
not measured. Any other function of x [n, d] that gives log likelihoods [n] serves as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Operator = Tensor | Callable[[Tensor], Tensor]  # [m, d], or data [n, d] -> [n, m]


@dataclass(frozen=True, eq=False)
class Normal:
    """Measurements with normal noise.

    Attributes:
        y: what was measured, [m].
        noise: its standard deviations, [m].
        operator: what it was measured of.
        seen: which of the operator's outputs were measured, [m].
        dim: dimensions of data, d; None where the operator does not tell.
    """

    y: Tensor
    noise: Tensor
    operator: Operator
    seen: Tensor
    dim: int | None

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log N(y; A x, noise^2), nats, of data x [n, d], [n]."""
        y, sd = self.y.to(x), self.noise.to(x)
        away = (measured(self.operator, x)[:, self.seen.to(x.device)] - y) / sd
        constant = sd.log().sum() + len(y) / 2 * math.log(2 * math.pi)
        return -0.5 * away.square().sum(1) - constant


@dataclass(frozen=True, eq=False)
class Poisson:
    """Counts.

    Attributes:
        y: counts, [m].
        operator, seen, dim: see `Normal`.
        exposure, offset, background: the rate is exposure max(A x + offset, 0) + background.
    """

    y: Tensor
    operator: Operator
    seen: Tensor
    dim: int | None
    exposure: float
    offset: float
    background: float

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log probability of the counts, nats, of data x [n, d], [n]; -inf where a rate is zero."""
        y, signal = self.y.to(x), measured(self.operator, x)[:, self.seen.to(x.device)]
        rate = self.exposure * (signal + self.offset).clamp(min=0) + self.background
        return (torch.xlogy(y, rate) - rate - torch.lgamma(y + 1)).sum(1)


class Observe:
    """What makes observation models; use the instance `observe`."""

    def __call__(self, x: Any, mask: Any = None, noise: Any = None) -> Normal:
        """Some coordinates of a datum, each with noise.

        Args:
            x: measured values, [d]; those not measured may be NaN.
            mask: which were measured, bool [d]; None for those that are not NaN.
            noise: standard deviation, one or [d].

        Raises:
            ValueError: naming the argument that cannot be.
        """
        values = vector("x", x)
        seen = torch.isfinite(values)
        if mask is not None:
            seen = torch.as_tensor(np.asarray(mask)).flatten().bool()
            if seen.shape != values.shape:
                raise ValueError(f"mask has {len(seen)} values, x has {len(values)}")
            if bool((~torch.isfinite(values) & seen).any()):
                raise ValueError("x is NaN or infinite where mask says that it was measured")
        d = len(values)
        where = picked("x", seen)
        return Normal(values[where], deviations(noise, d)[where], identity, where, d)

    def linear(self, A: Any, y: Any, noise: Any = None) -> Normal:
        """Linear measurements of a datum.

        Args:
            A: matrix [m, d], or an operator from data [n, d] to [n, m], such as `operators.blur`.
            y: measured values, [m]; those not measured may be NaN.
            noise: standard deviation, one or [m].

        Raises:
            ValueError: naming the argument that cannot be.
        """
        values = vector("y", y)
        A, d = checked(A, len(values))
        where = picked("y", torch.isfinite(values))
        return Normal(values[where], deviations(noise, len(values))[where], A, where, d)

    def poisson(
        self, y: Any, A: Any = None, *, exposure: float = 1.0, offset: float = 0.0,
        background: float = 0.0,
    ) -> Poisson:  # fmt: skip
        """Counts of a datum.

        Args:
            y: counts, [m]; those not measured may be NaN.
            A: see `linear`; None for the datum itself.
            exposure: counts for each unit of A x.
            offset: what is added to A x, such as 1 for images in [-1, 1].
            background: counts that come without any.

        Raises:
            ValueError: naming the argument that cannot be.
        """
        counts = vector("y", y)
        operator, d = (identity, len(counts)) if A is None else checked(A, len(counts))
        where = picked("y", torch.isfinite(counts))
        if bool((counts[where] < 0).any()) or bool((counts[where] % 1 != 0).any()):
            raise ValueError("y must hold counts: whole numbers, 0 or more")
        if not 0 < exposure < math.inf:
            raise ValueError(f"exposure={exposure!r}: give a number above 0")
        if not 0 <= background < math.inf or not math.isfinite(offset):
            raise ValueError("background and offset must be finite, and background not negative")
        return Poisson(counts[where], operator, where, d, exposure, offset, background)


observe = Observe()


def identity(x: Tensor) -> Tensor:
    """The datum itself."""
    return x


def measured(operator: Operator, x: Tensor) -> Tensor:
    """A x, [n, m], of data x [n, d]."""
    return x @ operator.to(x).T if isinstance(operator, Tensor) else operator(x)


def vector(name: str, values: Any) -> Tensor:
    """Numbers [m] of a tensor, an array or a list of any shape, float64; infinite ones are refused.

    Raises:
        ValueError: naming them.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: an array of {array.dtype} holds no real numbers")
    if np.isinf(array.astype(np.float64)).any():
        raise ValueError(f"{name} holds infinite values; use NaN for what was not measured")
    return torch.from_numpy(array.astype(np.float64).flatten())


def picked(name: str, seen: Tensor) -> Tensor:
    """Positions of what was measured, [m].

    Raises:
        ValueError: if nothing was.
    """
    if not bool(seen.any()):
        raise ValueError(f"all {len(seen)} values of {name} are missing: nothing was measured")
    return seen.nonzero()[:, 0]


def deviations(noise: Any, m: int) -> Tensor:
    """Standard deviations [m] of one or of m.

    Raises:
        ValueError: if they are not positive and finite.
    """
    if noise is None:
        raise ValueError("noise is missing: give the standard deviation of the measurements")
    sd = vector("noise", noise)
    if len(sd) not in (1, m):
        raise ValueError(f"noise has {len(sd)} values for {m} measurements: give one, or {m}")
    bad = sd[~(sd > 0)]
    if len(bad):
        raise ValueError(f"noise={float(bad[0]):g}: standard deviations must be above 0")
    return sd.expand(m)


def checked(A: Any, m: int) -> tuple[Operator, int | None]:
    """An operator of m outputs, and the dimensions that it takes, if it tells them.

    Raises:
        ValueError: if it has other outputs, or values that are not finite.
    """
    if callable(A):
        outputs, d = getattr(A, "outputs", m), getattr(A, "dim", None)
        if outputs != m:
            raise ValueError(f"y has {m} values, and the operator gives {outputs}")
        return A, d
    matrix = A.detach().cpu().double() if isinstance(A, Tensor) else np.asarray(A)
    if not isinstance(matrix, Tensor):
        if matrix.dtype.kind not in "fiub":
            raise ValueError(f"A: an array of {matrix.dtype} holds no real numbers")
        matrix = torch.from_numpy(matrix.astype(np.float64))
    if matrix.dim() != 2 or len(matrix) != m:
        shape = tuple(matrix.shape)
        raise ValueError(f"A has shape {shape}; for {m} values of y it must be [{m}, d]")
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("A holds NaN or infinite values")
    return matrix, matrix.shape[1]
