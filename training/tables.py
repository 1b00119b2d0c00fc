"""Tables of numbers: which columns are data, which are left out and why, and what is missing.

Nothing is left out without being named. A column that cannot be told is an error that names the
options by which the user says what it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from training.table_header import COMMA, MISSES, POINT, WHOLE, Ambiguous, form, value
from training.table_text import Cells, read_cells

SUFFIXES = (".csv", ".tsv", ".txt")
UNNAMED = re.compile(r"(Unnamed: \d+(\.\d+)?)?")
ROWS = re.compile(
    r"(row([_. ]?(names?|id|num|number))?|index|obs|observation|case|nr|no|#|n)\.?", re.I
)
IDENTIFIER = re.compile(r"(.*[ _.-])?[iI][dD]|.*[a-z]I[Dd]|[iI]dentifier|IDENTIFIER")
CALENDAR = re.compile(r"(1[6-9]|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")  # 20201231
DATE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?|\d{4}[-/]\d{1,2}|"
    r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[ap]m)?|"
    r"(\d{1,2}[ -])?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .,-]+\d.*",
    re.IGNORECASE,
)
ALMOST = re.compile(r"[-+(]?\s*[$€£¥]?\s*-?\d[\d\s.,'’_]*\s*[%€£$¥)]?")  # 12 %, $5, 1 234, 1.2.3
FEW = 5  # rows below which a column may count them by chance
SHOWN = 12  # names in a message


@dataclass(frozen=True)
class TableOptions:
    """What the user says of a table; None where the table tells it.

    Attributes:
        columns: names of the columns to read, in this order.
        index_col: name of a column to leave out.
        header: whether the first row names the columns.
        missing: "error", or "drop" to leave out rows with missing values.
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


class _Column:
    """Cells of a column, told once for each that differs.

    Attributes:
        name: of the column.
        first: whether it is the table's first.
        reason: why it is left out.
        problem: why it cannot be told.
    """

    def __init__(self, name: str, cells: Sequence[str], first: bool):
        self.name, self.first, self.reason, self.problem = name, first, "", ""
        self.cells = np.array(cells, dtype=object)
        self._codes, self._distinct = pd.factorize(self.cells)
        self._forms = np.array([form(c) for c in self._distinct], dtype=np.uint8)
        self.forms = self._forms[self._codes]
        self.gaps = self.forms == MISSES
        self.complete = not self.gaps.any()
        self.unique = len(self._distinct) == len(self.cells)

    def are(self, form: int) -> bool:
        """Whether there are cells, and all that are not missing are of a form."""
        return not self.gaps.all() and bool((self._forms & (form | MISSES) != 0).all())

    def match(self, pattern: re.Pattern[str], form: int = 0) -> bool:
        """Whether all cells of a form (text) are of a pattern."""
        return all(pattern.fullmatch(c) for c in self._distinct[self._forms == form])

    def numbers(self, decimal: str, rows: np.ndarray) -> np.ndarray:
        """Values of rows whose cells are numbers, float64."""
        used = np.unique(self._codes[rows])
        values = np.zeros(len(self._distinct))
        if self.are(WHOLE):
            told = f"column {self.name!r}"
            values[used] = as_floats([int(self._distinct[i]) for i in used], told)
        else:
            values[used] = [value(self._distinct[i], decimal) for i in used]
        return values[self._codes[rows]]


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
            _judge(column, decimal, options.index_col)
        for column in table:
            if column.problem and not column.reason:
                raise Ambiguous(f"column {column.name!r} {column.problem}")
        taken = [c for c in table if not c.reason]
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


def shown(names: list[str]) -> str:
    """Names for a message of one line."""
    cut = [" ".join(name.split())[:40] or "''" for name in names[:SHOWN]]
    return ", ".join(cut) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")


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


def _columns(cells: Cells) -> list[_Column]:
    """Columns with names that differ, as pandas makes them differ."""
    names: list[str] = []
    for j, name in enumerate(cells.names):
        name = name or f"Unnamed: {j}"
        others = (f"{name}.{i}" for i in range(1, len(cells.names) + 1))
        names.append(next(n for n in (name, *others) if n not in names))
    columns = zip(names, zip(*cells.rows, strict=True), strict=True)
    return [_Column(name, values, j == 0) for j, (name, values) in enumerate(columns)]


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


def _decimal(table: list[_Column], prior: str | None) -> str:
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


def _judge(column: _Column, decimal: str, index_col: str | None) -> None:
    """Note why a column is left out, or cannot be told; neither for data."""
    name, nameless = column.name, UNNAMED.fullmatch(column.name)
    either = f": leave it out with --index_col={name}, or name those wanted with --columns"
    numbers, any_number = column.are(_form(decimal)), bool((column.forms & _form(decimal)).any())
    if name == index_col:
        column.reason = "--index_col"
    elif column.gaps.all():
        column.reason = "empty"
    elif column.are(WHOLE) and column.complete and _counts(column.cells):
        many = len(column.cells) >= FEW
        index = nameless or ROWS.fullmatch(name) or IDENTIFIER.fullmatch(name)
        if index or (column.first and many):
            column.reason = "row numbers"
        elif many:
            column.problem = "counts the rows" + either
    elif IDENTIFIER.fullmatch(name) and (column.are(WHOLE) or not numbers):
        column.reason = "identifier"
    elif ROWS.fullmatch(name) and column.first and column.are(WHOLE) and column.unique:
        column.reason = "index"
    elif nameless and (column.first or name.startswith("Unnamed: 0")):
        if not any_number or (column.are(WHOLE) and column.complete and column.unique):
            column.reason = "index"
        else:
            column.problem = "has no name, as an index, but numbers as data" + either
    elif column.are(WHOLE) and column.match(CALENDAR, POINT | COMMA | WHOLE):
        column.reason = "dates"
    elif numbers:
        return
    elif not any_number and column.match(DATE):
        column.reason = "dates"
    else:
        _judge_text(column, (column.forms & _form(decimal)) != 0)


def _judge_text(column: _Column, numbers: np.ndarray) -> None:
    texts = ~numbers & ~column.gaps
    row = int(texts.argmax())
    cell = shown([column.cells[row]])
    wanted = "; write it as a number, or name the columns that are wanted with --columns"
    if numbers.sum() >= texts.sum():
        column.problem = f"holds {cell!r} among numbers in row {row + 1}{wanted}"
    elif column.match(ALMOST):
        column.problem = f"holds {cell!r}, a number in a form that is not read{wanted}"
    else:
        column.reason = "text"


def _form(decimal: str) -> int:
    return POINT if decimal == "." else COMMA


def _counts(cells: np.ndarray) -> bool:
    """Whether integers number their rows, from 0 or from 1."""
    if cells[0] not in ("0", "1"):
        return False
    return all(int(c) == i for i, c in enumerate(cells, start=int(cells[0])))


def _numbers(taken: list[_Column], decimal: str, missing: str) -> np.ndarray:
    """Values [n, d] of columns, in the rows that have all of them.

    Raises:
        ValueError: for a cell that is no number, or missing.
    """
    for column in taken:
        wrong = column.forms & (_form(decimal) | MISSES) == 0
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"column {column.name!r} holds {shown([column.cells[row]])!r} in row {row + 1}, "
                "which is no number"
            )
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


def as_floats(integers: Sequence[int] | np.ndarray, what: str) -> np.ndarray:
    """Integers [n] as float64, which holds 53 binary digits of them.

    Raises:
        ValueError: if too little of their spread is left.
    """
    low, high = (int(f(integers)) for f in (min, max)) if len(integers) else (0, 0)
    values = np.array([float(v) for v in integers])
    step = float(np.spacing(max(abs(float(low)), abs(float(high)))))
    if low != high and step > 1 and high - low < 1000 * step:
        raise ValueError(
            f"{what}: its integers up to {high} differ by {high - low} at most, and float64 holds "
            f"steps of {step:g} there; subtract {low} from them first"
        )
    return values
