"""Options that commands on toys and vectors share, and the data that they name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from dnnlib import cli
from dnnlib.cli import UserError
from training.data.options import VectorOptions
from training.data.tables import differences
from training.data.toys import TOY_SETS, ToySource, own_dimensions
from training.data.vectors import VectorSource
from training.options import count, nonnegative, schedule_options

# How a table of --data is read, in every script that takes one.
table_options = cli.options(
    click.option("--columns", metavar="NAME,...",
                 help="columns of the table to read, in this order; without a header 0,1,..."),
    click.option("--index_col", metavar="NAME", help="column of the table to leave out"),
    click.option("--header/--no-header", default=None,
                 help="whether the table's first row is names  [judged]"),
    click.option("--missing", type=click.Choice(["drop", "error"]),
                 help="what to do with rows of the table that miss a value  [error]"),
    click.option("--decimal", type=click.Choice([".", ","]),
                 help="decimal sign of the table  [judged]"),
)  # fmt: skip
data_options = cli.options(
    click.option("--data_name", type=click.Choice(list(TOY_SETS)), help="toy data set"),
    click.option("--data", type=click.Path(), help="your own vectors: .npy, .npz or .csv"),
    table_options,
    click.option("--augment_to", type=count,
                 help="embed a toy set into so many dimensions; --data_dim may then be its own"),
    click.option("--embedding", type=click.Choice(["orthonormal", "signed_square"]),
                 default="orthonormal", help="how --augment_to embeds"),
    click.option("--embedding_noise", type=nonnegative, default=0.2,
                 help="noise sd of --embedding=signed_square"),
    schedule_options(inflation_gap=1.0, tmax=7.01, space="ES"),
)  # fmt: skip


def embedded_dimensions(options: dict[str, Any]) -> None:
    """Let --data_dim be the embedding's, where --augment_to comes with those of the set itself."""
    own = own_dimensions(options["data_name"])
    if options["augment_to"] is not None and options["data_dim"] == own:
        options["data_dim"] = options["augment_to"]


def open_source(options: dict[str, Any]) -> ToySource | VectorSource:
    """The training data that the options name.

    Raises:
        UserError: naming the option.
    """
    if (options["data"] is None) == (options["data_name"] is None):
        raise UserError("give either --data_name (a toy set) or --data (a file of vectors)")
    if options["data"] is not None:
        if options["augment_to"]:
            raise UserError("--augment_to embeds toy sets; leave it out with --data")
        source = _table(options).open_vectors()
        before = options.get("reading")
        if before is not None and before != source.reading:
            raise UserError(
                f"--data={options['data']}: the run to go on with was trained on other columns or "
                f"read them otherwise: {differences(before, source.reading)}"
            )
        if source.reading is not None:
            options["reading"] = source.reading
        return source
    _table(options).check_no_table()
    with cli.user_errors():
        return ToySource(
            options["data_name"],
            options["augment_to"],
            options["embedding"],
            options["embedding_noise"],
        )


def _table(options: dict[str, Any]) -> VectorOptions:
    return VectorOptions(**{f.name: options[f.name] for f in fields(VectorOptions)[1:]})
