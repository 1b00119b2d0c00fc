"""Options of toy data sets and vectors, the data that they name, and how these are trained on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import click

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import COUNT, NONNEGATIVE, again, found, option
from training.data.options import VectorOptions
from training.data.source import Source
from training.data.tables import differences
from training.data.toys import DEFINITION, TOY_SETS, ToySource, own_dimensions
from training.data.vectors import VectorSource
from training.networks.toy import TOY_NETWORKS
from training.options import TrainOptions
from training.schedule_options import ScheduleOptions


@dataclass(frozen=True, kw_only=True)
class ToyDataOptions(VectorOptions):
    """A toy data set, or a file of vectors.

    Attributes:
        reading: how the table of --data was read, see `VectorSource`; None for other data.
    """

    data_name: str | None = option(None, type=click.Choice(list(TOY_SETS)), help="toy data set")
    augment_to: int | None = option(
        None, type=COUNT,
        help="embed a toy set into so many dimensions; --data_dim may then be its own",
    )  # fmt: skip
    embedding: str = option(
        "orthonormal", type=click.Choice(["orthonormal", "signed_square"]),
        help="how --augment_to embeds",
    )  # fmt: skip
    embedding_noise: float = option(
        0.2, type=NONNEGATIVE, help="noise sd of --embedding=signed_square"
    )
    reading: Mapping[str, Any] | None = found()


@dataclass(frozen=True, kw_only=True)
class ToyOptions(ScheduleOptions, ToyDataOptions):
    """Toys or vectors, and a schedule of theirs."""

    @property
    def named(self) -> tuple[str, Any]:
        """The option that names the data, and its value."""
        which = "data_name" if self.data is None else "data"
        return which, getattr(self, which)

    def embedded(self) -> Self:
        """These options, where --data_dim may have been that of the set before --augment_to."""
        if self.augment_to is None or self.data_dim != own_dimensions(self.data_name):
            return self
        return replace(self, data_dim=self.augment_to)

    def dimensions_of(self, d: int) -> str:
        """See `ScheduleOptions.dimensions_of`."""
        own, embedded = own_dimensions(self.data_name), self.augment_to
        return (
            f"{self.data_name or self.data} has {own or d} dimensions"
            + (f", embedded into --augment_to={d}" if embedded else "")
            + f"; use --data_dim={own or d}"
            + (" or --augment_to to embed it" if own and not embedded else "")
        )

    def open(self) -> ToySource | VectorSource:
        """The data that the options name.

        Raises:
            UserError: naming the option.
        """
        if (self.data is None) == (self.data_name is None):
            raise UserError("give either --data_name (a toy set) or --data (a file of vectors)")
        if self.data is None:
            self.check_no_table()
            with cli.user_errors():
                return ToySource(
                    str(self.data_name), self.augment_to, self.embedding, self.embedding_noise
                )
        if self.augment_to:
            raise UserError("--augment_to embeds toy sets; leave it out with --data")
        source = self.open_vectors()
        if self.reading not in (None, source.reading):
            raise UserError(
                f"--data={self.data}: the run to go on with was trained on other columns or read "
                f"them otherwise: {differences(self.reading, source.reading)}"
            )
        return source

    def with_dimensions(self, source: Source) -> Self:
        """See `ScheduleOptions.with_dimensions`; these also hold how a table was read."""
        options = super().with_dimensions(source)
        return replace(options, reading=getattr(source, "reading", None) or self.reading)


@dataclass(frozen=True, kw_only=True)
class ToyTrainOptions(ToyOptions, TrainOptions):
    """Training on toys or vectors."""

    # ToyConvUNet: the published settings, but for tick, snap and dump, which keep some hundred
    # files of its duration; ToyMLP: ours.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "ToyMLP": {
            "batch": 2048, "lr": 5e-3, "lr_decay": "cosine", "clip": 1.0, "ema": 0.3,
            "duration": 10.0, "tick": 250.0, "snap": 10, "dump": 4,
        },
        "ToyConvUNet": {
            "batch": 8192, "batch_gpu": 1024, "lr": 1e-5, "lr_rampup": 10.0, "lr_decay": "none",
            "clip": 0.0, "ema": 0.5, "duration": 7000.0, "tick": 1000.0, "snap": 20, "dump": 10,
        },
    }  # fmt: skip

    arch: str = again(TrainOptions, "arch", "ToyMLP", type=click.Choice(list(TOY_NETWORKS)))

    def network(self, source: Source) -> dict[str, Any]:
        """See `TrainOptions.network`."""
        arguments = inspect.signature(TOY_NETWORKS[self.arch]).bind(in_channels=source.dim)
        arguments.apply_defaults()
        return {"class": self.arch, "kwargs": dict(arguments.arguments)}

    def begun(self) -> Self:
        """See `TrainOptions.begun`; notes what the names of toy sets mean."""
        return replace(super().begun(), definition=DEFINITION if self.data_name else None)
