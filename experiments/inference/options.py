"""Options of calc_posterior.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from dnnlib.cli import UserError
from dnnlib.options import COUNT, NONNEGATIVE, PATH, POSITIVE, SEED, RunOptions, option
from flow.arguments import How
from flow.inference.posterior import SETTINGS
from flow.options import ClassNumber, NetworkOptions
from flow.steppers import ANGLE_SOLVERS

HALVES = ("left", "right", "top", "bottom")
COUNTS = {"exposure", "background"}  # options of --likelihood=poisson


class Numbers(click.ParamType):
    """One number, or several separated by commas."""

    name = "NUMBER[,...]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """Parse "0.1,0.2"."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(v) for v in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, nor numbers separated by commas", param, ctx)


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(NetworkOptions, RunOptions):
    """Options of the script."""

    outdir: str = option(type=PATH, help="where results go")
    observations: str | None = option(
        None, type=PATH,
        help="measurements, one a row: .npy, .npz or .csv; missing values were not measured",
    )  # fmt: skip
    image: str | None = option(
        None, type=PATH, help="measured images: one file, or a zip or folder of them"
    )
    count: int | None = option(None, type=COUNT, help="only the first so many rows or images")
    mask: str | None = option(
        None, metavar="FILE|" + "|".join(HALVES),
        help="what was measured: .npy of true and false, an image (white: measured), or a half",
    )  # fmt: skip
    operator: str | None = option(
        None, metavar="FILE.npz|blur[:SD]|downsample:K",
        help="what was measured of the data: a matrix A [m, d] for y = A x, or of images a blur "
        "(sd in pixels [1]) or means of KxK pixels",
    )  # fmt: skip
    likelihood: str = option(
        "normal", type=click.Choice(["normal", "poisson"]), help="of the measurements"
    )
    noise: tuple[float, ...] | None = option(
        None, type=Numbers(),
        help="sd of normal noise in the data's units (of images: 2 is black to white), one or one "
        "a measured value",
    )  # fmt: skip
    relative_noise: float | None = option(
        None, type=POSITIVE, help="the same as a share of each value's own sd in the data"
    )
    exposure: float | None = option(
        None, type=POSITIVE, help="poisson: counts for each unit (of images: above black) [1]"
    )
    background: float | None = option(
        None, type=NONNEGATIVE, help="poisson: counts that come without any [0]"
    )
    simulate: bool = option(
        False,
        help="the rows or images are truths: measure them here, as the other options say, and "
        "compare with them",
    )
    n: int = option(1000, type=COUNT, help="draws of each posterior")
    method: str = option(
        "smc", type=click.Choice(list(SETTINGS)),
        help="tempered Monte Carlo; gradients through the flow; weighted draws, few dimensions",
    )  # fmt: skip
    particles: int | None = option(
        None, type=click.IntRange(min=16),
        help="of smc [1024, of images 256], proposals of importance [8192], chains of hmc [64]",
    )  # fmt: skip
    seed: int = option(0, type=SEED, help="of the draws, and of simulated noise")
    class_: int | str | None = option(
        None, type=ClassNumber(), help="of a class-conditional network: the class of the data"
    )
    solver: str | None = option(
        None, type=click.Choice(list(ANGLE_SOLVERS)), help="[rk4, of images ab2]"
    )
    steps: int | None = option(None, type=COUNT, help="of the solver [4, of images 16]")
    bs: int | None = option(
        None, type=COUNT, recorded=False,
        help="observations sampled together, which changes no result [4, of images 1]",
    )  # fmt: skip
    resume: bool = option(False, recorded=False, help="leave a finished run in --outdir alone")

    def __post_init__(self) -> None:
        """Refuse options that contradict each other or would have no effect."""
        if (self.observations is None) == (self.image is None):
            raise UserError("give --observations or --image, and not both")
        if self.likelihood == "normal":
            for name in sorted(COUNTS & self.given):
                raise UserError(f"--{name} has no effect with --likelihood=normal; leave it out")
            if self.noise is None and self.relative_noise is None:
                raise UserError("--noise is missing: the standard deviation of the measurements")
            if {"noise", "relative_noise"} <= self.given:
                raise UserError("--noise and --relative_noise say the same: leave one of them out")
            for value in self.noise or ():
                if not 0 < value < float("inf"):
                    raise UserError(f"--noise={value:g}: standard deviations must be above 0")
        for name in sorted({"noise", "relative_noise"} & self.given):
            if self.likelihood == "poisson":
                raise UserError(f"--{name} has no effect with --likelihood=poisson; leave it out")

    def settings(self) -> dict[str, Any]:
        """Settings of the sampler, as `Posteriors.sample` takes them."""
        name = "chains" if self.method == "hmc" else "particles"
        return {} if self.particles is None else {name: self.particles}

    def how(self) -> How:
        """Arguments of integration, as `Posteriors` takes them."""
        told: How = {}
        if self.solver is not None:
            told["solver"] = self.solver
        if self.steps is not None:
            told["steps"] = self.steps
        return told
