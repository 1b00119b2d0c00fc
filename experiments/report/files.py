"""Reading result folders for a report: bounded, and nothing outside the folders named.

Whatever is damaged, too large or not what its name says becomes a sentence in the report.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_JSON = 2**24  # bytes of a .json
MAX_TEXT = 2**25  # bytes read of a .jsonl
MAX_LOG = 2**15  # bytes shown of a log
MAX_FILES = 200_000  # looked at below one folder
PICTURES = (".png", ".gif", ".jpg", ".jpeg")
# Images of data sets and generated ones, made by the thousand: 000123.png, img00000123.png.
NUMBERED = re.compile(r"(img)?\d{5,}\.\w+")
SKIPPED = {"__pycache__", "node_modules"}


class Folder:
    """The files of one folder, each of which is shown in at most one place.

    Attributes:
        path: of the folder.
        label: as people see it.
        files: names and paths that no section has claimed yet.
        problems: sentences about files that could not be used.
    """

    def __init__(self, path: Path, label: str, names: list[str], root: Path):
        self.path, self.label, self.root = path, label, root.resolve()
        self.files = {n: path / n for n in names if self._inside(path / n)}
        self.problems: list[str] = []

    def _inside(self, path: Path) -> bool:
        """Whether a file lies below the folder named, and not elsewhere through a link."""
        return path.is_file() and path.resolve().is_relative_to(self.root)

    def matches(self, pattern: str) -> list[tuple[str, re.Match[str]]]:
        """Names of unclaimed files that a pattern matches in full, in order, with their match."""
        found = ((n, re.fullmatch(pattern, n)) for n in sorted(self.files))
        return [(n, m) for n, m in found if m]

    def claim(self, name: str) -> Path | None:
        """Take a file, if it is there."""
        return self.files.pop(name, None)

    def claim_pictures(self, prefix: str) -> list[tuple[Path, str]]:
        """Take the pictures whose names start with a prefix; still ones first; with captions."""
        names = [n for n in self.files if n.startswith(prefix) and is_picture(n)]
        names.sort(key=lambda n: (n.endswith(".gif"), n))
        return [(self.files.pop(n), caption(n, prefix)) for n in names]

    def read(self, name: str) -> dict[str, Any] | None:
        """Take a .json that holds an object; None, and a sentence, if it cannot be used."""
        path = self.claim(name)
        if path is None:
            return None
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise ValueError("it holds no JSON object")
        except ValueError as error:
            self.problems.append(f"{self.label}/{name} could not be used: {error}")
            return None
        return content

    def date(self, name: str) -> float:
        """When a file was last written, seconds since 1970, to the second."""
        return float(int((self.path / name).stat().st_mtime))


def read_json(path: Path) -> Any:
    """The content of a .json file.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it is larger than {MAX_JSON // 2**20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())[:160]) from None


def read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Objects of a .jsonl file, and how many lines held none (one being written, say)."""
    records, bad = [], 0
    with open(path, "rb") as file:
        for line in file.read(MAX_TEXT).splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                records.append(record)
            else:
                bad += 1
    return records, bad


def tail(path: Path) -> str:
    """The end of a text file."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LOG))
        shown = file.read(MAX_LOG).decode("utf-8", "replace")
    return shown if size <= MAX_LOG else "…" + shown.partition("\n")[2]


def is_picture(name: str) -> bool:
    """Whether a file is a picture to show, by its name."""
    return name.lower().endswith(PICTURES) and not NUMBERED.fullmatch(name)


def caption(name: str, prefix: str = "") -> str:
    """The name of a picture in words, without what its section says anyway."""
    words = Path(name).stem.removeprefix(prefix).replace("_", " ").strip(" -")
    return words or Path(name).stem.replace("_", " ")


def folders(root: Path, label: str) -> Iterator[Folder]:
    """The folder `root` and those below it, by name; links to folders are not followed.

    Raises:
        ValueError: if there are too many files.
    """
    seen = 0
    for path, below, names in os.walk(root):
        below[:] = sorted(b for b in below if not b.startswith(".") and b not in SKIPPED)
        seen += len(names)
        if seen > MAX_FILES:
            raise ValueError(f"{label} holds more than {MAX_FILES} files; name a folder inside it")
        where = Path(path).relative_to(root)
        visible = [n for n in names if not n.startswith(".") and not NUMBERED.fullmatch(n)]
        name = label if where == Path(".") else f"{label.rstrip('/')}/{where.as_posix()}"
        yield Folder(Path(path), name, visible, root)
