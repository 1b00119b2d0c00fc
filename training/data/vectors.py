"""The user's own vectors: .npy, .npz or tables of text as a training source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.arrays import load_npy, load_npz
from dnnlib.host import printable
from torch_utils import distributed, seeding
from training.data.source import Source
from training.data.table_columns import as_floats, shown
from training.data.tables import SUFFIXES, TableOptions, read_table

LIMIT = 1e140  # values beyond, and spreads below 1/LIMIT, have no squares in float64
ROUNDING = 8  # a column that varies by so many steps of float64 does not vary


class VectorSource(Source):
    """Rows of a file. Columns are standardised; the network file stores the statistics.

    Args:
        path: .npy [n, d], .npz with one such array (or one named x or data), or a table of text:
            .csv, .tsv or .txt.
        options: what the user says of the table.
        like: the `reading` of the table that a network was trained on: the same columns are read.

    Attributes:
        rows: the data, float64 [n, d].
        scale: standard deviations of the columns, 1 of constant ones, [d].
        constant: names of constant columns.
        codes: sentences on values that may stand for missing ones.
        reading: how a table was read, plain values; None for .npy and .npz.
        said: what was read, in one line.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """

    count: int

    def __init__(
        self,
        path: str | Path,
        options: TableOptions | None = None,
        like: dict[str, Any] | None = None,
    ):
        self.path = Path(path)
        try:
            array, self.reading, said = _read(self.path, options or TableOptions(), like)
            self.rows = torch.from_numpy(array)
            self.count, self.dim = self.rows.shape
            numbers = [str(j) for j in range(self.dim)]
            names = self.reading["columns"] if self.reading else numbers
            self.scale = _scale(self.rows, names)
            self.constant = [name for name, s in zip(names, self.scale, strict=True) if s == 0]
            self.codes = codes_of_missing(array, names)
            if len(self.constant) == self.dim:
                raise ValueError("every column is constant; there is nothing to learn")
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self.said = f"{self.path}: {said}"
        self.scale[self.scale == 0] = 1.0

    def samples(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor:
        """Rows start..stop of a stream, float64 [stop - start, d].

        Args:
            seed: of the order in training.
            start, stop: range; "training" goes on for ever, reshuffled each epoch.
            purpose: "training", or anything else for the file's own order.

        Raises:
            ValueError: if more rows than there are are asked for outside training.
        """
        if purpose == "training":
            return self.rows[torch.from_numpy(seeding.epochs(seed, start, stop, self.count))]
        if stop > self.count:
            raise ValueError(f"{self.path}: holds {self.count} rows, {stop} were asked for")
        return self.rows[start:stop]

    def basis_batches(self) -> Iterator[Tensor]:
        """This rank's share of all rows."""
        for block in distributed.share(self.count, 2**14):
            yield self.rows[block.start : block.stop]

    def description(self) -> dict[str, Any]:
        """What the network file says about its data."""
        described = {
            "kind": "vectors", "name": printable(self.path.stem), "dim": self.dim,
            "rows": self.count, "sha256": self.content_hash(),
        }  # fmt: skip
        return described | ({"reading": self.reading} if self.reading else {})

    def content_hash(self) -> str:
        """SHA-256 of the rows and the names of their columns, whatever the file's format."""
        names = self.reading["columns"] if self.reading else None
        digest = hashlib.sha256(json.dumps(names).encode())
        digest.update(f" {tuple(self.rows.shape)}".encode())
        digest.update(self.rows.numpy().astype("<f8").tobytes())
        return digest.hexdigest()


def codes_of_missing(rows: np.ndarray, names: Sequence[str]) -> list[str]:
    """Values such as -999 that are far from all others of their column, one sentence each.

    Args:
        rows: the table, [n, d].
        names: of its columns, [d].
    """
    found = []
    for name, column in zip(names, rows.T, strict=True):
        for value in (column.min(), column.max()):
            rest = column[column != value]
            digits = f"{abs(value):g}"
            if len(digits) < 2 or set(digits) != {"9"} or not len(rest):
                continue
            span = max(float(np.ptp(rest)), float(np.abs(rest).max()))
            if abs(value) > 5 * span:
                count = len(column) - len(rest)
                found.append(f"column {name} is {value:g} in {count} rows, far from all its others")
    return found


def _scale(rows: Tensor, names: list[str]) -> Tensor:
    """Standard deviations of columns [n, d], from centred values, 0 where one does not vary, [d].

    Raises:
        ValueError: naming a column whose values or spread have no squares in float64.
    """
    size = rows.abs().amax(0)
    if (size > LIMIT).any():
        j = int(size.argmax())
        raise ValueError(
            f"column {names[j]!r} holds {float(size[j]):.4g}, too large to compute with; if it "
            "marks missing values, remove its rows, otherwise rescale the column"
        )
    spread = rows.amax(0) - rows.amin(0)
    steps = torch.from_numpy(np.spacing(size.numpy()))
    centred = rows - rows.mean(0)
    sd = (centred - centred.mean(0)).square().mean(0).sqrt()
    sd[spread <= ROUNDING * steps] = 0.0
    tiny = (spread > 0) & (spread < 1 / LIMIT)
    if tiny.any():
        j = int(tiny.nonzero()[0, 0])
        raise ValueError(
            f"column {names[j]!r} varies by {float(spread[j]):.4g} in all, too little to compute "
            "with; rescale the column"
        )
    return sd


def _read(
    path: Path, options: TableOptions, like: dict[str, Any] | None
) -> tuple[np.ndarray, dict[str, Any] | None, str]:
    """The array [n, d]; how a table was read, None for other files; what was read, in one line."""
    if not path.is_file():
        raise ValueError("no such file")
    if path.suffix.lower() in SUFFIXES:
        table = read_table(path, options, like)
        return _checked(table.values, table.reading), table.reading, table.said
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError("not a .npy, .npz or .csv file; save it as one of these")
    for name in options.given():
        raise ValueError(f"{name} is for tables of text, and this is none; leave it out")
    array, aside = _array(path)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise ValueError(f"holds a {array.dtype} array of shape {array.shape}, not numbers [n, d]")
    if array.dtype.kind in "iu":
        array = np.stack([as_floats(c, f"column {j}") for j, c in enumerate(array.T)], 1)
    array = _checked(np.ascontiguousarray(array, dtype=np.float64), None)
    return array, None, f"{len(array)} rows, {array.shape[1]} columns without names{aside}"


def _checked(array: np.ndarray, reading: dict[str, Any] | None) -> np.ndarray:
    """The array [n, d] itself, if it has rows and is finite."""
    if len(array) < 2:
        raise ValueError(f"holds {len(array)} rows; at least 2 are needed")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = bad[0]
        name = f"{reading['columns'][column]!r}" if reading else f"{column} (counted from 0)"
        raise ValueError(
            f"{len(bad)} values are NaN or infinite, the first in row {row + bool(reading)}, "
            f"column {name}; remove or fill them"
        )
    return array


def _array(path: Path) -> tuple[np.ndarray, str]:
    """The array of a .npy or .npz file, and which of several it is."""
    archive = path.suffix.lower() == ".npz"
    try:
        arrays = load_npz(path) if archive else {"": load_npy(path)}
    except (ValueError, OSError) as error:
        kind = ".npz archive" if archive else "array"
        raise ValueError(f"not a readable {kind} ({error})") from None
    usual = [k for k in ("x", "data") if k in arrays]
    if not usual and len(arrays) != 1:
        raise ValueError(
            f"holds the arrays {', '.join(arrays) or 'none'}; name one of them x or data"
        )
    name = usual[0] if usual else next(iter(arrays))
    left = [k for k in arrays if k != name]
    aside = f" (array {name})" + (f"; left out: {shown(left)}" if left else "")
    return arrays[name], aside if archive else ""
