r"""The field of a flow, and its integration in arc length or in the paper's time.

In whitened coordinates u the ODE is du = -F dphi, F being what the network outputs. It is
integrated in the arc length a of the angles, with a float64 state. What is integrated is a term;
by what steps, a stepper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flow.arguments import How, check_coordinates, check_integration
from flow.arguments import rows as checked_rows
from flow.coordinates import CoordinateMaps, Coordinates
from flow.steppers import PAPER_SOLVERS, SOLVERS, Field, solve
from training.arc import IMAGE_STEP_GROWTH, STEP_GROWTH, Arc
from training.precond import FieldModel

BLOCK = 2048  # vectors integrated together; fixed, so that results do not depend on the total
IMAGE_BLOCK, GPU_IMAGE_BLOCK = 64, 512  # of images, where --bs is not given; others round otherwise
LARGEST_GRAPH = 2**29  # bytes that autograd may keep of one block; beyond, steps are made twice
Watcher = Callable[[int, float, Tensor], None]  # (step, time t, whitened state)
# (time t, whitened states [n, d], angle rates [d]) -> the field F [n, d] there, and the rates of
# quantities that are integrated along the path in further columns of the state, [n, m] each.
Rate = Callable[[float, Tensor, Tensor], tuple[Tensor, Sequence[Tensor]]]


class Term(NamedTuple):
    """An equation dy/da = velocity(a, y), y being the state and the columns that ride along.

    Attributes:
        grid: of a.
        time: a -> time t.
        enter: whitened rows at the start of the grid -> y.
        leave: (a, y) -> whitened rows.
        velocity: (a, y) -> dy/da.
    """

    grid: Sequence[float]
    time: Callable[[float], float]
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[float, Tensor], Tensor]
    velocity: Callable[[float, Tensor], Tensor]


def angle_term(arc: Arc, rate: Rate, grid: Sequence[float]) -> Term:
    """du/da = -F dphi/da of whitened states, over the arc length of the angles."""

    def velocity(a: float, y: Tensor) -> Tensor:
        turn = torch.as_tensor(arc.turn(a), dtype=y.dtype, device=y.device)
        F, columns = rate(arc.time(a), y[:, : len(turn)], turn)
        return torch.cat([-turn * F, *columns], 1)

    return Term(grid, arc.time, lambda u: u, lambda _, y: y, velocity)


def paper_term(maps: CoordinateMaps, rate: Rate, grid: Sequence[float]) -> Term:
    """dx~/dt in the paper's coordinates, for x~ = scaled_es states (eq. 8).

    Raises:
        ValueError: for a schedule whose angle is not regular in t.
    """
    if maps.schedule.proportional:
        raise ValueError("g_type=proportional is not regular in t: use an angle solver")
    d = maps.schedule.data_dim

    def enter(u: Tensor) -> Tensor:
        return torch.cat([maps.from_whitened(u[:, :d], grid[0], "scaled_es"), u[:, d:]], 1)

    def leave(t: float, x: Tensor) -> Tensor:
        return torch.cat([maps.to_whitened(x[:, :d], t, "scaled_es"), x[:, d:]], 1)

    def velocity(t: float, x: Tensor) -> Tensor:
        x = x[:, :d]
        F, columns = rate(t, x / maps.stretch(t, "scaled_es"), maps.schedule.angle(t)[1].to(x))
        return torch.cat([maps.paper_rate(t, x, F), *columns], 1)

    return Term(grid, lambda t: t, enter, leave, velocity)


class Integrator(CoordinateMaps):
    """A field that can be integrated.

    Args:
        model: exact or trained vector field with its schedule and basis.
        dtype: dtype of the integrated state (float64; float32 where there is no float64).

    Attributes:
        evaluations: calls of the network so far.
        block: samples integrated together. Results depend on it in their last digits.
        images: whether they are images.
        columns: names of the data's columns, if it was a table that named them.
    """

    columns: list[str] | None = None

    def __init__(self, model: FieldModel, dtype: torch.dtype):
        super().__init__(model, dtype)
        self.images = getattr(model, "shape", None) is not None
        self.arc = Arc(model.schedule, growth=IMAGE_STEP_GROWTH if self.images else STEP_GROWTH)
        self.evaluations = 0
        on_gpu = self.device.type == "cuda"
        self.block = (GPU_IMAGE_BLOCK if on_gpu else IMAGE_BLOCK) if self.images else BLOCK

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
        return self.to_whitened(checked_rows(x, self.schedule.data_dim, columns), t, coords)

    def field(self, u: Tensor, t: float) -> Tensor:
        """The network output F(u, t), [n, d]; each call counts as one evaluation."""
        self.evaluations += 1
        when = torch.full((1,), t, dtype=self.model.W.dtype, device=u.device)  # embedded once
        return self.model(u, when)

    def integrate(
        self,
        u: Tensor,
        start: float,
        stop: float,
        solver: str = "rk4",
        steps: int = 32,
        **how: Any,
    ) -> Tensor:
        """Carry whitened states from time `start` to time `stop`.

        Args:
            u: states [n, d], or rows of `carry`.
            start, stop: times in [0, tmax].
            solver: a name of `ANGLE_SOLVERS` (steps of `Arc.grid`), or of `PAPER_SOLVERS`
                (the paper's, in scaled coordinates, on `times`).
            steps: steps of the angle solvers.
            how: further arguments of `carry`.

        Returns:
            states [n, d].

        Raises:
            ValueError: naming the argument that cannot be.
        """
        return self.carry(u, start, stop, solver, steps, **how)[0]

    def carry(
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
    ) -> tuple[Tensor, Tensor]:
        """`integrate`, with rows that can be carried on, and exactly back where the solver can.

        Args:
            u, start, stop, solver, steps: see `integrate`.
            times: time grid of the paper's solvers, between start and stop, in either order.
            callback: called with (step, t, whitened state) at every state.
            rate: evaluates the field, where u has further columns to be integrated along.
            differentiable: keep the graph, so that autograd differentiates through the steps.
            settings: passed to the solver (rtol, atol, coupling).

        Returns:
            states [n, d] and rows [n, ...].

        Raises:
            ValueError: naming the argument that cannot be.
        """
        check_integration(solver, steps, times, settings, differentiable)
        if u.dim() not in (2, 3) or (u.dim() == 3 and u.shape[1] != 2):
            raise ValueError(
                f"u has the shape {tuple(u.shape)}: give [n, d], or the rows [n, 2, d] that the "
                "reversible solver has left"
            )
        rate = rate or self._plain
        if solver in PAPER_SOLVERS:
            term = paper_term(self, rate, sorted(times or (), reverse=stop < start))
        else:
            term = angle_term(self.arc, rate, self.arc.grid(start, stop, steps))
        watch = None
        if callback is not None:

            def watch(k: int, a: float, y: Tensor) -> None:
                callback(k, term.time(a), term.leave(a, y))

        stepper = SOLVERS[solver](**settings)
        with torch.set_grad_enabled(differentiable):
            y, velocity = term.enter(u), term.velocity
            if differentiable and y.requires_grad:
                velocity = self._in_memory(velocity, len(term.grid) * (stepper.stages or 1))
            y, rows = solve(stepper, velocity, y, term.grid, watch)
            u = term.leave(term.grid[-1], y)
            return u, u if rows is y else term.leave(term.grid[-1], rows)

    def _in_memory(self, velocity: Field, evaluations: int) -> Field:
        """A velocity that is evaluated again on the way back where the graph would be too large."""
        size = -1
        kept = (*self.model.parameters(), *self.model.buffers())
        weights = {w.untyped_storage().data_ptr() for w in kept}

        def keep(saved: Tensor) -> Tensor:
            nonlocal size
            size += saved.nbytes if saved.untyped_storage().data_ptr() not in weights else 0
            return saved

        def bounded(a: float, y: Tensor) -> Tensor:
            nonlocal size
            if size < 0:  # the first, which tells
                size = 0
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
                    return velocity(a, y)
            if size * evaluations <= LARGEST_GRAPH:
                return velocity(a, y)
            again = checkpoint(velocity, a, y, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(again, Tensor)
            return again

        return bounded

    def _in_blocks(self, step: Callable[[Tensor], Tensor], u: Tensor, how: How) -> Tensor:
        """step(block) of all blocks, so that memory stays flat; a callback sees all rows."""
        whole = how.get("callback") is not None or len(u) <= self.block
        return step(u) if whole else torch.cat([step(b) for b in u.split(self.block)])

    def _plain(self, t: float, u: Tensor, _: Tensor) -> tuple[Tensor, tuple[()]]:
        return self.field(u, t), ()

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
