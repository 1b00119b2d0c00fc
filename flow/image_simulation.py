"""What the scripts that integrate image networks share: options, checks, pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from flow.flow import Flow, open_flow
from flow.integration import IMAGE_BLOCK
from flow.latents import GEN_SOURCE_HELP, GEN_SOURCES, class_labels, class_number, drawn_of
from flow.method_options import check_solver_options
from flow.simulation import Method, choose_method, paper_method
from flow.simulation_run import check_content, check_network_dimensions
from flow.solvers import PAPER_SOLVERS, SOLVER_HELP, SOLVERS
from torch_utils import distributed
from training.data.images import ImageSource, to_pixels

STAGES = {
    "angle_euler": 1,
    "angle_heun": 2,
    "ab2": 1,
    "ab3": 1,
    "rk4": 4,
    "reversible": 4,
}  # evaluations a step
EVALUATIONS = 32  # one way, where neither steps nor a tolerance are given
PILOTS = 16
LIMIT = 64  # most steps tried for a tolerance

UNLABELLED = "none"  # what --class says for zero labels


class ClassNumber(click.ParamType):
    """A class, or none."""

    name = "INTEGER|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        """Parse "3" to 3 and leave "none" as it is."""
        if value == UNLABELLED or isinstance(value, int):
            return value
        if not value.isdecimal():
            self.fail(f"{value!r} is neither a class, 0 or more, nor {UNLABELLED}", param, ctx)
        return int(value)


network_options = cli.options(
    click.option("--save_dir", type=click.Path(), required=True, help="where results go"),
    click.option("--network", required=True, help="network file, or folder of runs (its latest)"),
    *cli.network_checks,
    click.option("--end_vars", type=float, help="variance of kept latents [read from the network]"),
    click.option("--img_size", type=int, help="side of the images, if you want it checked"),
    click.option("--img_ch", type=int, help="their channels, if you want them checked"),
    click.option("--data_name", help="name of the data in results [that of the network]"),
    click.option("--data_dim", type=int, help="[read from the network]"),
    click.option("--dims_to_keep", type=int, help="[read from the network]"),
)
generation_options = cli.options(
    click.option("--eps", type=click.FloatRange(min=0, min_open=True),
                 help="variance of compressed latents in generation [the schedule's own]"),
    click.option("--gen_source", type=click.Choice(GEN_SOURCES), default="diag",
                 help=GEN_SOURCE_HELP),
    click.option("--class", "class_", type=ClassNumber(),
                 help="of a class-conditional network: generate this class only [random classes]; "
                 "none: give it zero labels throughout, as the published scripts do"),
)  # fmt: skip
labels_option = click.option(
    "--class", "class_", type=click.Choice([UNLABELLED]),
    help="give a class-conditional network zero labels, as the published scripts do "
    "[those of the images]",
)  # fmt: skip
batch_option = click.option(
    "--bs", type=click.IntRange(min=1), default=IMAGE_BLOCK,
    help=f"accepted for older commands: the network's batch is always {IMAGE_BLOCK}, on which the "
    "last bits depend, so that a seed gives the same result in any run",
)  # fmt: skip


def solver_options(points: int, tolerance: float | None) -> Callable:
    """Options that choose a method.

    Args:
        points: of the paper's solvers.
        tolerance: default of --tol; None where the default is 33 evaluations of ab2.
    """
    stated = f"rk4 at --tol={tolerance:g}" if tolerance else "ab2 with 33 evaluations"
    tol_help = "rms error allowed on pilots, whitened units, by the fewest steps (a power of two)"
    tol_help += f" [{tolerance:g}]" if tolerance else ""
    return cli.options(
        click.option("--solver", type=click.Choice([*SOLVERS, *PAPER_SOLVERS]),
                     help=f"{SOLVER_HELP}  [{stated}, fewer evaluations for the same error than "
                     "the published default, heun; heun if --n_iters or --disc is given]"),
        click.option("--steps", "--n_iters", type=click.IntRange(min=1),
                     help="solver steps; without --solver, points of the paper's Heun grid "
                     f"[{points} for the paper's solvers]"),
        click.option("--disc", type=click.Choice(["ifs", "vp_ode"]),
                     help="grid of the paper's solvers: linear from 0, or from 0.01 to tmax "
                     "[vp_ode]"),
        click.option("--vpode_disc_eps", type=click.FloatRange(min=0, min_open=True),
                     help="first time of --disc=vp_ode [0.01]"),
        click.option("--tol", type=click.FloatRange(min=1e-10), help=tol_help),
    )  # fmt: skip


def choose_image_method(
    flow: Flow,
    pilots: Callable[[], Tensor],
    options: dict[str, Any],
    points: int,
    tolerance: float | None = None,
) -> Method:
    """Turn the options of a method into one, the same on all ranks.

    Args:
        flow: the flow, with the classes of the pilots.
        pilots: gives whitened data at t = 0, [n, d], when asked.
        options: of the script.
        points: of the paper's solvers where --n_iters is not given.
        tolerance: default of --tol; None where the default is 33 evaluations of ab2.

    Raises:
        UserError: if the options do not go together.
    """
    check_solver_options(options)
    solver, steps, disc, first = (options[k] for k in ("solver", "steps", "disc", "vpode_disc_eps"))
    if solver is None and any(v is not None for v in (steps, disc, first)):
        solver = "heun"
    tol = options["tol"] or tolerance
    with cli.user_errors():
        if solver in PAPER_SOLVERS:
            steps = steps or points
            h = flow.schedule.tmax / steps if disc == "ifs" else None
            return paper_method(flow, solver, disc or "vp_ode", steps, h, first or 1e-2)
        if tol is None and solver != "adaptive":
            solver = solver or "ab2"
            steps = steps or EVALUATIONS // STAGES[solver]
        tol = tol or 1e-3
        needed = steps is None and solver != "adaptive"
        if needed and options["dry_run"]:
            distributed.print0(f"The fewest steps at --tol={tol:g}, at most {LIMIT}, will be found")
            return Method(solver or "rk4", LIMIT, flow.schedule.tmax)
        if needed:
            distributed.print0(f"Looking for the fewest steps at --tol={tol:g} on pilots ...")
        pilot = pilots() if needed else torch.empty(0)
        method = choose_method(flow, pilot, solver, steps, None, tol, LIMIT)
    if method.estimate is not None and method.estimate > tol:
        distributed.print0(
            f"Note: --tol={tol:g} is not reached with {method.steps} steps (estimated error "
            f"{method.estimate:.2g}), the most tried; --solver=rk4 --steps=N takes more"
        )
    chosen = distributed.broadcast(method)
    assert isinstance(chosen, Method)
    return chosen


def open_network(options: dict[str, Any]) -> tuple[Flow, str]:
    """The flow of --network and the SHA-256 of its file; --data_name is filled in.

    Raises:
        UserError: if it is not a network of images, or another option contradicts it.
    """
    flow = open_flow(options)
    assert flow.digest is not None
    if getattr(flow.model, "shape", None) is None or len(shape_of(flow)) != 3:
        raise UserError(
            f"--network={options['network']} was not trained on images; see toy_pfODE_int.py"
        )
    check_network_dimensions(flow, options)
    options["data_name"] = options["data_name"] or flow.info.get("data", {}).get("name", "images")
    if Path(options["data_name"]).name != options["data_name"]:
        raise UserError(
            f"--data_name={options['data_name']} becomes part of file names: give a plain name"
        )
    return flow, flow.digest


def shape_of(flow: Flow) -> tuple[int, ...]:
    """Channels, height and width of the network's images."""
    return tuple(flow.model.shape)  # type: ignore[arg-type, union-attr]


def classes_of(flow: Flow) -> int:
    """Classes that the network is given, 0 for none."""
    if flow.unlabelled:
        return 0
    return int(getattr(flow.model.model, "label_dim", 0))  # type: ignore[union-attr]


def check_class(flow: Flow, label: int | str | None) -> int | None:
    """Check --class, a label as the data has it; with "none" the network gets zeros from here on.

    Returns:
        the number of the class to generate; None for all of them, or without classes.

    Raises:
        UserError: saying which classes there are.
    """
    classes = classes_of(flow)
    if classes and label is None:
        distributed.print0(
            f"Note: this network has {classes} classes, and its samples have their labels; the "
            f"published scripts gave it zeros, as --class={UNLABELLED} does"
        )
    if classes and label == UNLABELLED:
        flow.unlabelled = True
        return None
    with cli.user_errors():
        return class_number(flow, label)


def pilot_classes(flow: Flow) -> np.ndarray | None:
    """Numbers of the classes of pilots, [PILOTS]; None without classes."""
    return np.resize(drawn_of(flow), PILOTS) if classes_of(flow) else None


def one_hot(flow: Flow, classes: np.ndarray | None) -> Tensor | None:
    """Class numbers [n] as the labels that the network takes, [n, classes]."""
    if classes is None:
        return None
    number = torch.from_numpy(classes.astype(np.int64))
    return torch.nn.functional.one_hot(number, classes_of(flow)).float()


def open_data(flow: Flow, path: str | None) -> ImageSource:
    """The images of --data_root, checked against the network.

    Raises:
        UserError: naming the option and both values.
    """
    if path is None:
        raise UserError("--data_root is missing: name a zip or folder made by dataset_tool.py")
    with cli.user_errors("--data_root"):
        source = ImageSource(path, use_labels=classes_of(flow) > 0, class_labels=class_labels(flow))
    if source.shape != shape_of(flow):
        raise UserError(
            f"--data_root={path} has images of {_size(source.shape)}; the network was trained on "
            f"{_size(shape_of(flow))}: name its data, or convert these with dataset_tool.py"
        )
    check_content(flow, source, "--data_root", path)
    return source


def drawn_classes(source: ImageSource, seed: int, start: int, stop: int) -> np.ndarray | None:
    """Numbers of the classes of the drawn images start..stop, [n]; None without classes."""
    labels = source.labels(seed, start, stop, "drawn")
    return None if labels is None else labels.argmax(1).numpy()


def how_many(wanted: int, source: ImageSource, option: str) -> int:
    """As many images as wanted, or all that there are, which is said."""
    if wanted > len(source):
        distributed.print0(f"Note: {option}={wanted}, but there are {len(source)} images: all used")
    return min(wanted, len(source))


def pixel_errors(x: Tensor, back: Tensor) -> dict[str, np.ndarray]:
    """Squared errors of each image in pixel units (0 to 255), mean over its d values, float64.

    Args:
        x: images in [-1, 1], [n, d].
        back: the same after a round trip, [n, d].

    Returns:
        mse: of both rounded to the nearest pixel value; mse_uint8_wrapped: the same with the
        difference and its square in unsigned 8-bit arithmetic, modulo 256, as published numbers
        were computed; mse_unrounded. Each [n].
    """
    flat = (x.shape[1], 1, 1)
    a, b = (to_pixels(v, flat)[:, 0, 0] for v in (x, back))
    wrapped = np.square(a - b, dtype=np.uint8)
    exact = 127.5 * (back.cpu().double() - x.cpu().double())
    return {
        "mse": np.square(a.astype(np.float64) - b).mean(1),
        "mse_uint8_wrapped": wrapped.astype(np.float64).mean(1),
        "mse_unrounded": exact.square().mean(1).numpy(),
    }


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
