r"""What is integrated: whitened states over the angles' arc length, or the paper's over time.

A term has the grid of its own variable, knows the time there, and turns whitened states into what
it carries and back. Columns that ride along, [n, m] beside the [n, d] of the state, come from the
`Rate` that evaluates the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from flow.coordinates import CoordinateMaps
from training.arc import Arc

# (time t, whitened states [n, d], angle rates [d]) -> the field F [n, d] there, and the rates of
# quantities that are integrated along the path, [n, m] each.
Rate = Callable[[float, Tensor, Tensor], tuple[Tensor, Sequence[Tensor]]]


class Term(Protocol):
    """An equation dy/da = velocity(a, y) on a grid."""

    grid: Sequence[float]

    def time(self, a: float) -> float:
        """Time at a."""

    def enter(self, u: Tensor) -> Tensor:
        """Whitened rows at the start of the grid as what is carried."""

    def leave(self, a: float, y: Tensor) -> Tensor:
        """What is carried, at a, as whitened rows."""

    def velocity(self, a: float, y: Tensor) -> Tensor:
        """dy/da, of the shape of y."""


class AngleTerm:
    """du/da = -F dphi/da in the arc length a of the angles; what is carried is whitened."""

    def __init__(self, arc: Arc, rate: Rate, grid: Sequence[float]):
        self.arc, self.rate, self.grid, self.time = arc, rate, grid, arc.time

    def enter(self, u: Tensor) -> Tensor:
        """See `Term`."""
        return u

    def leave(self, _: float, y: Tensor) -> Tensor:
        """See `Term`."""
        return y

    def velocity(self, a: float, y: Tensor) -> Tensor:
        """See `Term`."""
        turn = torch.as_tensor(self.arc.turn(a), dtype=y.dtype, device=y.device)
        F, columns = self.rate(self.arc.time(a), y[:, : len(turn)], turn)
        return torch.cat([-turn * F, *columns], 1)


class PaperTerm:
    """dx~/dt in the paper's coordinates, for x~ = scaled_es states (eq. 8).

    Args:
        maps: of the flow.
        rate: evaluates its field.
        grid: times.

    Raises:
        ValueError: for a schedule whose angle is not regular in t.
    """

    def __init__(self, maps: CoordinateMaps, rate: Rate, grid: Sequence[float]):
        if maps.schedule.proportional:
            raise ValueError("g_type=proportional is not regular in t: use an angle solver")
        self.maps, self.rate, self.grid = maps, rate, grid

    def time(self, t: float) -> float:
        """See `Term`."""
        return t

    def enter(self, u: Tensor) -> Tensor:
        """See `Term`."""
        d = self.maps.schedule.data_dim
        return torch.cat(
            [self.maps.from_whitened(u[:, :d], self.grid[0], "scaled_es"), u[:, d:]], 1
        )

    def leave(self, t: float, x: Tensor) -> Tensor:
        """See `Term`."""
        d = self.maps.schedule.data_dim
        return torch.cat([self.maps.to_whitened(x[:, :d], t, "scaled_es"), x[:, d:]], 1)

    def velocity(self, t: float, x: Tensor) -> Tensor:
        """See `Term`."""
        stretch = self.maps.stretch(t, "scaled_es")
        x = x[:, : len(stretch)]
        F, columns = self.rate(t, x / stretch, self.maps.schedule.angle(t)[1].to(x))
        return torch.cat([self.maps.paper_rate(t, x, F), *columns], 1)
