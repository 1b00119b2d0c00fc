"""How a flow is integrated: a method, made from the options once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from dnnlib.cli import UserError, user_errors
from dnnlib.util import Json
from flow.arguments import How
from flow.flow import Flow, ifs_times, vp_ode_times
from flow.options import ImageSolverOptions, SolverOptions, ToySolverOptions
from flow.steppers import PAPER_SOLVERS, SOLVERS
from torch_utils import distributed

PILOTS = 256  # of toys and vectors, at most
IMAGE_PILOTS = 16
LIMIT = 1024  # most steps tried for a tolerance
IMAGE_LIMIT = 64
EVALUATIONS = 32  # of an image, one way, where neither steps nor a tolerance are given
METHOD_OPTIONS = ("solver", "steps", "disc", "vpode_disc_eps", "tol")
Toy = TypeVar("Toy", bound=ToySolverOptions)


@dataclass(frozen=True)
class Method:
    """How to integrate.

    Attributes:
        solver: a name of `steppers.SOLVERS`.
        steps: steps of an angle solver, or time points of a paper solver.
        stop: time of the latents.
        start: time at which data enters.
        times: the time grid of a paper solver, increasing.
        disc: its kind, "ifs" or "vp_ode"; None of an angle solver.
        settings: further arguments of the solver.
        estimate: rms error estimated on pilots, where `steps` was chosen by it.
    """

    solver: str
    steps: int
    stop: float
    start: float = 0.0
    times: list[float] | None = None
    disc: str | None = None
    settings: How = field(default_factory=How)
    estimate: float | None = None

    def describe(self) -> Json:
        """Plain values for a .json file."""
        return {k: v for k, v in asdict(self).items() if k != "times" and v not in (None, {})}

    def how(self) -> How:
        """Arguments of `Flow.integrate`, `inflate`, `generate` and `round_trip`."""
        return {
            "solver": self.solver, "steps": self.steps, "times": self.times, **self.settings
        }  # fmt: skip


def paper_method(
    flow: Flow,
    solver: str,
    disc: str,
    steps: int | None = None,
    h: float | None = None,
    first: float = 1e-2,
) -> Method:
    """A solver of the paper on one of its grids.

    Args:
        flow: the flow.
        solver: a name of `PAPER_SOLVERS`.
        disc: "ifs", `steps` points `h` apart, or "vp_ode", `steps` points from `first` to tmax.
        steps: points of the grid; None on "ifs" for those that reach tmax.
        h: time step of "ifs"; None for 0.01.
        first: time at which "vp_ode" takes the data to be.

    Raises:
        ValueError: if the grid is not one of the flow's.
    """
    tmax = flow.schedule.tmax
    if flow.schedule.proportional:
        raise ValueError(
            f"--solver={solver}: this network's g_type=proportional is not regular in t; use an "
            "angle solver such as --solver=rk4"
        )
    h = 1e-2 if h is None else h
    steps = steps or (max(2, round(tmax / h)) if disc == "ifs" else None)
    if steps is None or steps < 2:
        raise ValueError(f"--steps={steps}: the paper's solvers need at least 2 time points")
    if disc == "vp_ode":
        times = vp_ode_times(steps, tmax, first=first)
        if times[0] >= tmax:
            raise ValueError(f"--disc=vp_ode starts at t={times[0]:g}, not before tmax={tmax:g}")
        return Method(solver, steps, tmax, times[0], times, disc)
    stop = steps * h
    if stop > tmax * (1 + 1e-6):
        raise ValueError(
            f"--steps={steps} times --h={h:g} ends at t={stop:g}, beyond the flow's "
            f"tmax={tmax:g}; use --steps={int(tmax / h + 1e-9)}"
        )
    return Method(solver, steps, stop, times=ifs_times(steps, h), disc=disc)


def angle_method(
    flow: Flow,
    pilots: Callable[[], Tensor],
    solver: str | None,
    steps: int | None,
    tolerance: float,
    limit: int = LIMIT,
) -> Method:
    """A method in arc length, of as few steps as the tolerance allows on pilots.

    Args:
        flow: the flow.
        pilots: gives whitened data at t = 0, [n, d], the same on every rank, when asked.
        solver: a name of `ANGLE_SOLVERS`; None for rk4.
        steps: None to find them.
        tolerance: see `Flow.steps_for`; of "adaptive" that of the solver.
        limit: most steps to try for the tolerance.
    """
    tmax = flow.schedule.tmax
    if solver == "adaptive":
        settings: How = {"rtol": tolerance, "atol": tolerance}
        return Method(solver, steps or 32, tmax, settings=settings)
    solver = solver or "rk4"
    if steps is not None:
        return Method(solver, steps, tmax)
    fixed = "angle_heun" if solver == "reversible" else solver
    found, error = distributed.broadcast(  # machines may round otherwise
        flow.steps_for(pilots(), tmax, tolerance, fixed, limit)
    )
    return Method(solver, found, tmax, estimate=error)


def toy_method(
    flow: Flow, pilots: Callable[[], Tensor], options: Toy, tolerance: float
) -> tuple[Method, Toy]:
    """The method of a script on toys or vectors.

    With --steps or --h alone it is the paper's Euler with exactly those; with nothing, RK4 in arc
    length with as few steps as the tolerance allows.

    Args:
        flow: the flow.
        pilots: see `angle_method`.
        options: of the script, which are checked.
        tolerance: of --tol where it is not given.

    Returns:
        the method; and the options, with --tol filled in where it was used.

    Raises:
        UserError: if the options do not go together, or the grid ends beyond the network's tmax.
    """
    check_solver_options(options)
    solver, steps, h, tol = options.solver, options.steps, options.h, options.tol or tolerance
    if solver is None and (steps is not None or h is not None):
        solver = "euler"
    with user_errors():
        if solver in PAPER_SOLVERS:
            return paper_method(flow, solver, "ifs", steps, h), options
        method = angle_method(flow, pilots, solver, steps, tol)
    used = method.estimate is not None or solver == "adaptive"
    return method, replace(options, tol=tol) if used else options


def image_method(
    flow: Flow,
    pilots: Callable[[], Tensor],
    options: ImageSolverOptions,
    points: int,
    tolerance: float | None = None,
) -> Method:
    """The method of a script on images, the same on all ranks.

    Args:
        flow: the flow, with the classes of the pilots.
        pilots: see `angle_method`.
        options: of the script; a dry run leaves out the search for steps.
        points: of the paper's solvers where --n_iters is not given.
        tolerance: default of --tol; None where the default is 33 evaluations of ab2.

    Raises:
        UserError: if the options do not go together.
    """
    check_solver_options(options)
    solver, steps, tol = options.solver, options.steps, options.tol or tolerance
    disc, first = options.disc, options.vpode_disc_eps
    if solver is None and any(v is not None for v in (steps, disc, first)):
        solver = "heun"
    with user_errors():
        if solver in PAPER_SOLVERS:
            steps = steps or points
            h = flow.schedule.tmax / steps if disc == "ifs" else None
            return paper_method(flow, solver, disc or "vp_ode", steps, h, first or 1e-2)
        if tol is None and solver != "adaptive":
            solver = solver or "ab2"
            steps = steps or EVALUATIONS // (SOLVERS[solver]().stages or 1)
        tol = tol or 1e-3
        needed = steps is None and solver != "adaptive"
        if needed and options.dry_run:
            distributed.print0(
                f"The fewest steps at --tol={tol:g}, at most {IMAGE_LIMIT}, will be found"
            )
            return Method(solver or "rk4", IMAGE_LIMIT, flow.schedule.tmax)
        if needed:
            distributed.print0(f"Looking for the fewest steps at --tol={tol:g} on pilots ...")
        method = angle_method(flow, pilots, solver, steps, tol, IMAGE_LIMIT)
    if method.estimate is not None and method.estimate > tol:
        distributed.print0(
            f"Note: --tol={tol:g} is not reached with {method.steps} steps (estimated error "
            f"{method.estimate:.2g}), the most tried; --solver=rk4 --steps=N takes more"
        )
    return method


def check_solver_options(options: SolverOptions) -> None:
    """Check that the options of a method all have an effect.

    --h, --disc and --vpode_disc_eps are of the paper's grids, and choose them where no solver is
    named; --tol is of angle solvers whose steps are not given.

    Raises:
        UserError: naming the option that has none, and why.
    """
    solver, tol, told = options.solver, options.tol, vars(options)
    grid = [k for k in ("h", "disc", "vpode_disc_eps") if told.get(k) is not None]
    if grid and solver is not None and solver not in PAPER_SOLVERS:
        raise UserError(
            f"--{grid[0]}={told[grid[0]]} is of the paper's time grids, and --solver={solver} "
            f"has none (its steps are in the angle); leave it out, or use --solver="
            f"{' or '.join(PAPER_SOLVERS)}"
        )
    if told.get("disc") == "ifs" and "vpode_disc_eps" in grid:
        raise UserError(
            f"--vpode_disc_eps={told['vpode_disc_eps']:g} is the first time of --disc=vp_ode; "
            "--disc=ifs begins at 0: leave one of them out"
        )
    fixed = solver in PAPER_SOLVERS or (grid and not solver)
    if tol is not None and (fixed or (options.steps and solver != "adaptive")):
        what = next((k for k in ("steps", *grid, "solver") if told.get(k) is not None), "solver")
        raise UserError(
            f"--tol={tol:g} chooses the number of steps, which --{what}={told[what]} settles; "
            "leave one of them out"
        )


def pilots_of(total: int, most: int = PILOTS) -> int:
    """How many pilots serve `total` samples: a quarter, since their search has its cost too."""
    return max(1, min(most, total // 4))


def fallback_tmax(options: ToySolverOptions) -> float | None:
    """Where the paper's Euler grid of --steps and --h ends, which older networks do not know."""
    if options.steps and options.solver in (None, *PAPER_SOLVERS):
        return options.steps * (options.h or 1e-2)
    return None
