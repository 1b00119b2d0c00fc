"""Network and training-state files: tensors and plain values, read without running any code.

A network file is a dict (see `training.model`) saved by torch.save under the traditional name
.pkl; it is only ever read with weights_only=True.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import atomic_path, open_url, run_dirs

FORMAT = "inflationary-flow"
VERSION = 1
SNAPSHOT = "network-snapshot-{:06d}.pkl"
STATE = "training-state-{:06d}.pt"


def save(path: str | Path, kind: str, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values, atomically.

    Args:
        path: file to write.
        kind: "network" or "training-state".
        content: what to save.
    """
    with atomic_path(path) as temporary:
        torch.save({"format": f"{FORMAT}-{kind}", "version": VERSION, **content}, temporary)


def load(path: str | Path, kind: str) -> dict[str, Any]:
    """Read what `save` wrote; nothing in the file is executed.

    Raises:
        ValueError: one line on why the file cannot be used.
    """
    try:
        with open_url(str(path)) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # a hostile or damaged file fails in any way it likes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: not a {kind} file of this suite, or damaged ({reason[:120]})"
        ) from None
    if not isinstance(content, dict) or content.get("format") != f"{FORMAT}-{kind}":
        raise ValueError(f"{path}: not a {kind} file of this suite")
    if content.get("version", 0) > VERSION:
        raise ValueError(
            f"{path}: written by a newer version (file format {content['version']}, "
            f"this suite reads up to {VERSION}); update the suite"
        )
    return content


def load_network(path: str | Path) -> dict[str, Any]:
    """Read a network file, an https:// address, or the latest in a run folder or folder of runs."""
    return load(find_network(path), "network")


def find_network(path: str | Path) -> str | Path:
    """The network file that a path or address means: itself, or the latest in a folder of runs.

    Raises:
        ValueError: if there is none.
    """
    if not Path(path).is_dir():
        return path
    path = Path(path)
    for folder in [path, *reversed(run_dirs(path))]:
        snapshots = numbered(folder, SNAPSHOT)
        if snapshots:
            return snapshots[-1]
    raise ValueError(f"{path}: no network-snapshot-*.pkl in this folder")


def numbered(folder: str | Path, pattern: str) -> list[Path]:
    """Files of a folder that match SNAPSHOT or STATE, lowest kimg first."""
    regex = re.compile(re.escape(pattern).replace(re.escape("{:06d}"), r"(\d{6,})") + "$")
    matched = [(regex.match(p.name), p) for p in Path(folder).iterdir()]
    return [p for _, p in sorted((int(m[1]), p) for m, p in matched if m)]
