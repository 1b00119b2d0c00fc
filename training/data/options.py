"""How a table of --data is read: the options of every script that takes one."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

import click

from dnnlib.cli import UserError, user_errors
from dnnlib.options import PATH, Options, option
from torch_utils import distributed
from training.data.tables import TableOptions
from training.data.vectors import VectorSource


@dataclass(frozen=True, kw_only=True)
class VectorOptions(Options):
    """A file of vectors, and what is said of it where it is a table."""

    data: str | None = option(None, type=PATH, help="your own vectors: .npy, .npz or .csv")
    columns: str | None = option(
        None, metavar="NAME,...",
        help="columns of the table to read, in this order; without a header 0,1,...",
    )  # fmt: skip
    index_col: str | None = option(None, metavar="NAME", help="column of the table to leave out")
    header: bool | None = option(None, help="whether the table's first row is names  [judged]")
    missing: str | None = option(
        None, type=click.Choice(["drop", "error"]),
        help="what to do with rows of the table that miss a value  [error]",
    )  # fmt: skip
    decimal: str | None = option(
        None, type=click.Choice([".", ","]), help="decimal sign of the table  [judged]"
    )

    def table(self) -> TableOptions:
        """The same as `read_table` takes it."""
        names = None
        if self.columns is not None:
            names = tuple(next(csv.reader([self.columns], skipinitialspace=True)))
        told = (self.index_col, self.header, self.missing, self.decimal)
        return TableOptions(names, *told)

    def open_vectors(self, like: dict[str, Any] | None = None) -> VectorSource:
        """The vectors of --data; says what was read, and which columns are constant.

        Args:
            like: how the table that a network was trained on was read, see `VectorSource`.

        Raises:
            UserError: naming the option.
        """
        assert self.data is not None
        with user_errors("--data"):
            source = VectorSource(self.data, self.table(), like)
        distributed.print0(source.said)
        for name in source.constant:
            distributed.print0(f"Warning: column {name} of {self.data} is constant")
        for said in source.codes:
            distributed.print0(
                f"Warning: {self.data}: {said}: if that stands for a missing value, leave the cell "
                "empty; it is taken as a number"
            )
        return source

    def check_no_table(self) -> None:
        """Check that the options of tables are not given without --data.

        Raises:
            UserError: naming the option.
        """
        for name in self.table().given():
            raise UserError(f"{name} is for a table given with --data; leave it out")
