"""Network and training-state files: tensors and plain values, read without running any code.

A network file is a dict (see `training.network_file` and docs/file-formats.md) saved by torch.save
under the traditional name .pkl. Older files of the EDM family and .safetensors with a .json beside
them are read too, by `training.network_file`. `load` is the only door for all files of the suite;
`python -m torch_utils.checkpoint info|verify|convert FILE` looks through it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dnnlib.cli import DiskError
from dnnlib.download import open_url
from dnnlib.util import atomic_path, run_dirs, sync
from torch_utils import schema
from torch_utils.files.inert_pickle import RefusedError
from torch_utils.files.legacy_pickle import read_legacy
from torch_utils.files.safetensors import read_safetensors
from torch_utils.files.tensor_files import ZIP_MAGIC, read_zip
from torch_utils.peers import agree_on_file, of_rank0

FORMAT = "inflationary-flow"
VERSION = 1
SNAPSHOT = "network-snapshot-{:06d}.pkl"
STATE = "training-state-{:06d}.pt"
# From the records of an older file, and its name, to the content of a network file.
Lift = Callable[[dict[str, Any], str], dict[str, Any]]
PICKLE = b"\x80"  # how every pickle of protocol 2 or later begins
MAX_FILE = 2**35  # bytes: 32 GiB
# Version -> what turns the content of such a file into that of the next version.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def save(path: str | Path, kind: str, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values, atomically.

    The file is read back and its checksums compared before it takes the place of an older one.

    Args:
        path: file to write.
        kind: "network", "training-state", "basis" or "nonfinite-batch".
        content: what to save.

    Raises:
        DiskError: if the disk refuses, or gives back something else than was written.
    """
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:  # torch.save would hide the reason of a failure
            torch.save({"format": f"{FORMAT}-{kind}", "version": VERSION, **content}, file)
        sync(temporary)
        _check_written(temporary, path)


def frozen(value: Any) -> Any:
    """Plain values and tensors, nested or not, as they are now: copies on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: frozen(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(frozen(v) for v in value)
    return value


def _check_written(temporary: Path, path: str | Path) -> None:
    """Compare the checksums of a file's parts with their content, as the disk has it.

    Raises:
        DiskError: if they differ.
    """
    with open(temporary, "rb") as file:
        if hasattr(os, "posix_fadvise"):  # not as memory has it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip() is not None
        except zipfile.BadZipFile:
            damaged = True
    if damaged:
        raise DiskError(path, errno.EIO)


def load(
    path: str | Path, kind: str, sha256: str | None = None, lift: Lift | None = None
) -> dict[str, Any]:
    """Read what `save` wrote; nothing in the file is executed.

    Args:
        path: file, or https:// address.
        kind: see `save`.
        sha256: digest that the file must have.
        lift: reads older network files, which are refused without it.

    Raises:
        ValueError: one line on why the file cannot be used.
    """
    try:
        with open_url(str(path), sha256) as file:
            content = _content(file, str(path), kind, lift)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder") from None
    except RefusedError as error:
        raise ValueError(
            f"{path}: not a {kind} file of this suite, or damaged: it {error}"
        ) from None
    except (OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason})") from None
    content = _migrated(content, kind, path)
    try:
        schema.check(content, kind)
    except ValueError as error:
        raise ValueError(f"{path}: not a usable {kind} file: it {error}") from None
    return content


def _content(file: IO[bytes], name: str, kind: str, lift: Lift | None) -> dict[str, Any]:
    """What a file holds, whichever of the known layouts it has."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(512)
    file.seek(0)
    if size > MAX_FILE:
        raise RefusedError(f"has more than {MAX_FILE} bytes")
    if start.startswith(ZIP_MAGIC):
        content = read_zip(file)
    elif kind == "network" and start.startswith(PICKLE) and lift is not None:
        content = {"format": f"{FORMAT}-network", "version": VERSION}
        content |= lift(read_legacy(file.read()), name)
    elif kind == "network" and name.endswith(".safetensors"):
        content = read_safetensors(Path(name), size)
    else:
        raise RefusedError(_looks_like(start))
    if not isinstance(content, dict) or content.get("format") != f"{FORMAT}-{kind}":
        raise RefusedError("holds something else")
    return content


def _looks_like(start: bytes) -> str:
    if not start:
        return "is empty"
    if start.lstrip()[:1] == b"<":
        return "is a web page or other text; download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs; fetch the file itself with git lfs pull"
    return "is of no known layout"


def _migrated(content: dict[str, Any], kind: str, path: str | Path) -> dict[str, Any]:
    """The content in today's version."""
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: not a {kind} file of this suite, or damaged: it has no version")
    if version > VERSION:
        raise ValueError(
            f"{path}: written by a newer version (file format {version}, "
            f"this suite reads up to {VERSION}); update the suite"
        )
    for step in range(version, VERSION):
        content = MIGRATIONS[step](content) | {"version": step + 1}
    return content


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


def agreed_network(path: str | Path, option: str = "--network") -> tuple[str, str]:
    """The network file that rank 0 finds, and its SHA-256, which is the same on all ranks.

    Raises:
        ValueError: if there is none.
        UserError: naming a process that has another.
    """
    found = of_rank0(lambda: str(find_network(path)))
    try:
        with open_url(found) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # the stub knows no raw files
    except FileNotFoundError:
        raise ValueError(f"{found}: no such file") from None
    except OSError as error:
        raise ValueError(f"{found}: cannot be read ({error.strerror or error})") from None
    agree_on_file(option, found, digest)
    return found, digest


def numbered(folder: str | Path, pattern: str) -> list[Path]:
    """Files of a folder that match SNAPSHOT or STATE, lowest kimg first."""
    regex = re.compile(re.escape(pattern).replace(re.escape("{:06d}"), r"(\d{6,})") + "$")
    matched = [(regex.match(p.name), p) for p in Path(folder).iterdir()]
    return [p for _, p in sorted((int(m[1]), p) for m, p in matched if m)]
