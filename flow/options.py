"""What scripts that open a network and integrate its flow ask for, each option in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from dnnlib.options import (
    COUNT,
    PATH,
    POSITIVE,
    DeviceOptions,
    DryRunOptions,
    Float32Options,
    NetworkChecks,
    Options,
    again,
    option,
)
from flow.integration import GPU_IMAGE_BLOCK, IMAGE_BLOCK
from flow.steppers import SOLVER_HELP, SOLVERS
from training.data.options import VectorOptions

TOLERANCE = click.FloatRange(min=1e-10)
GEN_SOURCES = ("diag", "empirical", "donors")
GEN_SOURCE_HELP = (
    "latents of generation. diag: Gaussian with the schedule's variances. empirical: Gaussian with "
    "the variances of inflated data. donors: compressed dimensions together from random inflated "
    "data, whose shape they keep"
)
COMPILED_IMAGES = 1024  # so many to generate pay for compiling on a GPU
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


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(NetworkChecks, DeviceOptions):
    """Which network."""

    network: str = option(help="network file, or folder of runs (its latest)")


@dataclass(frozen=True, kw_only=True)
class SaveOptions(Options):
    """Where to."""

    save_dir: str = option(type=PATH, help="where results go")


@dataclass(frozen=True, kw_only=True)
class KnownOptions(NetworkOptions):
    """What the network knows itself, and is compared with; see `results.check_network`."""

    data_name: str | None = option(None, help="name of the data [that of the network]")
    data_dim: int | None = option(None, help="dimensions of data [read from the network]")
    dims_to_keep: int | None = option(None, help="kept dimensions [read from the network]")
    end_vars: float | None = option(None, help="variance of kept latents [read from the network]")


@dataclass(frozen=True, kw_only=True)
class ToyNetworkOptions(KnownOptions, VectorOptions):
    """A network of toys or vectors, and its data."""

    data_name: str | None = again(KnownOptions, "data_name", help="toy data set [the network's]")
    data: str | None = again(VectorOptions, "data", help="your own vectors, for a network of such")


@dataclass(frozen=True, kw_only=True)
class ImageNetworkOptions(SaveOptions, KnownOptions):
    """A network of images."""

    img_size: int | None = option(None, help="side of the images, if you want it checked")
    img_ch: int | None = option(None, help="their channels, if you want them checked")


@dataclass(frozen=True, kw_only=True)
class ImageDataOptions(ImageNetworkOptions):
    """A network of images and the images to carry through it."""

    data_root: str | None = option(None, type=PATH, help="zip or folder of images  [required]")


@dataclass(frozen=True, kw_only=True)
class ArithmeticOptions(Float32Options):
    """How the network computes in float32."""

    tf32: bool = again(
        Float32Options, "tf32", help="let NVIDIA GPUs round products to 10 bits: faster, and round "
        "trips are less exact, by about 5 times",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BlockOptions(ArithmeticOptions):
    """The batch of the network."""

    bs: int | None = option(
        None, type=COUNT,
        help="images in a batch of the network, on which results depend in their last digits "
        f"[{IMAGE_BLOCK}, on CUDA {GPU_IMAGE_BLOCK}]",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FieldOptions(BlockOptions):
    """How the network computes where nothing is inverted: images may be made in less digits."""

    bf16: bool = option(False, help="bfloat16 inside the network, where images are only generated")
    compile: bool | None = option(
        None, help="compile the network first, which takes a minute and pays for many images "
        f"[yes on CUDA from {COMPILED_IMAGES:,} images on]",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ZeroLabelOptions(Options):
    """Labels of a class-conditional network, for images that have theirs."""

    class_: str | None = option(
        None, type=click.Choice([UNLABELLED]),
        help="give a class-conditional network zero labels, as the published scripts do "
        "[those of the images]",
    )  # fmt: skip


def tolerance_option(default: float | None = None) -> Any:
    """--tol, in whose place a script uses `default` where it is not given."""
    stated = "" if default is None else f" [{default:g}]"
    return option(
        None, type=TOLERANCE,
        help="rms error allowed on pilots, whitened units, by the fewest steps (a power of two); "
        f"also of --solver=adaptive{stated}",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SolverOptions(Options):
    """How to integrate; see `method.toy_method` and `method.image_method`."""

    solver: str | None = option(
        None, type=click.Choice(list(SOLVERS)),
        help=f"{SOLVER_HELP}  [rk4 at --tol, fewer evaluations for the same error than the "
        "published default, euler; euler if --steps or --h is given]",
    )  # fmt: skip
    steps: int | None = option(
        None, "--n_iters", type=COUNT,
        help="solver steps; without --solver, points of the paper's Euler grid",
    )  # fmt: skip
    tol: float | None = tolerance_option()


@dataclass(frozen=True, kw_only=True)
class ToySolverOptions(SolverOptions):
    """The same for toys and vectors, with the paper's Euler grid."""

    h: float | None = option(None, type=POSITIVE, help="time step of the paper's Euler grid")


def image_solver_option(default: str) -> Any:
    """--solver for images, and what a script does where it is not given."""
    return again(
        SolverOptions, "solver",
        help=f"{SOLVER_HELP}  [{default}, fewer evaluations for the same error than the published "
        "default, heun; heun if --n_iters or --disc is given]",
    )  # fmt: skip


def image_steps_option(points: int) -> Any:
    """--steps for images, of which the paper's solvers get `points` where it is not given."""
    return again(
        SolverOptions, "steps",
        help="solver steps; without --solver, points of the paper's Heun grid "
        f"[{points} for the paper's solvers]",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageSolverOptions(SolverOptions, DryRunOptions):
    """The same for images, with the paper's Heun grids."""

    solver: str | None = image_solver_option("ab2 with 33 evaluations")
    steps: int | None = image_steps_option(256)
    disc: str | None = option(
        None, type=click.Choice(["ifs", "vp_ode"]),
        help="grid of the paper's solvers: linear from 0, or from 0.01 to tmax [vp_ode]",
    )  # fmt: skip
    vpode_disc_eps: float | None = option(
        None, type=POSITIVE, help="first time of --disc=vp_ode [0.01]"
    )


@dataclass(frozen=True, kw_only=True)
class LatentOptions(Options):
    """Latents of generation."""

    eps: float | None = option(
        None, type=POSITIVE,
        help="variance of compressed latents in generation [the schedule's own]",
    )  # fmt: skip
    gen_source: str = option("diag", type=click.Choice(GEN_SOURCES), help=GEN_SOURCE_HELP)


@dataclass(frozen=True, kw_only=True)
class ImageLatentOptions(LatentOptions):
    """Latents and classes of generated images."""

    class_: int | str | None = option(
        None, type=ClassNumber(),
        help="of a class-conditional network: generate this class only [random classes]; none: "
        "give it zero labels throughout, as the published scripts do",
    )  # fmt: skip
