"""Options of training that toys and images share; each is an option of the command line.

An option whose default depends on others is None until `TrainOptions.filled` and `resolved`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import click

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import (
    COUNT,
    NONNEGATIVE,
    PATH,
    POSITIVE,
    SEED,
    RunOptions,
    found,
    option,
)
from torch_utils import distributed
from torch_utils.seeding import BLOCKS, PHILOX
from training.basis import Basis, eigenbasis
from training.data.source import Source
from training.edm_precond import RECIPES
from training.schedule import default_rho, inflation_exponents
from training.schedule_options import ScheduleOptions

OPTIONS_FILE = "training_options.json"
# Decorates each script beside `takes`: it has no value.
no_batch_pca = cli.without_effect("--batch_pca", "the eigenbasis is computed from all samples")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ScheduleOptions, RunOptions):
    """A run of training. Lengths are in millions of samples (Mimg), ticks in thousands.

    Attributes:
        data_sha256: of the content of the data.
        definition: of toy sets, see `training.data.toys`.
        generator: of random numbers, `seeding.PHILOX`, or BLOCKS, which runs of before have.
        attn_resolutions: those of the network of --transfer.
        augment, dropout, ls, compile, tf32, bench, workers: options of images, see
            `ImageTrainOptions`.
    """

    # Network -> defaults of options that are None. One of None is filled in by `filled` itself.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    outdir: str = option(None, type=PATH, help="where run folders go  [required]")
    arch: str = option("", help="the network")
    duration: float = option(None, type=POSITIVE, help="training length, Mimg (million samples)")
    stop_after: float | None = option(None, type=POSITIVE, help="save and stop after so many Mimg")
    batch: int = option(None, type=COUNT, help="samples a step over all processes")
    batch_gpu: int | None = option(
        None, type=COUNT,
        help="most samples at once in one process, whatever --batch; results are the same  [images "
        "64, fewer if larger than 32x32; ToyConvUNet 1024, ToyMLP no limit]",
    )  # fmt: skip
    lr: float = option(None, type=POSITIVE, help="learning rate")
    lr_rampup: float = option(None, type=NONNEGATIVE, help="warm-up, Mimg")
    lr_decay: str = option(None, type=click.Choice(["none", "cosine"]), help="after the warm-up")
    clip: float = option(None, type=NONNEGATIVE, help="largest gradient norm, 0: no limit")
    ema: float = option(None, type=POSITIVE, help="half-life of the weight average, Mimg")
    tick: float = option(None, type=POSITIVE, help="kimg between status lines")
    snap: int = option(None, type=COUNT, help="ticks between network snapshots")
    dump: int = option(None, type=COUNT, help="ticks between training states")
    seed: int = option(0, type=SEED, help="of data, noise, weights")
    skip_nonfinite: int = option(
        0, type=click.IntRange(min=0),
        help="steps to skip, in all, whose loss or gradient is not finite; the next one stops the "
        "run, and its batch is saved",
    )  # fmt: skip
    resume: str | None = option(None, metavar="DIR|latest", help="go on with a run")
    desc: str | None = option(None, metavar="TEXT", help="appended to the run folder's name")
    nosubdir: bool = option(False, help="make --outdir itself the run folder")
    transfer: str | None = option(
        None, metavar="NETWORK", help="start from another network's weights"
    )

    data_sha256: str | None = found()
    definition: int | None = found()
    generator: str = found(BLOCKS)
    attn_resolutions: Sequence[int] | None = found()
    augment: float = found(0.0)
    dropout: float = 0.0
    ls: float = 2.0**16
    compile: bool | None = False
    tf32: bool = False
    bench: bool = True
    workers: int = 1

    @property
    def named(self) -> tuple[str, str]:
        """The option that names the data, and its value."""
        raise NotImplementedError

    @property
    def precision(self) -> str:
        """Of the network's inside: "fp32", "bf16", or "fp16" with a dynamic loss scale."""
        return "fp32"

    def open(self) -> Source:
        """The data that the options name.

        Raises:
            UserError: naming the option.
        """
        raise NotImplementedError

    def network(self, source: Source) -> dict[str, Any]:
        """Class and all arguments, defaults spelled out, of the network that the options name."""
        raise NotImplementedError

    def basis(self, source: Source) -> Basis:
        """The eigenbasis of the data.

        Raises:
            ValueError: if they have none.
        """
        return eigenbasis(source.basis_batches(), source.dim, source.scale)

    def for_basis(self, basis: Basis) -> Self:
        """These options as they go with data of an eigenbasis.

        Raises:
            UserError: naming the option, if they do not.
        """
        return self

    def compiles(self, device: str) -> bool:
        """Whether field and loss are compiled: as --compile says, or on CUDA that has Triton."""
        if self.compile is not None:
            return self.compile
        return distributed.compiles(device) and not self.second_order

    # In samples --------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Samples to train on in all."""
        return _samples(self.duration, 1e6)

    @property
    def early(self) -> int | None:
        """Samples after which to save and stop early; None for never."""
        return None if self.stop_after is None else _samples(self.stop_after, 1e6)

    @property
    def halflife(self) -> int:
        """Half-life of the weight average."""
        return _samples(self.ema, 1e6)

    @property
    def tick_samples(self) -> int:
        """Samples between status lines."""
        return _samples(self.tick, 1e3)

    @property
    def warmup(self) -> int:
        """Samples of linear warm-up."""
        return round(self.lr_rampup * 1e6)

    # What depends on other options -------------------------------------------------------------

    def filled(self, source: Source) -> Self:
        """These options with the defaults that go with the network and the data."""
        preset = self.PRESETS[self.arch].items()
        full = replace(self, **{k: v for k, v in preset if getattr(self, k) is None})
        if full.lr_rampup is not None:
            return full
        return replace(full, lr_rampup=min(0.4, 0.05 * full.duration))

    def remarks(self, source: Source) -> list[str]:
        """What to say of these options and the data before training."""
        return []

    def resolved(self, source: Source) -> Self:
        """These options with all that depends on the data, checked against them and each other.

        Raises:
            UserError: naming the option, its value and the remedy.
        """
        options = self.with_dimensions(source)
        with cli.user_errors("--g_type"):
            g = inflation_exponents(
                options.data_dim,
                options.dims_to_keep,
                options.g_type,
                options.inflation_gap,
                options.g_rescaling,
            )
        options = options._weighted()
        options._check_levels()
        if options.rho is None:
            options = replace(options, rho=default_rho(g))
        if options.tmin >= options.tmax:
            raise UserError(f"--tmin={options.tmin} is not below --tmax={options.tmax}")
        if options.batch > options.duration * 1e6:
            raise UserError(
                f"--duration={options.duration} Mimg is less than one --batch={options.batch}"
            )
        return options

    def begun(self) -> Self:
        """These options of a run that starts: --gamma0 and --tmax span the levels of --precond.

        Its random numbers are those of `torch_utils.philox`.

        Raises:
            UserError: if the run folder cannot be made as --desc and --nosubdir say.
        """
        if self.desc and Path(self.desc).name != self.desc:
            raise UserError(
                f"--desc={self.desc} becomes part of a folder's name: give a plain text"
            )
        if self.nosubdir and (Path(self.outdir) / OPTIONS_FILE).exists():
            raise UserError(
                f"--nosubdir: {self.outdir} holds another run; go on with that by "
                f"--resume={self.outdir}, or name another --outdir"
            )
        if self.nosubdir and self.desc:
            raise UserError(
                f"--desc={self.desc} names a folder in --outdir, which --nosubdir makes none of"
            )
        new = replace(self, generator=PHILOX)
        levels = RECIPES[self.precond].levels
        if levels is None:
            return new
        gamma0 = self.gamma0 if "gamma0" in self.given else levels[0] ** 2
        tmax = max(math.log(levels[1] ** 2 / gamma0), 1.0) / self.rho
        return replace(new, gamma0=gamma0, tmax=self.tmax if "tmax" in self.given else tmax)

    def _weighted(self) -> Self:
        """These options with --weighting, --importance and --t_sampling that go together."""
        recipe = RECIPES[self.precond]
        weighting = self.weighting or recipe.weighting
        likelihood = weighting == "likelihood"
        importance = likelihood and recipe.importance
        if self.importance is not None:
            importance = self.importance
        if importance and not likelihood:
            raise UserError(
                f"--importance draws times for --weighting=likelihood, not {weighting}; give both, "
                "or leave --importance out"
            )
        if likelihood and self.g_type == "proportional":
            raise UserError(
                "--weighting=likelihood is infinite at t = 0 of --g_type=proportional; use another "
                "--g_type or --weighting=edm"
            )
        fitting = "likelihood" if importance else "uniform"
        t_sampling = self.t_sampling or (fitting if likelihood else recipe.t_sampling)
        if likelihood and t_sampling != fitting:
            raise UserError(
                f"--t_sampling={t_sampling} does not go with --weighting=likelihood"
                f"{' --importance' if importance else ''}; leave it out"
            )
        if self.second_order and self.compile:
            raise UserError("--compile cannot differentiate twice: use --second_order without it")
        if self.second_order and not self.transfer:
            raise UserError(
                "--second_order fine-tunes a trained network: name it with --transfer=NETWORK"
            )
        return replace(self, weighting=weighting, importance=importance, t_sampling=t_sampling)

    def _check_levels(self) -> None:
        """Check that there is one noise level where need be."""
        keep, d = self.dims_to_keep, self.data_dim
        if keep == d and self.g_type != "proportional":
            return
        for name, value in {"precond": self.precond, "t_sampling": self.t_sampling}.items():
            if value not in ("ifs", "uniform", "arc", "likelihood"):
                remedy = f"--dims_to_keep={d}" if keep < d else "another --g_type than proportional"
                raise UserError(
                    f"--{name}={value} is for one noise level in all dimensions: use {remedy}"
                )


def _samples(length: float, unit: float) -> int:
    return max(1, round(length * unit))
