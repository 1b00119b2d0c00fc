"""NumPy files from anywhere: no pickles in them, and no more memory than they have bytes."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

MAX_RATIO = 100  # of unpacked to packed bytes
SLACK = 2**26  # bytes that a file may hold whatever its size
_HEADERS: dict[tuple[int, int], Callable[[Any], tuple]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def load_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: what is wrong with it, without its name.
    """
    with open(path, "rb") as file:
        return _guarded(lambda: _array(file, os.fstat(file.fileno()).st_size))


def load_npz(path: str | Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a .npz file.

    Args:
        path: of the file.
        names: those wanted, as far as they are there; None for all.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: what is wrong with it, without its name.
    """

    def read(file: IO[bytes]) -> dict[str, np.ndarray]:
        with zipfile.ZipFile(file) as archive:
            infos = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            if len(infos) < len(archive.infolist()):
                raise ValueError("it holds two arrays of one name")
            chosen = [n for n in infos if names is None or n in names]
            total = sum(infos[n].file_size for n in chosen)
            if total > MAX_RATIO * os.fstat(file.fileno()).st_size + SLACK:
                raise ValueError(f"it unpacks to {total} bytes, too many for its size")
            found = {}
            for name in chosen:
                with archive.open(infos[name]) as entry:
                    found[name] = _array(entry, infos[name].file_size)
            return found

    with open(path, "rb") as file:
        return _guarded(lambda: read(file))


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Read an array, having compared what its header says with the bytes there are."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its layout {version} is not known")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or expected != size - file.tell():
        raise ValueError(f"it is damaged: {size - file.tell()} bytes for an array {shape}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _guarded(read: Callable[[], Any]) -> Any:
    """Any failure of a damaged file as a ValueError of one line."""
    try:
        return read()
    except (
        ValueError, EOFError, OSError, KeyError, TypeError, AttributeError, SyntaxError,
        RuntimeError, NotImplementedError, OverflowError, RecursionError, MemoryError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(" ".join(str(error).split())[:120] or type(error).__name__) from None
