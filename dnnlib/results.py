"""What a result file says of itself: what ran, on what and where, and what was measured.

A script that writes a .json adds this envelope to it, under one key beside its own:

    write_json(path, enclosed(content, "circles PRP: simulation", [Measured("rmse", rmse)]))

The report and the tables of the papers read envelopes, and need to know no script.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dnnlib.util import Json

KEY = "envelope"
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dnnlib", "torch_utils", "training", "flow", "metrics", "experiments")
SHA256 = "_sha256"  # how names of digests end, in what scripts write


class Measured(NamedTuple):
    """A measured number.

    Attributes:
        name: of the quantity.
        value: of it.
        unit: of value, error and yardstick; empty for pure numbers.
        error: standard error of the value.
        yardstick: what the value is to be compared with.
        source: what the yardstick is: exact, published by whom, of which baseline.
    """

    name: str
    value: float | None
    unit: str = ""
    error: float | None = None
    yardstick: float | None = None
    source: str = ""


def enclosed(
    content: Mapping[str, Any],
    title: str,
    values: Sequence[Measured] = (),
    *,
    kind: str = "Results",
    command: str = "",
    inputs: Mapping[str, str | os.PathLike | None] | None = None,
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = (),
    arrays: Sequence[str] = (),
    pictures: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Json:
    """The content of a result file with its envelope.

    Args:
        content: what the file holds anyway; its "options" are those of the command.
        title: one line on what this is the result of.
        values: figures, with their yardsticks; without them the plain numbers of the content's
            "results".
        kind: chapter that results of this kind are shown in.
        command: that made it; this process's own if it is empty.
        inputs: what was read, by name: files, whose digests are kept, or digests. Those that the
            content names (network_sha256, data_sha256) and that of the code are kept anyway.
        tables: captions, names of columns, rows of plain values.
        arrays, pictures: names of files, relative to the folder of this one.
        notes: sentences for the reader.
    """
    values = values or list(_numbers(content.get("results")))
    digests = {"code": code(), **dict(_named(content))}
    digests |= {name: digest(source) for name, source in (inputs or {}).items()}
    envelope = {
        "version": 1,
        "kind": kind,
        "title": title,
        "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(),
        "digests": {name: d for name, d in digests.items() if d},
        "values": [{k: v for k, v in m._asdict().items() if v not in (None, "")} for m in values],
        "tables": [
            {"caption": caption, "columns": list(columns), "rows": [list(row) for row in rows]}
            for caption, columns, rows in tables
        ],
        "arrays": list(arrays),
        "pictures": list(pictures),
        "notes": list(notes),
    }
    return {**content, KEY: envelope}


def _numbers(results: Any, name: str = "", depth: int = 2) -> Iterator[Measured]:
    """Numbers by name, those of what is held by name, too, but not of longer lists."""
    for key, value in results.items() if isinstance(results, Mapping) else ():
        label = f"{name} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping) and depth:
            yield from _numbers(value, label, depth - 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield Measured(label, value)


def _named(content: Mapping[str, Any], depth: int = 2) -> Iterator[tuple[str, str | None]]:
    """Digests that a content has, there or in what it holds by name."""
    for key, value in content.items():
        if isinstance(value, Mapping) and depth:
            yield from _named(value, depth - 1)
        elif key.endswith(SHA256) and isinstance(value, str):
            yield key.removesuffix(SHA256), value


@cache
def code() -> str:
    """The sha256 of the sources of this suite and of the script that runs."""
    found, script = hashlib.sha256(), Path(sys.argv[0])
    sources = sorted(path for name in PACKAGES for path in (ROOT / name).glob("**/*.py"))
    for path in [*sources, *([script] if script.suffix == ".py" and script.is_file() else [])]:
        found.update(f"{path.name} ".encode() + path.read_bytes())
    return found.hexdigest()


def digest(source: str | os.PathLike | None) -> str | None:
    """The sha256 of a file; what is no file stands for itself, a folder for nothing."""
    if source is None or os.path.isdir(source):
        return None
    if not os.path.isfile(source):
        return str(source)
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def commit() -> str:
    """The commit of this source tree, with "-dirty" if files differ from it."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
    return found.stdout.strip()


@cache
def machine() -> str:
    """One line on what the figures were measured on; of torch only where it is in use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if "model name" in x), model)
    parts = [model, f"{os.cpu_count()} cores"]
    if torch := sys.modules.get("torch"):
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        parts += [f"{torch.get_num_threads()} threads", gpu, f"torch {torch.__version__}"]
    return ", ".join([*parts, f"Python {platform.python_version()}"])
