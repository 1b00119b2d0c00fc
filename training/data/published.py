"""Published image sets by name: where their files lie is in published.toml, with their digests."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from dnnlib.cache import cache_dir
from dnnlib.download import fetch

SETS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)


class Remote(NamedTuple):
    """A file of a set: its address, where it is kept, its size in bytes and sha256 if known."""

    url: str
    path: Path
    bytes: int | None
    sha256: str | None


def is_name(source: str) -> bool:
    """Whether a source is one of these sets; a file or folder of that name goes before."""
    return source in SETS and not Path(source).exists()


def files(name: str, mirror: str | None = None) -> list[Remote]:
    """The files of a set.

    Args:
        name: of the set.
        mirror: address of a folder that holds the files under their published names.
    """
    about, place = SETS[name], cache_dir() / "datasets" / name
    folder = (mirror or about["folder"]).rstrip("/")
    found = []
    for file, known in about["files"].items():
        query = "" if mirror else known.get("query", "")
        url = f"{folder}/{file}{query}"
        found.append(Remote(url, place / file, known.get("bytes"), known.get("sha256")))
    return found


def fetched(name: str, mirror: str | None = None) -> tuple[Path, list[str]]:
    """Download what is missing of a set and check all of it.

    Returns:
        The file that `open_source` reads, and a line on each file.

    Raises:
        ValueError, OSError: as for `dnnlib.download.fetch`; nothing wrong is kept.
    """
    lines = []
    for file in files(name, mirror):
        there = file.path.is_file()
        found = fetch(file.url, file.path, file.sha256)
        line = f"{file.path}: " + ("here already" if there else f"from {file.url}")
        if file.sha256:
            lines.append(f"{line}, sha256 as published ({SETS[name]['digests']})")
        else:
            lines.append(f"{line}, not checked: no digest is published; sha256 {found}")
    return files(name)[0].path, lines
