"""ODE solvers: free functions with one signature.

    solver(f, y, grid, callback=None) -> y at the end of the grid

f(a, y) is dy/da; `grid` is an increasing or decreasing sequence of floats; `callback(k, a, y)` sees
every state, the first and the last included. Runge-Kutta methods are tableaux, not code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[float, Tensor], Tensor]
Callback = Callable[[int, float, Tensor], None]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method: stage times c, stage weights a, final weights b."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


EULER = Tableau((0.0,), ((),), (1.0,))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
RK4 = Tableau(
    (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
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


def _runge_kutta(tableau: Tableau) -> Callable[..., Tensor]:
    def solve(
        f: Field, y: Tensor, grid: Sequence[float], callback: Callback | None = None
    ) -> Tensor:
        _report(callback, 0, grid[0], y)
        for k in range(len(grid) - 1):
            y = y + increment(f, tableau, grid[k], grid[k + 1] - grid[k], y)
            _report(callback, k + 1, grid[k + 1], y)
        return y

    return solve


euler, heun, rk4 = (_runge_kutta(t) for t in (EULER, HEUN, RK4))


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


def _adams_bashforth(order: int, where: float) -> Callable[..., Tensor]:
    def solve(
        f: Field, y: Tensor, grid: Sequence[float], callback: Callback | None = None
    ) -> Tensor:
        _report(callback, 0, grid[0], y)
        slopes: list[Tensor] = []
        past: list[float] = []
        for k in range(len(grid) - 1):
            a, b = grid[k], grid[k + 1]
            h = b - a
            slopes.insert(0, f(a, y))
            if len(slopes) < order:  # start: a second-order Runge-Kutta step
                inside = f((1 - where) * a + where * b, y + (where * h) * slopes[0])
                w = 1 / (2 * where)
                y = y + h * ((1 - w) * slopes[0] + w * inside)
            else:
                first, *rest = adams_weights(h, past)
                change = first * slopes[0]
                for w, slope in zip(rest, slopes[1:], strict=True):
                    change = change + w * slope
                y = y + h * change
            slopes, past = slopes[: order - 1], [h, *past][: order - 1]
            _report(callback, k + 1, b, y)
        return y

    return solve


# Adams-Bashforth: one evaluation a step, and one more for each of the first `order` - 1 steps. Only
# values of f are combined, never rates, so a dimension that does not move stays put.
ab2 = _adams_bashforth(2, where=1.0)
ab3 = _adams_bashforth(3, where=0.5)


def reversible(
    f: Field,
    y: Tensor,
    grid: Sequence[float],
    callback: Callback | None = None,
    coupling: float = 0.99,
) -> Tensor:
    """Algebraically reversible coupled scheme over Heun; a decreasing grid inverts it exactly.

    Args:
        f, grid, callback: as everywhere.
        y: the pair of states that the scheme carries, [2, n, d]; a start has both equal.
        coupling: lambda, which pulls the pair together.

    Returns:
        the pair at the end of the grid, [2, n, d]. Inverting needs both halves.

    Reference: McCallum and Foster 2024, "Efficient, accurate and stable gradients for neural ODEs".
    """
    y, z = y
    _report(callback, 0, grid[0], y)
    for k in range(len(grid) - 1):
        a, b = grid[k], grid[k + 1]
        if b > a:
            y = coupling * y + (1 - coupling) * z + increment(f, HEUN, a, b - a, z)
            z = z - increment(f, HEUN, b, a - b, y)
        else:  # the same step a -> b taken back: here b is where it began
            z = z + increment(f, HEUN, a, b - a, y)
            y = (y - (1 - coupling) * z - increment(f, HEUN, b, a - b, z)) / coupling
        _report(callback, k + 1, b, y)
    return torch.stack([y, z])


def adaptive(
    f: Field,
    y: Tensor,
    grid: Sequence[float],
    callback: Callback | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> Tensor:
    """Dormand-Prince with error control, by torchdiffeq; states are reported on the grid.

    Raises:
        RuntimeError: naming position and state norm, if the step size underflows.
    """
    from torchdiffeq import odeint

    last: dict[str, float] = {}

    def traced(a: Tensor, state: Tensor) -> Tensor:
        last.update(a=float(a), norm=float(state.square().mean().sqrt()))
        return f(float(a), state)

    where = torch.tensor(list(grid), dtype=y.dtype, device=y.device)
    try:
        ends = {"step_t": where[-1:]}  # step onto the end, not over it
        states = odeint(traced, y, where, rtol=rtol, atol=atol, method="dopri5", options=ends)
    except AssertionError as error:
        raise RuntimeError(
            f"adaptive solver gave up at arc length {last.get('a', float('nan')):.6g}, where the "
            f"state's rms is {last.get('norm', float('nan')):.3g} ({error}); loosen the tolerance "
            "or use a fixed-step solver"
        ) from error
    for k, state in enumerate(states):
        _report(callback, k, grid[k], state)
    return states[-1]


def _report(callback: Callback | None, k: int, a: float, y: Tensor) -> None:
    if callback is not None:
        callback(k, float(a), y)


SOLVERS: dict[str, Callable[..., Tensor]] = {
    "angle_euler": euler,
    "angle_heun": heun,
    "ab2": ab2,
    "ab3": ab3,
    "rk4": rk4,
    "adaptive": adaptive,
    "reversible": reversible,
}
# Evaluations a step.
STAGES = {"angle_euler": 1, "angle_heun": 2, "ab2": 1, "ab3": 1, "rk4": 4, "reversible": 4}
ORDERS = {"angle_euler": 1, "angle_heun": 2, "ab2": 2, "ab3": 3, "rk4": 4, "reversible": 2}
SOLVER_HELP = (
    "heun and euler are the paper's, on its time grids; the others integrate in the angle, where "
    "these two are angle_heun and angle_euler"
)
# The published names are the published integrators: in the paper's coordinates, on its grids.
PAPER_SOLVERS: dict[str, Callable[..., Tensor]] = {"euler": euler, "heun": heun}
