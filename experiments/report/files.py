"""Reading result folders for a report: bounded, and nothing outside the folders named."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dnnlib.util import Json

MAX_JSON = 2**24  # bytes of a .json
MAX_TEXT = 2**25  # bytes read of a .jsonl
MAX_LOG = 2**15  # bytes shown of a log
MAX_FILES = 200_000  # looked at below one folder
MAX_ITEMS = 12  # of a list that is shown as text
MAX_LENGTH = 2000  # characters of a value
PICTURES = (".png", ".gif", ".jpg", ".jpeg")
# Images of data sets and generated ones, made by the thousand: 000123.png, img00000123.png.
NUMBERED = re.compile(r"(img)?\d{5,}\.\w+")
SKIPPED = {"__pycache__", "node_modules"}


def folders(root: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A folder and those below it, each with its files by name; ValueError for too many files."""
    seen = 0
    for path, below, names in os.walk(root):
        below[:] = sorted(b for b in below if not b.startswith(".") and b not in SKIPPED)
        seen += len(names)
        if seen > MAX_FILES:
            raise ValueError(f"{root} holds more than {MAX_FILES} files; name a folder inside it")
        visible = sorted(n for n in names if not n.startswith(".") and not NUMBERED.fullmatch(n))
        folder = Path(path)
        yield folder, {n: folder / n for n in visible if is_inside(folder / n, root)}


def is_inside(path: Path, root: Path) -> bool:
    """Whether a file is there and below a folder, and not elsewhere through a link."""
    return path.is_file() and path.resolve().is_relative_to(root.resolve())


def read_json(path: Path) -> Json:
    """The object in a .json file; ValueError says in a line what is wrong with it."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it is larger than {MAX_JSON // 2**20} MiB")
        return parsed(path.read_bytes())
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from None


def parsed(data: bytes) -> Json:
    """The object that JSON says; ValueError says in a line why it says none."""
    try:
        content = json.loads(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())[:160]) from None
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def tail(path: Path) -> str:
    """The end of a text file."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LOG))
        shown = file.read(MAX_LOG).decode("utf-8", "replace")
    return shown if size <= MAX_LOG else "…" + shown.partition("\n")[2]


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
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
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
