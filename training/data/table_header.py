"""What a cell of a text table is, and whether the first row of cells names the others."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

MISSING = re.compile(
    r"(n/?a|n\.a\.|<na>|-?nan|nat|null|none|nil|missing|[?*]|--?|\.\.?|"
    r"#(n/a|na|null!|div/0!|value!|ref!|num!|name\?)|-?1\.#(ind|qnan))?",
    re.IGNORECASE,
)
# What a number is, by its decimal sign; the other sign then groups thousands.
NUMBER = {
    sign: re.compile(
        rf"[+-]?([1-9]\d{{0,2}}(\{group}\d{{3}})+(\{sign}\d*)?|\d+\{sign}?\d*|\{sign}\d+)"
        r"(e[+-]?\d+)?|[+-]?inf(inity)?",
        re.IGNORECASE,
    )
    for sign, group in ((".", ","), (",", "."))
}
INTEGER = re.compile(r"[+-]?\d+")
POINT, COMMA, WHOLE, MISSES = 1, 2, 4, 8  # of `form`
MANY = 8  # names that count up from 0 or 1 by more than chance
LONG = 20  # rows of decimals, among which a whole number is no chance
HEADER = "a header of numbers (--header) or a row of data (--no-header): say which"


class Ambiguous(ValueError):
    """Two readings are possible; the message names both, and the option for each."""


@functools.lru_cache(2**16)
def form(cell: str) -> int:
    """What a cell is: `MISSES`, or the sum of `POINT`, `COMMA` and `WHOLE` that apply; 0: text."""
    point, comma = (NUMBER[sign].fullmatch(cell) is not None for sign in ".,")
    if point or comma:
        whole = point and comma and INTEGER.fullmatch(cell) is not None
        return POINT * point | COMMA * comma | WHOLE * whole
    return MISSES if MISSING.fullmatch(cell) else 0


def is_missing(cell: str) -> bool:
    """Whether a cell stands for no value."""
    return form(cell) == MISSES


def is_number(cell: str) -> bool:
    """Whether a cell is a number with either decimal sign."""
    return form(cell) & (POINT | COMMA) != 0


def is_text(cell: str) -> bool:
    """Whether a cell is neither a number nor missing."""
    return form(cell) == 0


def value(cell: str, decimal: str = ".") -> float:
    """The number of a cell that is one."""
    group = "." if decimal == "," else ","
    return float(cell.replace(group, "").replace(decimal, "."))


def judge(first: Sequence[str], body: Sequence[Sequence[str]], prior: bool | None) -> bool:
    """Whether the first row is a header.

    Args:
        first: its cells.
        body: those of the rows below, [rows][columns].
        prior: the answer where the evidence allows both; None to refuse.

    Raises:
        Ambiguous: where it does, and there is no prior.
    """
    columns = []  # (cell of the first row, numbers below it) of the columns of numbers
    for name, *cells in zip(first, *body, strict=True):
        numbers = [c for c in cells if is_number(c)]
        if 2 * len(numbers) >= sum(not is_missing(c) for c in cells) > 0:
            columns.append((name, numbers))
    names = [name for name, _ in columns]
    texts = [name for name in names if is_text(name)]
    numbered = [(name, cells) for name, cells in columns if is_number(name)]
    if not numbered:
        return bool(texts) or any(map(is_text, first))
    if any(map(is_missing, names[1:])) or (names[0] and is_missing(names[0])):
        return False if not texts else _either(f"{texts[0]!r} beside {numbered[0][0]!r}", prior)
    if texts:
        if all(_like_names(*c) for c in numbered):
            return True
        return _either(f"{texts[0]!r} beside {numbered[0][0]!r}", prior)
    answer = _numbers_name(numbered, not first[0] and _counts(body))
    return _either(f"{', '.join(names[:5])!r}", prior) if answer is None else answer


def _either(cells: str, prior: bool | None) -> bool:
    if prior is not None:
        return prior
    raise Ambiguous(f"its first row, {cells}, is {HEADER}")


def _counts(body: Sequence[Sequence[str]]) -> bool:
    """Whether the first column, from the second row on, numbers the rows."""
    first = [row[0] for row in body]
    return first in ([str(i) for i in range(k, k + len(first))] for k in (0, 1))


def _numbers_name(columns: list[tuple[str, list[str]]], indexed: bool) -> bool | None:
    """Whether numbers over columns of numbers name them; None if it cannot be told."""
    numbers = [_value(name) for name, _ in columns]
    k = len(numbers)
    if len(set(numbers)) < k:
        return False
    if indexed:
        return True
    whole = all(INTEGER.fullmatch(name) for name, _ in columns)
    counted = whole and [int(v) for v in numbers] in (
        list(range(k)), list(range(1, k + 1)),
    )  # fmt: skip
    steps = {round(b - a, 9) for a, b in itertools.pairwise(numbers)}
    years = whole and k > 1 and len(steps) == 1 and all(1700 <= v <= 2200 for v in numbers)
    outside = [_outside(v, cells) for v, (_, cells) in zip(numbers, columns, strict=True)]
    decimals = [_decimals(cells) for _, cells in columns]
    foreign = all(a or b for a, b in zip(outside, decimals, strict=True))
    if k > 1 and (((counted or years) and foreign) or (counted and k >= MANY)):
        return True
    if k > 2 and len(steps) == 1 and all(outside):  # wavelengths, depths, ...
        return True
    if k == 1:  # a single whole number may well be one of many others
        return None if whole and all(decimals) and len(columns[0][1]) >= LONG else False
    unsure = (counted and (k > 2 or numbers[0] == 0)) or all(outside) or (whole and all(decimals))
    return None if unsure else False


def _like_names(name: str, cells: list[str]) -> bool:
    """Whether a number among names of text is a name: whole, and not like what is below it."""
    return bool(INTEGER.fullmatch(name)) and (_outside(_value(name), cells) or _decimals(cells))


def _value(cell: str) -> float:
    return value(cell, "." if form(cell) & POINT else ",")


def _outside(v: float, cells: list[str]) -> bool:
    """Whether a value lies further from all others than they from each other."""
    others = [_value(c) for c in cells]
    low, high = min(others), max(others)
    return not 2 * low - high <= v <= 2 * high - low


def _decimals(cells: list[str]) -> bool:
    """Whether (nearly) all numbers are written with decimals."""
    return sum(not INTEGER.fullmatch(c) for c in cells) >= 0.95 * len(cells)
