"""Options of integration: each must have an effect; and the pilots that steps are found on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dnnlib.cli import UserError, user_errors
from flow.flow import Flow
from flow.simulation import Method, choose_method
from flow.solvers import PAPER_SOLVERS

METHOD_OPTIONS = ("solver", "steps", "disc", "vpode_disc_eps", "tol")
PILOTS = 256  # at most


def check_solver_options(options: dict[str, Any]) -> None:
    """Check that the options of a method all have an effect.

    --h, --disc and --vpode_disc_eps are of the paper's grids, and choose them where no solver is
    named; --tol is of angle solvers whose steps are not given.

    Raises:
        UserError: naming the option that has none, and why.
    """
    solver, steps, tol = (options[k] for k in ("solver", "steps", "tol"))
    grid = [k for k in ("h", "disc", "vpode_disc_eps") if options.get(k) is not None]
    if grid and solver is not None and solver not in PAPER_SOLVERS:
        raise UserError(
            f"--{grid[0]}={options[grid[0]]} is of the paper's time grids, and --solver={solver} "
            f"has none (its steps are in the angle); leave it out, or use --solver="
            f"{' or '.join(PAPER_SOLVERS)}"
        )
    if options.get("disc") == "ifs" and "vpode_disc_eps" in grid:
        raise UserError(
            f"--vpode_disc_eps={options['vpode_disc_eps']:g} is the first time of --disc=vp_ode; "
            "--disc=ifs begins at 0: leave one of them out"
        )
    fixed = solver in PAPER_SOLVERS or (grid and not solver) or (steps and solver != "adaptive")
    if tol is not None and fixed:
        what = next((k for k in ("steps", *grid, "solver") if options.get(k) is not None), "solver")
        raise UserError(
            f"--tol={tol:g} chooses the number of steps, which --{what}={options[what]} settles; "
            "leave one of them out"
        )


def pilots_of(total: int, most: int = PILOTS) -> int:
    """How many pilots serve `total` samples: a quarter, since their search has its cost too."""
    return max(1, min(most, total // 4))


def toy_method(flow: Flow, pilot: Tensor, options: dict[str, Any], tolerance: float) -> Method:
    """`choose_method` by a script's options, which are checked; --tol is filled in where used.

    Args:
        flow: the flow.
        pilot: whitened data at t = 0, [n, d], the same on every rank.
        options: of the script.
        tolerance: of --tol where it is not given.

    Raises:
        UserError: if the options do not go together, or the grid ends beyond the network's tmax.
    """
    check_solver_options(options)
    solver, steps, h = options["solver"], options["steps"], options.get("h")
    with user_errors():
        method = choose_method(flow, pilot, solver, steps, h, options["tol"] or tolerance)
    if method.estimate is not None or solver == "adaptive":
        options["tol"] = options["tol"] or tolerance
    return method
