"""Plain values from anywhere as people read them: text, named values, tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

MAX_ITEMS = 12  # of a list that is shown as text
MAX_LENGTH = 2000  # characters of a value
MAX_DEPTH = 6


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
        value = [f"{k}: {text(v)}" for k, v in value.items()]
    if isinstance(value, list | tuple):
        left = len(value) - MAX_ITEMS
        shown = [text(v) for v in value[:MAX_ITEMS]] + ([f"… ({left} more)"] if left > 0 else [])
        value = ", ".join(shown) or "none"
    try:
        said = str(value)
    except ValueError:
        return "a very long number"
    return said if len(said) <= MAX_LENGTH else said[:MAX_LENGTH] + "…"


def leaves(content: Mapping[str, Any], name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Values and tables of nested objects, with their names joined by blanks."""
    for key, value in content.items():
        label = f"{name} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping) and depth < MAX_DEPTH and not is_table(value):
            yield from leaves(value, label, depth + 1)
        else:
            yield label, value


def is_table(value: Any) -> bool:
    """Whether a value is a list of objects, or several objects of the same keys under names."""
    rows = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(rows, list) or not all(isinstance(r, dict) and r for r in rows):
        return False
    if rows is value:
        return bool(rows)
    return len(rows) > 1 and len({tuple(r) for r in rows}) == 1


def table(value: Any, caption: str) -> dict[str, Any]:
    """The table of what `is_table`: a row each, columns in order of appearance, none empty."""
    if isinstance(value, Mapping):
        value = [{"": name} | dict(leaves(row)) for name, row in value.items()]
    columns = dict.fromkeys(k for r in value for k, v in r.items() if v is not None)
    rows = [[record.get(c) for c in columns] for record in value]
    shown = [str(c).replace("_", " ") for c in columns]
    return {"caption": caption, "columns": shown, "rows": rows}
