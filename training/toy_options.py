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


# Held-out rows of wine, diabetes and breast cancer (125, 331 and 426 rows) were likeliest after 400
# to 1000 passes; after 2400 to 3000 their log densities had fallen by 9 to 34 nats.
PASSES, TOO_MANY = 500, 2000
LEAST = 0.02  # Mimg: ten batches
TICKS = 20  # of a training shortened so


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

    def filled(self, source: Source) -> Self:
        """See `TrainOptions.filled`; a small table is not seen as often as a toy set would be."""
        options = self
        most = self.PRESETS[self.arch]["duration"]
        if self.duration is None and self.arch == "ToyMLP" and isinstance(source, VectorSource):
            duration = min(most, max(PASSES * len(source.rows) / 1e6, LEAST))
            options = replace(self, duration=duration)
            if self.tick is None and duration < most:
                options = replace(options, tick=max(1.0, 1000 * duration / TICKS))
        return super(ToyTrainOptions, options).filled(source)

    def remarks(self, source: Source) -> list[str]:
        """See `TrainOptions.remarks`."""
        if not isinstance(source, VectorSource):
            return []
        rows = len(source.rows)
        passes = round(self.total / rows)
        said = f"{rows} rows are seen {passes:,} times each (--duration={self.duration:g})"
        if passes <= TOO_MANY:
            return [said]
        return [
            f"Note: {said}; above {TOO_MANY:,} times, ours were learnt by heart and others then "
            "taken to be next to impossible. Keep some aside and look at them: "
            "run_toy_alphashape_mesh_exps.py --experiment=data"
        ]

    def network(self, source: Source) -> dict[str, Any]:
        """See `TrainOptions.network`."""
        arguments = inspect.signature(TOY_NETWORKS[self.arch]).bind(in_channels=source.dim)
        arguments.apply_defaults()
        return {"class": self.arch, "kwargs": dict(arguments.arguments)}

    def begun(self) -> Self:
        """See `TrainOptions.begun`; notes what the names of toy sets mean."""
        return replace(super().begun(), definition=DEFINITION if self.data_name else None)
