"""Tables of numbers: which columns are data, which are left out and why, and what is missing.

Nothing is left out without being named. A column that cannot be told is an error that names the
options by which the user says what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.table_columns import SHOWN, Column, form_of, judge_column, shown
from training.data.table_header import COMMA, MISSES, POINT, WHOLE, Ambiguous
from training.data.table_text import Cells, read_cells

SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class TableOptions:
    """What the user says of a table; None where the table tells it.

    Attributes:
        columns: names of the columns to read, in this order.
        index_col: name of a column to leave out.
        header: whether the first row names the columns.
        missing: "error", "drop" to leave out rows with missing values, or "keep" for NaN.
        decimal: "." or ",".
    """

    columns: tuple[str, ...] | None = None
    index_col: str | None = None
    header: bool | None = None
    missing: str | None = None
    decimal: str | None = None

    def given(self) -> list[str]:
        """The options that are not None, as they are written."""
        written = {"header": "--header" if self.header else "--no-header"}
        return [written.get(k, f"--{k}") for k, v in vars(self).items() if v is not None]


@dataclass
class Table:
    """A table of numbers.

    Attributes:
        values: [n, d], float64.
        reading: how it was read, plain values: columns, header, decimal, missing, left_out.
        said: the same in one line.
    """

    values: np.ndarray
    reading: dict[str, Any]
    said: str


def read_table(path: Path, options: TableOptions, like: dict[str, Any] | None = None) -> Table:
    """Read the numbers of a text table.

    Args:
        path: of the file.
        options: what the user says of it.
        like: the `reading` of the table that a network was trained on: the same columns are read.

    Raises:
        ValueError: what is wrong with it, without its name.
    """
    like = like or {}
    cells = read_cells(path, options.header, options.decimal, like.get("header"))
    table = _columns(cells)
    chosen = _wanted([c.name for c in table], cells.header, options, like)
    decimal = options.decimal or _decimal(table, like.get("decimal"))
    if chosen is None:
        for column in table:
            judge_column(column, decimal, options.index_col)
        for column in table:
            if column.problem and not column.reason:
                raise Ambiguous(f"column {column.name!r} {column.problem}")
        unseen = ("empty",) if options.missing == "keep" else ()  # they are what is looked for
        taken = [c for c in table if not c.reason or c.reason in unseen]
    else:
        taken = [next(c for c in table if c.name == name) for name in chosen]
    left = {c.name: c.reason or "not asked for" for c in table if c not in taken}
    if not taken:
        raise ValueError(f"holds no columns of numbers{_left_out(left)}")
    missing = options.missing or like.get("missing") or "error"
    values = _numbers(taken, decimal, missing)
    names, kept = [c.name for c in taken], len(values)
    reading = {
        "columns": names, "header": cells.header, "decimal": decimal,
        "missing": missing, "left_out": list(left),
    }  # fmt: skip
    notes = cells.notes + ([] if decimal == "." else ["decimal commas"])
    if len(cells.rows) > kept:
        notes.append(f"{len(cells.rows) - kept} rows with missing values left out")
    said = f"{kept} rows, {_listed(names, cells.header)}{_left_out(left)}"
    return Table(values, reading, said + "".join(f"; {note}" for note in notes))


def _listed(names: list[str], header: bool) -> str:
    count = f"{len(names)} column{'s' if len(names) > 1 else ''}"
    return f"{count}: {shown(names)}" if header else f"{count} without names"


def reading_of(info: dict[str, Any]) -> dict[str, Any] | None:
    """How the table that a network was trained on was read, of its `info`; None for other data."""
    data = info.get("data")
    reading = data.get("reading") if isinstance(data, dict) else None
    if not isinstance(reading, dict) or not isinstance(reading.get("columns"), list):
        return None
    return {
        "columns": [str(name) for name in reading["columns"]],
        "header": bool(reading.get("header")),
        "decimal": "," if reading.get("decimal") == "," else ".",
        "missing": "drop" if reading.get("missing") == "drop" else "error",
    }


def differences(before: Any, now: Any) -> str:
    """What differs between two readings, for a message of one line."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "a table before or now, but not both"
    names = [k for k in now if before.get(k) != now[k]]
    return "; ".join(f"{k} {before.get(k)} before, {now[k]} now" for k in names)[:300]


def _left_out(left: dict[str, str]) -> str:
    told = [f"{shown([name])!r} ({reason})" for name, reason in left.items()]
    more = f", ... ({len(told)} in all)" if len(told) > SHOWN else ""
    return f"; left out: {', '.join(told[:SHOWN])}{more}" if left else ""


def _columns(cells: Cells) -> list[Column]:
    """Columns with names that differ, as pandas makes them differ."""
    names: list[str] = []
    for j, name in enumerate(cells.names):
        name = name or f"Unnamed: {j}"
        others = (f"{name}.{i}" for i in range(1, len(cells.names) + 1))
        names.append(next(n for n in (name, *others) if n not in names))
    columns = zip(names, zip(*cells.rows, strict=True), strict=True)
    return [Column(name, values, j == 0) for j, (name, values) in enumerate(columns)]


def _wanted(
    names: list[str], header: bool, options: TableOptions, like: dict[str, Any]
) -> list[str] | None:
    """The columns that the user or the network asks for; None to judge.

    Raises:
        ValueError: if the table lacks one, or user and network contradict each other.
    """
    asked = list(options.columns) if options.columns is not None else None
    theirs = like.get("columns")
    if options.index_col is not None and options.index_col not in names:
        raise ValueError(f"--index_col={options.index_col}: its columns are {shown(names)}")
    if (asked or theirs) and options.index_col is not None:
        who = "--columns says" if asked else "the network knows"
        raise ValueError(f"{who} all columns that are read: leave --index_col out")
    if asked is None and theirs and like.get("header") and not header:
        raise ValueError(
            f"has no header, and the network was trained on the columns {shown(theirs)}: write "
            f"that header, or say which columns are these with --columns={','.join(names[:3])},..."
        )
    if theirs and asked and header and like.get("header") and asked != theirs:
        raise ValueError(
            f"--columns={','.join(asked)} contradicts the network, which was trained on "
            f"{shown(theirs)}"
        )
    wanted = asked if asked is not None else theirs
    if wanted is None:
        return None
    lacking = [name for name in wanted if name not in names]
    if lacking:
        whose = "" if asked is not None else ", which the network was trained on"
        raise ValueError(
            f"lacks the columns {shown(lacking)}{whose}; its columns are {shown(names)}"
            + ("" if asked is not None else "; name the columns in the network's order by --columns"
               if not like.get("header") else "; rename them")
        )  # fmt: skip
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"--columns={','.join(wanted)} names a column twice")
    return wanted


def _decimal(table: list[Column], prior: str | None) -> str:
    """The decimal sign of a table: the one by which all its numbers can be read.

    Raises:
        ValueError: if both occur.
        Ambiguous: if only groups of three digits occur, as in 1,234.
    """
    numbers = [c for c in table if c.are(POINT | COMMA)]
    if all(c.are(WHOLE) or not any("," in cell for cell in c.cells) for c in numbers):
        return "."
    signs = {}
    for column in numbers:
        for sign, only in ((".", POINT), (",", COMMA)):
            rows = np.flatnonzero(column.forms == only)
            if len(rows):
                signs[sign] = f"{column.cells[rows[0]]} in column {column.name!r}"
    if len(signs) == 2:
        raise ValueError(
            f"has decimal points ({signs['.']}) and decimal commas ({signs[',']}); write them alike"
        )
    if signs or prior:
        return next(iter(signs), str(prior))
    column, example = next((c, cell) for c in numbers for cell in c.cells if "," in cell)
    raise Ambiguous(
        f"column {column.name!r} holds {example!r}: a decimal comma (--decimal=,) or thousands "
        "(--decimal=.): say which"
    )


def _numbers(taken: list[Column], decimal: str, missing: str) -> np.ndarray:
    """Values [n, d] of columns, in the rows that have all of them.

    Raises:
        ValueError: for a cell that is no number, or missing.
    """
    for column in taken:
        wrong = column.forms & (form_of(decimal) | MISSES) == 0
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"column {column.name!r} holds {shown([column.cells[row]])!r} in row {row + 1}, "
                "which is no number"
            )
    if missing == "keep":
        return np.stack([_with_gaps(column, decimal) for column in taken], 1)
    gaps = np.any([column.gaps for column in taken], axis=0)
    if gaps.any() and missing == "error":
        row = int(gaps.argmax())
        column = next(c for c in taken if c.gaps[row])
        raise ValueError(
            f"{int(gaps.sum())} of {len(gaps)} rows miss values, the first in row {row + 1}, "
            f"column {column.name!r} ({column.cells[row]!r}); leave these rows out with "
            "--missing=drop, or choose other columns with --columns"
        )
    return np.stack([column.numbers(decimal, ~gaps) for column in taken], 1)


def _with_gaps(column: Column, decimal: str) -> np.ndarray:
    """Values of a column, NaN where they are missing, [n]."""
    values = np.full(len(column.cells), np.nan)
    if not column.gaps.all():
        values[~column.gaps] = column.numbers(decimal, ~column.gaps)
    return values
