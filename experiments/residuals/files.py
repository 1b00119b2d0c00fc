"""Files of network residuals and of their correlations: names, reading by rows, verification."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from dnnlib.arrays import load_npz
from flow.results import save_results

OUTPUTS, RESIDUALS, ERRORS = "net_outputs", "net_residuals", "net_errors"
CORRELATIONS = {
    OUTPUTS: "net_output_acs",
    RESIDUALS: "net_residual_acs",
    ERRORS: "net_error_acs",
}
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def time_file(folder: str | Path, data: str, schedule: str, k: int) -> Path:
    """Outputs and residuals of an image network at time point k."""
    return Path(folder) / f"{data}_{schedule}_net_outputs_residuals_time{k}.npz"


def lag_file(folder: str | Path, data: str, schedule: str, k: int) -> Path:
    """Correlations of time points 0 and k of an image network."""
    return Path(folder) / f"{data}_{schedule}_autocorrelations_times0_{k}.npz"


def toy_file(folder: str | Path, data: str, schedule: str) -> Path:
    """Outputs and residuals of a toy network at all times."""
    return Path(folder) / f"{data}_{schedule}_toy_net_outputs_residuals.npz"


def toy_correlation_file(folder: str | Path, data: str, schedule: str) -> Path:
    """Correlations of a toy network's time point 0 with all."""
    return Path(folder) / f"{data}_{schedule}_toy_autocorrelations.npz"


def save_with_run(path: Path, arrays: dict[str, np.ndarray], run: dict[str, Any]) -> None:
    """Write arrays and, as JSON, what they were made from, atomically."""
    save_results(path, arrays | {"run": np.array(json.dumps(run, sort_keys=True))})


class ArrayFile:
    """An .npz whose arrays are read a few rows at a time, whichever order their numbers lie in.

    Only the headers are read when it is opened, and the table of contents at the file's end, which
    a file that was cut off does not have.

    Args:
        path: the file.

    Raises:
        ValueError: if it is missing or damaged, one line that names it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, np.dtype] = {}
        self._offsets: dict[str, int] = {}  # of the numbers in the file, where not compressed
        self._fortran: set[str] = set()  # arrays whose first index runs fastest
        try:
            with zipfile.ZipFile(self.path) as archive:
                for entry in archive.infolist():
                    with archive.open(entry) as file:
                        shape, fortran, kind = HEADERS[np.lib.format.read_magic(file)](file)
                        header = file.tell()
                    if kind.hasobject:
                        raise ValueError("not an array of numbers")
                    name = entry.filename.removesuffix(".npy")
                    self.shapes[name], self._types[name] = shape, kind
                    if fortran and len(shape) > 1:
                        self._fortran.add(name)
                    if entry.compress_type == zipfile.ZIP_STORED:
                        self._offsets[name] = header + self._start(entry)
        except FileNotFoundError:
            raise ValueError(f"{self.path}: no such file") from None
        except (OSError, ValueError, KeyError, struct.error, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise ValueError(f"{self.path}: not a readable .npz file ({reason})") from None

    def small(self, name: str) -> np.ndarray | None:
        """A whole array; None if the file does not have it."""
        if name not in self.shapes:
            return None
        try:
            return load_npz(self.path, (name,))[name]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{self.path}: not a readable .npz file ({error})") from None

    @property
    def run(self) -> dict[str, Any]:
        """What the file was made from; empty if it does not say."""
        text = self.small("run")
        return {} if text is None else json.loads(str(text))

    def rows(self, name: str, start: int, stop: int, chunk: int) -> Iterator[np.ndarray]:
        """Rows start..stop of an array seen as [rows, d], float32, up to `chunk` at a time.

        Raises:
            ValueError: if there are not so many rows.
        """
        d, kind = self.shapes[name][-1], self._types[name]
        there = math.prod(self.shapes[name][:-1])
        if stop > there:
            raise ValueError(f"{self.path}: {name} has {there} rows, {stop} were asked for")
        if name in self._fortran:
            yield from self._columns(name, start, stop, chunk)
            return
        with ExitStack() as opened:
            file: IO[bytes]
            if name in self._offsets:  # zipfile would read its way to the first row
                file = opened.enter_context(open(self.path, "rb"))
                file.seek(self._offsets[name] + start * d * kind.itemsize)
            else:
                archive = opened.enter_context(zipfile.ZipFile(self.path))
                file = opened.enter_context(archive.open(f"{name}.npy"))
                HEADERS[np.lib.format.read_magic(file)](file)
                file.seek(file.tell() + start * d * kind.itemsize)
            for first in range(start, stop, chunk):
                count = min(chunk, stop - first)
                data = file.read(count * d * kind.itemsize)
                yield np.frombuffer(data, kind).reshape(count, d).astype(np.float32)

    def _columns(self, name: str, start: int, stop: int, chunk: int) -> Iterator[np.ndarray]:
        """`rows` of an array in Fortran order: its columns are mapped, or unpacked as a whole."""
        shape = self.shapes[name]
        if name in self._offsets:
            kind, offset = self._types[name], self._offsets[name]
            table: Any = np.memmap(self.path, kind, "r", offset, shape, "F")
        else:
            table = self.small(name)
        for first in range(start, stop, chunk):
            lines = np.unravel_index(np.arange(first, min(first + chunk, stop)), shape[:-1])
            yield np.asarray(table[lines], np.float32)

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Where the content of an entry starts: after its name and further fields."""
        with open(self.path, "rb") as file:
            file.seek(entry.header_offset + 26)
            name, further = struct.unpack("<HH", file.read(4))
        return entry.header_offset + 30 + name + further


def is_done(path: Path, run: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a file is there, whole, and was made from the same.

    Args:
        path: the file.
        run: what it should be made from.
        shapes: of the arrays that it should have.

    Raises:
        ValueError: if it is whole, but made from something else.
    """
    if not path.exists():
        return False
    try:
        found = ArrayFile(path)
        made_from = found.run
    except ValueError:
        return False  # damaged: it is made again
    wanted = json.loads(json.dumps(run))
    differing = [k for k in wanted if made_from.get(k) != wanted[k]]
    if differing:
        k = differing[0]
        raise ValueError(
            f"{path} is there already, made with {k}={made_from.get(k)} and not {wanted[k]}: name "
            "another --save_dir, or remove it"
        )
    return all(found.shapes.get(name) == shape for name, shape in shapes.items())


def missing_files(paths: list[Path]) -> str:
    """A line on which of the files are missing; empty if none is."""
    missing = [p.name for p in paths if not p.exists()]
    if not missing:
        return ""
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{len(missing)} of {len(paths)} files are missing: {', '.join(missing[:3])}{more}"
