"""Columns of a text table: what their cells are, and which are data."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from training.data.table_header import COMMA, MISSES, POINT, WHOLE, form, value

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


class Column:
    """Cells of a column.

    Attributes:
        name: of the column.
        first: whether it is the table's first.
        cells: text, [n].
        forms: what each cell is, see `form`, [n].
        gaps: which cells are missing, [n].
        reason: why it is left out.
        problem: why it cannot be told.
    """

    def __init__(self, name: str, cells: Sequence[str], first: bool):
        self.name, self.first, self.reason, self.problem = name, first, "", ""
        self.cells = np.array(cells, dtype=object)
        self.forms = np.array([form(cell) for cell in cells], dtype=np.uint8)
        self.gaps = self.forms == MISSES
        self.complete = not self.gaps.any()
        self.unique = len(set(cells)) == len(cells)

    def are(self, form: int) -> bool:
        """Whether there are cells, and all that are not missing are of a form."""
        return not self.gaps.all() and bool((self.forms & (form | MISSES) != 0).all())

    def match(self, pattern: re.Pattern[str], form: int = 0) -> bool:
        """Whether all cells of a form (text) are of a pattern."""
        return all(pattern.fullmatch(c) for c in self.cells[self.forms == form])

    def numbers(self, decimal: str, rows: np.ndarray) -> np.ndarray:
        """Values of the rows, whose cells are numbers, float64."""
        cells = self.cells[rows]
        if self.are(WHOLE):
            return as_floats([int(c) for c in cells], f"column {self.name!r}")
        return np.array([value(c, decimal) for c in cells])


def judge_column(column: Column, decimal: str, index_col: str | None) -> None:
    """Note why a column is left out, or cannot be told; neither for data."""
    name, nameless = column.name, UNNAMED.fullmatch(column.name)
    either = f": leave it out with --index_col={name}, or name those wanted with --columns"
    numeric = column.forms & form_of(decimal) != 0
    numbers, any_number = column.are(form_of(decimal)), bool(numeric.any())
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
        _text(column, numeric)


def _text(column: Column, numbers: np.ndarray) -> None:
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


def form_of(decimal: str) -> int:
    """The `form` of numbers with a decimal sign."""
    return POINT if decimal == "." else COMMA


def _counts(cells: np.ndarray) -> bool:
    """Whether integers number their rows, from 0 or from 1."""
    if cells[0] not in ("0", "1"):
        return False
    return all(int(c) == i for i, c in enumerate(cells, start=int(cells[0])))


def shown(names: list[str]) -> str:
    """Names for a message of one line."""
    cut = [" ".join(name.split())[:40] or "''" for name in names[:SHOWN]]
    return ", ".join(cut) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")


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
