"""The state of an unfinished recipe in one small file, to carry it from machine to machine.

Networks on CIFAR-10 hold the 3,072 eigenvectors of the data, 75 MB each time. The data give them
back, so they stay out; a digest tells whether another machine finds the same ones. If it does not
(signs are arbitrary, and so are directions of equal variance), a network in image space goes on all
the same: it sees the rotation only in how noise is dealt out.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.util import atomic_path
from torch_utils import checkpoint
from training.data.images import ImageSource
from training.image_options import basis_of

KINDS = {"network-snapshot-": "network", "training-state-": "training-state"}
WITHOUT = "eigenvectors-left-out"
LARGE = 2**20  # bytes: smaller eigenvectors stay in
SKIPPED = ("cache", "images")  # folders that are made again


def kind_of(path: Path) -> str | None:
    """The kind of a checkpoint by its name; None for other files."""
    return next((k for start, k in KINDS.items() if path.name.startswith(start)), None)


def prune(folder: Path, finished: bool) -> None:
    """Keep the newest network of a run; its newest training state only if it is not finished."""
    for pattern, keep in ((checkpoint.SNAPSHOT, 1), (checkpoint.STATE, 0 if finished else 1)):
        paths = checkpoint.numbered(folder, pattern)
        for path in paths[: len(paths) - keep]:
            path.unlink()


def pack(outdir: Path, dest: Path) -> int:
    """Write what a recipe has reached to a zip, without eigenvectors and cached data.

    Returns:
        its size, bytes.
    """
    with atomic_path(dest) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in sorted(p for p in outdir.rglob("*") if p.is_file() and p != dest):
            name = path.relative_to(outdir)
            if set(SKIPPED) & set(name.parts) or path.name == "lock" or path.name[0] == ".":
                continue
            kind = kind_of(path)
            if kind is None:
                archive.write(path, str(name), zipfile.ZIP_DEFLATED)
                continue
            buffer = io.BytesIO()
            torch.save(_without(checkpoint.load(path, kind)), buffer)
            archive.writestr(str(name), buffer.getvalue())
    return dest.stat().st_size


def unpack(source: Path, outdir: Path, data: Path) -> list[str]:
    """Put a packed state back; files that are there already stay.

    Args:
        source: what `pack` wrote.
        outdir: of the recipe.
        data: zip of the images that the networks are trained on.

    Returns:
        remarks for the reader.
    """
    notes: set[str] = set()
    vectors: Tensor | None = None
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            path = outdir / name
            if not path.resolve().is_relative_to(outdir.resolve()):
                raise ValueError(f"{source}: {name} would be written outside {outdir}")
            if path.exists():
                continue
            kind = kind_of(path)
            if kind is None:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(archive.read(name))
                continue
            content = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            digest = _digest_left_out(content)
            if digest is not None and vectors is None:
                vectors = basis_of(ImageSource(data)).W.double()
            if digest is not None and vectors is not None and _digest(vectors) != digest:
                notes.add("This machine finds other eigenvectors; networks go on with these.")
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = _with(content, vectors)
            own = {k: v for k, v in whole.items() if k not in ("format", "version")}  # `save` adds
            checkpoint.save(path, kind, own)
    return sorted(notes)


def _digest(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()


def _without(value: Any) -> Any:
    """The same, a digest in place of each large W."""
    if not isinstance(value, dict):
        return value
    return {
        k: {WITHOUT: _digest(v)}
        if k == "W" and isinstance(v, Tensor) and v.nbytes > LARGE
        else _without(v)
        for k, v in value.items()
    }


def _with(value: Any, vectors: Tensor | None) -> Any:
    """The reverse of `_without`."""
    if not isinstance(value, dict):
        return value
    return vectors if WITHOUT in value else {k: _with(v, vectors) for k, v in value.items()}


def _digest_left_out(value: Any) -> str | None:
    """The first digest that `_without` left."""
    if not isinstance(value, dict):
        return None
    if WITHOUT in value:
        return value[WITHOUT]
    return next((d for v in value.values() if (d := _digest_left_out(v)) is not None), None)
