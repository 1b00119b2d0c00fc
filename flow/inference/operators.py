"""Linear operators on images: blur and downsampling, along rows and columns by one matrix each."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

REACH = 4.0  # standard deviations at which a blur is cut off


@dataclass(frozen=True, eq=False)
class Separable:
    """An image operator that treats rows and columns apart.

    Attributes:
        shape: channels, height and width of the images that go in.
        down: applied to each column, [height out, height].
        across: applied to each row, [width out, width].
    """

    shape: tuple[int, int, int]
    down: Tensor
    across: Tensor

    @property
    def dim(self) -> int:
        """Values of an image that goes in."""
        return prod(self.shape)

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that come out."""
        return self.shape[0], len(self.down), len(self.across)

    @property
    def outputs(self) -> int:
        """Values of an image that comes out."""
        return prod(self.size)

    def __call__(self, x: Tensor) -> Tensor:
        """Images [n, d] to [n, m]."""
        images = x.unflatten(1, self.shape)
        return (self.down.to(x) @ images @ self.across.to(x).T).flatten(1)


def blur(shape: tuple[int, int, int], sigma: float) -> Separable:
    """Gaussian blur with edges repeated.

    Args:
        shape: channels, height and width.
        sigma: standard deviation, pixels.

    Raises:
        ValueError: if it is not positive.
    """
    if not 0 < sigma < float("inf"):
        raise ValueError(f"blur:{sigma:g}: the standard deviation must be above 0")
    return Separable(shape, _blur(shape[1], sigma), _blur(shape[2], sigma))


def downsample(shape: tuple[int, int, int], factor: int) -> Separable:
    """Means of squares of factor x factor pixels.

    Raises:
        ValueError: if the factor does not divide height and width.
    """
    if factor < 2 or shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"downsample:{factor}: give a factor of 2 or more that divides the images' height "
            f"{shape[1]} and width {shape[2]}"
        )
    rows, columns = (
        torch.eye(n // factor, dtype=torch.float64).repeat_interleave(factor, 1) / factor
        for n in shape[1:]
    )
    return Separable(shape, rows, columns)


def _blur(n: int, sigma: float) -> Tensor:
    reach = max(1, round(REACH * sigma))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        matrix[i].index_add_(0, (i + offsets).clamp(0, n - 1), weights / weights.sum())
    return matrix
