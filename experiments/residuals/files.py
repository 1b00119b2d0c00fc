"""Files of network residuals and of their correlations: names, reading by rows, verification."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.arrays import load_npz
from dnnlib.util import Json
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


def save_with_run(path: Path, arrays: dict[str, np.ndarray], run: Json) -> None:
    """Write arrays and, as JSON, what they were made from, atomically."""
    save_results(path, arrays | {"run": np.array(json.dumps(run, sort_keys=True))})


class ArrayFile:
    """An .npz whose arrays are read a few rows at a time; compressed ones as a whole.

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
        self._packed: set[str] = set()  # arrays that are compressed
        self._entries: dict[str, tuple[zipfile.ZipInfo, int, np.dtype, Any]] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for entry in archive.infolist():
                    with archive.open(entry) as file:
                        shape, fortran, kind = HEADERS[np.lib.format.read_magic(file)](file)
                        header = file.tell()
                    if kind.hasobject:
                        raise ValueError("not an array of numbers")
                    name = entry.filename.removesuffix(".npy")
                    self.shapes[name] = shape
                    self._entries[name] = (entry, header, kind, "F" if fortran else "C")
                    if entry.compress_type != zipfile.ZIP_STORED:
                        self._packed.add(name)
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
    def run(self) -> Json:
        """What the file was made from; empty if it does not say."""
        text = self.small("run")
        return {} if text is None else json.loads(str(text))

    def rows(self, name: str, start: int, stop: int, chunk: int) -> Iterator[np.ndarray]:
        """Rows start..stop of an array seen as [rows, d], float32, up to `chunk` at a time.

        Raises:
            ValueError: if there are not so many rows.
        """
        shape = self.shapes[name]
        there = math.prod(shape[:-1])
        if stop > there:
            raise ValueError(f"{self.path}: {name} has {there} rows, {stop} were asked for")
        table: Any = self.small(name) if name in self._packed else self._mapped(name)
        for first in range(start, stop, chunk):
            lines = np.unravel_index(np.arange(first, min(first + chunk, stop)), shape[:-1])
            yield np.asarray(table[lines], np.float32)

    def _mapped(self, name: str) -> np.ndarray:
        """An array that is not compressed, in the file itself."""
        entry, header, kind, order = self._entries[name]
        with open(self.path, "rb") as file:  # its content starts after its name and further fields
            file.seek(entry.header_offset + 26)
            lengths = sum(struct.unpack("<HH", file.read(4)))
        offset = entry.header_offset + 30 + lengths + header
        return np.memmap(self.path, kind, "r", offset, self.shapes[name], order)


def is_done(path: Path, run: Json, shapes: Mapping[str, tuple[int, ...]]) -> bool:
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
