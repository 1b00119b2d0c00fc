"""What a report shows of one result: plain values, read from anywhere, rendered elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_ITEMS = 12  # of a list that is shown as text
MAX_LENGTH = 2000  # characters of a value
MAX_ROWS = 500  # of a table
MAX_FACTS = 200

# Chapters of the report, in their order.
KINDS = (
    "Tables of the paper",
    "Training",
    "Simulations",
    "Coverage",
    "Posteriors",
    "Calibration by simulation",
    "Likelihood",
    "Sample quality",
    "Round-trip error",
    "Residual correlations",
    "Benchmarks",
    "Other results",
    "Other pictures",
)


@dataclass
class Table:
    """Rows under named columns; cells are plain values."""

    columns: list[str]
    rows: list[list[Any]]
    caption: str = ""


@dataclass
class Curve:
    """Lines over a common abscissa, in one chart.

    Attributes:
        title: above it.
        labels: of the two axes.
        x: abscissa, [n].
        lines: legend -> ordinates, [n].
        notes: what is said about each point beside its values, [n] or empty.
    """

    title: str
    labels: tuple[str, str]
    x: list[float]
    lines: dict[str, list[float]]
    notes: list[str] = field(default_factory=list)


@dataclass
class Entry:
    """One section of a report.

    Attributes:
        kind: its chapter, of `KINDS`.
        title: its heading.
        source: file or folder that it was read from, as people see it.
        date: when that was last written, seconds since 1970.
        headline: what the overview says of it.
        facts: names and plain values.
        tables, curves: see there.
        pictures: files to embed, with their captions.
        details: what unfolds: caption -> text, or plain values by name.
        notes: sentences for the reader.
        folder: of a table of the paper.
    """

    kind: str
    title: str
    source: str
    date: float
    headline: str = ""
    facts: list[tuple[str, Any]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    pictures: list[tuple[Path, str]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None


def dig(value: Any, *keys: str) -> Any:
    """The value under nested keys, None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def text(value: Any) -> str:
    """A plain value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        shown: Iterable[str] = [f"{k}: {text(v)}" for k, v in list(value.items())[:MAX_ITEMS]]
    elif isinstance(value, list | tuple):
        shown = [text(v) for v in value[:MAX_ITEMS]]
    else:
        shown = [_plain(value)]
    if not shown:
        return "none"
    more = len(value) - MAX_ITEMS if isinstance(value, list | tuple | Mapping) else 0
    joined = ", ".join(shown) + (f", … ({more} more)" if more > 0 else "")
    return joined if len(joined) <= MAX_LENGTH else joined[:MAX_LENGTH] + "…"


def _plain(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits
        return "a very long number"


def flatten(content: Mapping[str, Any], skip: Iterable[str] = ()) -> list[tuple[str, Any]]:
    """Scalars and short lists of nested dicts as (name, value), names joined by blanks."""
    found: list[tuple[str, Any]] = []

    def walk(prefix: str, value: Mapping[str, Any], depth: int) -> None:
        for key, item in value.items():
            name = f"{prefix} {key}".strip().replace("_", " ")
            if isinstance(item, Mapping) and depth < 6 and not is_rows(item):
                walk(name, item, depth + 1)
            elif not is_records(item) and not is_rows(item):
                found.append((name, item))

    walk("", {k: v for k, v in content.items() if k not in set(skip)}, 0)
    return found[:MAX_FACTS]


def is_records(value: Any) -> bool:
    """Whether a value is a list of dicts, which is a table."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def is_rows(value: Any) -> bool:
    """Whether a value is several dicts of the same keys under names, which is a table too."""
    if not isinstance(value, Mapping) or len(value) < 2:
        return False
    rows = list(value.values())
    return all(isinstance(r, Mapping) and r and r.keys() == rows[0].keys() for r in rows)


def rows_table(rows: Mapping[str, Mapping[str, Any]], caption: str = "") -> Table:
    """A table of named dicts: one row each, nested values in columns of their own."""
    return records_table([{"": name} | dict(flatten(row)) for name, row in rows.items()], caption)


def counted(count: int, noun: str) -> str:
    """A count with its noun: 1 picture, 2 pictures."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def records_table(records: list[dict[str, Any]], caption: str = "") -> Table:
    """A table of dicts: one row each, columns in order of appearance."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    rows = [[record.get(c) for c in columns] for record in records[:MAX_ROWS]]
    return Table([c.replace("_", " ") for c in columns], rows, caption)
