r"""The field of a flow, and its integration in arc length or in the paper's time.

In whitened coordinates u the ODE is du = -F dphi, F being what the network outputs. It is
integrated in the arc length a of the angles, with a float64 state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flow.arguments import check_coordinates, check_integration, rows
from flow.coordinates import CoordinateMaps, Coordinates
from flow.solvers import PAPER_SOLVERS, SOLVERS
from training.arc import IMAGE_STEP_GROWTH, STEP_GROWTH, Arc
from training.precond import FieldModel

BLOCK = 2048  # samples integrated together; fixed, so that results do not depend on the total
IMAGE_BLOCK = 64  # the same for images; convolutions of other batch sizes round differently
Watcher = Callable[[int, float, Tensor], None]  # (step, time t, whitened state)
# (time t, whitened states [n, d], angle rates [d]) -> the field F [n, d] there, and the rates of
# quantities that are integrated along the path in m further columns of the state, [n, m].
Rate = Callable[[float, Tensor, Tensor], tuple[Tensor, Tensor]]


class Integrator(CoordinateMaps):
    """A field that can be integrated.

    Args:
        model: exact or trained vector field with its schedule and basis.
        dtype: dtype of the integrated state (float64; float32 where there is no float64).

    Attributes:
        evaluations: calls of the network so far.
        block: samples integrated together.
        columns: names of the data's columns, if it was a table that named them.
    """

    columns: list[str] | None = None

    def __init__(self, model: FieldModel, dtype: torch.dtype):
        super().__init__(model, dtype)
        images = getattr(model, "shape", None) is not None
        self.arc = Arc(model.schedule, growth=IMAGE_STEP_GROWTH if images else STEP_GROWTH)
        self.evaluations = 0
        self.block = IMAGE_BLOCK if images else BLOCK

    def admit(self, x: Any, t: float, coords: Coordinates) -> Tensor:
        """What a user passes, checked and whitened: [n, d] of any kind, or a pandas DataFrame.

        Args:
            x: states. Columns of a DataFrame of data are taken by name, if the flow knows names.
            t: their time.
            coords: their coordinates.

        Raises:
            ValueError: naming what is wrong with x or coords.
        """
        check_coordinates(coords)
        columns = self.columns if coords == "unscaled" else None
        return self.to_whitened(rows(x, self.schedule.data_dim, columns), t, coords)

    def field(self, u: Tensor, t: float) -> Tensor:
        """The network output F(u, t), [n, d]; each call counts as one evaluation."""
        self.evaluations += 1
        when = torch.full((1,), t, dtype=self.model.W.dtype, device=u.device)  # embedded once
        return self.model(u, when)

    def velocity(self, a: float, y: Tensor, rate: Rate | None = None) -> Tensor:
        """du/da = -F dphi/da at arc length a, [n, d], and the further columns of `rate`."""
        turn = torch.as_tensor(self.arc.turn(a), dtype=y.dtype, device=y.device)
        if rate is None:
            return -turn * self.field(y, self.arc.time(a))
        F, further = rate(self.arc.time(a), y[:, : len(turn)], turn)
        return torch.cat([-turn * F, further], 1)

    def paper_velocity(self, t: float, x: Tensor, rate: Rate | None = None) -> Tensor:
        """dx~/dt in the paper's coordinates, for x~ = scaled_es states, [n, d] (eq. 8).

        Raises:
            ValueError: for a schedule whose angle is not regular in t.
        """
        if self.schedule.proportional:
            raise ValueError("g_type=proportional is not regular in t: use an angle solver")
        stretch = self.stretch(t, "scaled_es")
        if rate is None:
            return self.paper_rate(t, x, self.field(x / stretch, t))
        x = x[:, : len(stretch)]
        F, further = rate(t, x / stretch, self.schedule.angle(t)[1].to(x))
        return torch.cat([self.paper_rate(t, x, F), further], 1)

    def paper_rate(self, t: float, x: Tensor, F: Tensor) -> Tensor:
        """dx~/dt for scaled_es states x and the field F at them, [n, d].

        x~ = s sqrt(S) u, so dx~/dt = (s'/s + S'/2S) x~ - s sqrt(S) F dphi/dt: no division by gamma.
        """
        s, ds = self.schedule.scale(t)
        dS, S = self.schedule.gamma(t)[1], self.schedule.total(t)
        growth, turn = ds / s + dS / (2 * S), s * S.sqrt() * self.schedule.angle(t)[1]
        return growth.to(x) * x - turn.to(x) * F

    def integrate(
        self,
        u: Tensor,
        start: float,
        stop: float,
        solver: str = "rk4",
        steps: int = 32,
        times: Sequence[float] | None = None,
        callback: Watcher | None = None,
        rate: Rate | None = None,
        differentiable: bool = False,
        **settings: float,
    ) -> Tensor:
        """Carry whitened states from time `start` to time `stop`.

        Args:
            u: states [n, d]; for the reversible solver also a pair [2, n, d].
            start, stop: times in [0, tmax].
            solver: a name of `SOLVERS` (steps of `Arc.grid`), or of `PAPER_SOLVERS`
                (the paper's, in scaled coordinates, on `times`).
            steps: steps of the angle solvers.
            times: time grid of the paper's solvers, between start and stop, in either order.
            callback: called with (step, t, whitened state) at every state.
            rate: evaluates the field, where u has further columns to be integrated along.
            differentiable: keep the graph, so that autograd differentiates through the steps.
            settings: passed to the solver (rtol, atol, coupling).

        Returns:
            states of the shape of u.

        Raises:
            ValueError: naming the argument that cannot be.
        """
        check_integration(solver, steps, times, settings, differentiable)
        with torch.set_grad_enabled(differentiable):
            if solver in PAPER_SOLVERS:
                times = sorted(times or (), reverse=stop < start)
                return self._integrate_paper(u, PAPER_SOLVERS[solver], times, callback, rate)
            grid = self.arc.grid(start, stop, steps)
            watch = None
            if callback is not None:

                def watch(k: int, a: float, y: Tensor) -> None:
                    callback(k, self.arc.time(a), y)

            velocity = partial(self.velocity, rate=rate)
            if solver != "reversible":
                return SOLVERS[solver](velocity, u, grid, watch, **settings)
            pair = u if u.dim() == 3 else torch.stack([u, u])
            pair = SOLVERS[solver](velocity, pair, grid, watch, **settings)
            return pair if u.dim() == 3 else pair[0]

    def _integrate_paper(
        self,
        u: Tensor,
        method: Callable,
        times: Sequence[float],
        callback: Watcher | None,
        rate: Rate | None,
    ) -> Tensor:
        d = self.schedule.data_dim

        def whiten(x: Tensor, t: float) -> Tensor:
            return torch.cat([self.to_whitened(x[:, :d], t, "scaled_es"), x[:, d:]], 1)

        watch = None
        if callback is not None:

            def watch(k: int, t: float, x: Tensor) -> None:
                callback(k, t, whiten(x, t))

        x = torch.cat([self.from_whitened(u[:, :d], times[0], "scaled_es"), u[:, d:]], 1)
        x = method(partial(self.paper_velocity, rate=rate), x, times, watch)
        return whiten(x, times[-1])

    def ends(
        self, solver: str = "rk4", times: Sequence[float] | None = None, **_: Any
    ) -> tuple[float, float]:
        """Times at which data enters and latents leave, for arguments of `integrate`.

        These are 0 and tmax, but the paper's solvers take data to be at the first time of their
        grid (0.01 on `vp_ode_times`) and latents at its last.
        """
        if solver in PAPER_SOLVERS and times is not None:
            return min(times), max(times)
        return 0.0, self.schedule.tmax
