r"""ODE steppers: how a state begins, makes one step, and is read.

    state = init(f, grid, y);  state = step(f, a, b, state);  y = value(state)

f(a, y) is dy/da; `grid` is an increasing or decreasing sequence of floats. Runge-Kutta methods are
tableaux, not code. What a method remembers between steps is in its state, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

Field = Callable[[float, Tensor], Tensor]
Watch = Callable[[int, float, Tensor], None]


class Stepper(NamedTuple):
    """A method.

    Attributes:
        init: (f, grid, values [n, d]) -> state.
        step: (f, a, b, state at a) -> state at b.
        value: state -> values [n, d].
        rows: state -> what `solve` goes on from another time, [n, ...].
        order: of its error; None where the step size adapts.
        stages: evaluations a step; None where they are not known.
    """

    init: Callable[[Field, Sequence[float], Tensor], Any]
    step: Callable[[Field, float, float, Any], Any]
    value: Callable[[Any], Tensor]
    rows: Callable[[Any], Tensor]
    order: int | None = None
    stages: int | None = None


def solve(
    stepper: Stepper, f: Field, y: Tensor, grid: Sequence[float], watch: Watch | None = None
) -> tuple[Tensor, Tensor]:
    """Carry y along a grid.

    Args:
        stepper: the method.
        f: dy/da.
        y: values [n, d] at the start of the grid, or rows from the end of another.
        grid: positions, increasing or decreasing.
        watch: sees (number, position, values) of every state, the first and the last included.

    Returns:
        `Stepper.value` and `Stepper.rows` at the end of the grid, [n, d] and [n, ...].
    """
    state = stepper.init(f, grid, y)
    if watch is not None:
        watch(0, grid[0], stepper.value(state))
    for k, (a, b) in enumerate(pairwise(grid)):
        state = stepper.step(f, a, b, state)
        if watch is not None:
            watch(k + 1, b, stepper.value(state))
    return stepper.value(state), stepper.rows(state)


def value_of(rows: Tensor) -> Tensor:
    """The values [n, d] of rows [n, d], or [n, 2, d] of the reversible method."""
    return rows if rows.dim() == 2 else rows[:, 0].contiguous()


def _value(_: Field, __: Sequence[float], y: Tensor) -> Tensor:
    return value_of(y)


def _same(y: Tensor) -> Tensor:
    return y


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: stage times c, stage weights a, final weights b, order."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int


EULER = Tableau((0.0,), ((),), (1.0,), 1)
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5), 2)
RK4 = Tableau(
    (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4
)


def increment(f: Field, tableau: Tableau, a: float, h: float, y: Tensor) -> Tensor:
    """Change of y over one Runge-Kutta step of length h from a."""
    stages: list[Tensor] = []
    for c, weights in zip(tableau.c, tableau.a, strict=True):
        shifted = y
        for w, k in zip(weights, stages, strict=True):
            if w:
                shifted = shifted + (h * w) * k
        stages.append(f(a + c * h, shifted))
    change = torch.zeros_like(y)
    for b, k in zip(tableau.b, stages, strict=True):
        change = change + (h * b) * k
    return change


def runge_kutta(tableau: Tableau) -> Stepper:
    """The method of a tableau; its state is the values."""

    def step(f: Field, a: float, b: float, y: Tensor) -> Tensor:
        return y + increment(f, tableau, a, b - a, y)

    return Stepper(_value, step, _same, _same, tableau.order, len(tableau.b))


def adams_weights(h: float, past: Sequence[float]) -> list[float]:
    """Weights of an Adams-Bashforth step on uneven nodes: mean of the interpolating polynomial.

    Newton's form, in which the formula of each order is that of the order below plus one term.

    Args:
        h: length of the step.
        past: lengths of the steps before, the last first; at most two.

    Returns:
        weights of the slope now and of those before, the last first, [len(past) + 1]; sum 1.
    """
    if not past:
        return [1.0]
    first = h / past[0] / 2  # mean of s over the step, over the node distance
    if len(past) == 1:
        return [1 + first, -first]
    near, far = past
    second = h * (h / 3 + near / 2) / (near + far)  # mean of s (s + near)
    return [1 + first + second / near, -first - second * (1 / near + 1 / far), second / far]


class _Multistep(NamedTuple):
    y: Tensor
    slopes: list[Tensor]  # at the steps before, the last first
    past: list[float]  # their lengths


def adams_bashforth(order: int, where: float) -> Stepper:
    """One evaluation a step, and one more for each of the first `order` - 1 steps.

    Only values of f are combined, never rates, so a dimension that does not move stays put.

    Args:
        order: 2 or 3.
        where: share of the step at which the second-order Runge-Kutta steps of the start look.
    """

    def step(f: Field, a: float, b: float, state: _Multistep) -> _Multistep:
        y, h = state.y, b - a
        slopes = [f(a, y), *state.slopes]
        if len(slopes) < order:
            inside = f((1 - where) * a + where * b, y + (where * h) * slopes[0])
            w = 1 / (2 * where)
            y = y + h * ((1 - w) * slopes[0] + w * inside)
        else:
            first, *rest = adams_weights(h, state.past)
            change = first * slopes[0]
            for w, slope in zip(rest, slopes[1:], strict=True):
                change = change + w * slope
            y = y + h * change
        return _Multistep(y, slopes[: order - 1], [h, *state.past][: order - 1])

    def value(state: _Multistep) -> Tensor:
        return state.y

    return Stepper(lambda f, grid, y: _Multistep(value_of(y), [], []), step, value, value, order, 1)


class _Pair(NamedTuple):
    y: Tensor
    z: Tensor


def reversible(coupling: float = 0.99) -> Stepper:
    """Algebraically reversible coupled scheme over Heun; a decreasing grid inverts it exactly.

    It carries a pair of states, equal at the start, and inverting needs both: `rows` is [n, 2, d].

    Args:
        coupling: lambda, which pulls the pair together.

    Reference: McCallum and Foster 2024, "Efficient, accurate and stable gradients for neural ODEs".
    """

    def init(_: Field, __: Sequence[float], rows: Tensor) -> _Pair:
        if rows.dim() == 2:
            return _Pair(rows, rows)
        return _Pair(rows[:, 0].contiguous(), rows[:, 1].contiguous())

    def step(f: Field, a: float, b: float, pair: _Pair) -> _Pair:
        y, z = pair
        if b > a:
            y = coupling * y + (1 - coupling) * z + increment(f, HEUN, a, b - a, z)
            return _Pair(y, z - increment(f, HEUN, b, a - b, y))
        z = z + increment(f, HEUN, a, b - a, y)  # the step a -> b taken back: b is where it began
        return _Pair((y - (1 - coupling) * z - increment(f, HEUN, b, a - b, z)) / coupling, z)

    return Stepper(init, step, lambda pair: pair.y, lambda pair: torch.stack(pair, 1), 2, 4)


def adaptive(rtol: float = 1e-6, atol: float = 1e-6) -> Stepper:
    """Dormand-Prince with error control, by torchdiffeq, which makes all states of a grid at once.

    Its `init` raises a RuntimeError, naming position and state norm, if the step size underflows.
    """
    from torchdiffeq import odeint

    def init(f: Field, grid: Sequence[float], rows: Tensor) -> list[Tensor]:
        last: dict[str, float] = {}

        def traced(a: Tensor, state: Tensor) -> Tensor:
            last.update(a=float(a), norm=float(state.square().mean().sqrt()))
            return f(float(a), state)

        where = torch.tensor(list(grid), dtype=rows.dtype, device=rows.device)
        ends: dict[str, Any] = {"step_t": where[-1:]}  # step onto the end, not over it
        if rows.device.type == "mps":  # which has no float64
            ends["dtype"] = rows.dtype
        how: dict[str, Any] = {"rtol": rtol, "atol": atol, "method": "dopri5", "options": ends}
        try:
            return list(odeint(traced, value_of(rows), where, **how))
        except AssertionError as error:
            raise RuntimeError(
                f"adaptive solver gave up at arc length {last.get('a', float('nan')):.6g}, where "
                f"the state's rms is {last.get('norm', float('nan')):.3g} ({error}); loosen the "
                "tolerance or use a fixed-step solver"
            ) from error

    def now(left: list[Tensor]) -> Tensor:
        return left[0]

    return Stepper(init, lambda f, a, b, left: left[1:], now, now)


ANGLE_SOLVERS: dict[str, Callable[..., Stepper]] = {
    "angle_euler": partial(runge_kutta, EULER),
    "angle_heun": partial(runge_kutta, HEUN),
    "ab2": partial(adams_bashforth, 2, 1.0),
    "ab3": partial(adams_bashforth, 3, 0.5),
    "rk4": partial(runge_kutta, RK4),
    "adaptive": adaptive,
    "reversible": reversible,
}
# The published names are the published integrators: in the paper's coordinates, on its grids.
PAPER_SOLVERS: dict[str, Callable[..., Stepper]] = {
    "euler": partial(runge_kutta, EULER),
    "heun": partial(runge_kutta, HEUN),
}
SOLVERS = ANGLE_SOLVERS | PAPER_SOLVERS
SOLVER_HELP = (
    "heun and euler are the paper's, on its time grids; the others integrate in the angle, where "
    "these two are angle_heun and angle_euler"
)
