"""The user's own vectors: .npy, .npz or tables of text as a training source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.arrays import load_npy, load_npz
from dnnlib.host import printable
from torch_utils import distributed, seeding
from training.data.table_columns import as_floats, shown
from training.data.tables import SUFFIXES, TableOptions, read_table

LIMIT = 1e140  # values beyond, and spreads below 1/LIMIT, have no squares in float64
ROUNDING = 8  # a column that varies by so many steps of float64 does not vary


class VectorSource:
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
        reading: how a table was read, plain values; None for .npy and .npz.
        said: what was read, in one line.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """

    def __init__(
        self,
        path: str | Path,
        options: TableOptions | None = None,
        like: dict[str, Any] | None = None,
    ):
        self.path = Path(path)
        array, self.reading, said = _read(self.path, options or TableOptions(), like)
        self.said = f"{self.path}: {said}"
        self.rows = torch.from_numpy(array)
        self.dim = self.rows.shape[1]
        names = self.reading["columns"] if self.reading else [str(j) for j in range(self.dim)]
        try:
            self.scale = _scale(self.rows, names)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self.constant = [name for name, s in zip(names, self.scale, strict=True) if s == 0]
        if len(self.constant) == self.dim:
            raise ValueError(f"{self.path}: every column is constant; there is nothing to learn")
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
        n = len(self.rows)
        if purpose != "training":
            if stop > n:
                raise ValueError(f"{self.path}: holds {n} rows, {stop} were asked for")
            return self.rows[start:stop]
        return self.rows[torch.from_numpy(seeding.epochs(seed, start, stop, n))]

    def basis_batches(self) -> Iterator[Tensor]:
        """This rank's share of all rows."""
        for block in distributed.share(len(self.rows), 2**14):
            yield self.rows[block.start : block.stop]

    def description(self) -> dict:
        """What the network file says about its data."""
        described = {
            "kind": "vectors", "name": printable(self.path.stem), "dim": self.dim,
            "rows": len(self.rows), "sha256": self.content_hash(),
        }  # fmt: skip
        return described | ({"reading": self.reading} if self.reading else {})

    def content_hash(self) -> str:
        """SHA-256 of the rows and the names of their columns, whatever the file's format."""
        names = self.reading["columns"] if self.reading else None
        digest = hashlib.sha256(json.dumps(names).encode())
        digest.update(f" {tuple(self.rows.shape)}".encode())
        digest.update(self.rows.numpy().astype("<f8").tobytes())
        return digest.hexdigest()


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


def read_vectors(path: Path) -> np.ndarray:
    """A finite float64 array [n, d] of .npy, .npz or a table, for notebooks; runs no code of it.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    return _read(path, TableOptions(), None)[0]


def _read(
    path: Path, options: TableOptions, like: dict[str, Any] | None
) -> tuple[np.ndarray, dict[str, Any] | None, str]:
    """The array [n, d]; how a table was read, None for other files; what was read, in one line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    suffix, reading, aside = path.suffix.lower(), None, ""
    if suffix not in (".npy", ".npz", *SUFFIXES):
        raise ValueError(f"{path}: not a .npy, .npz or .csv file; save it as one of these")
    if suffix in SUFFIXES:
        try:
            table = read_table(path, options, like)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        array, reading, said = table.values, table.reading, table.said
    else:
        if options.given():
            raise ValueError(
                f"{path}: {options.given()[0]} is for tables of text, and this is none; leave it "
                "out"
            )
        array, aside = (_read_npy if suffix == ".npy" else _read_npz)(path)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: holds a {array.dtype} array of shape {array.shape}, not numbers [n, d]"
        )
    if array.dtype.kind in "iu":
        columns = [as_floats(c, f"{path}: column {j}") for j, c in enumerate(array.T)]
        array = np.stack(columns, 1)
    array = np.ascontiguousarray(array, dtype=np.float64)
    if len(array) < 2:
        raise ValueError(f"{path}: holds {len(array)} rows; at least 2 are needed")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = bad[0]
        name = f"{reading['columns'][column]!r}" if reading else f"{column} (counted from 0)"
        raise ValueError(
            f"{path}: {len(bad)} values are NaN or infinite, the first in row {row + bool(reading)}"
            f", column {name}; remove or fill them"
        )
    if reading is None:
        said = f"{len(array)} rows, {array.shape[1]} columns without names{aside}"
    return array, reading, said


def _read_npy(path: Path) -> tuple[np.ndarray, str]:
    try:
        return load_npy(path), ""
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable array ({error})") from None


def _read_npz(path: Path) -> tuple[np.ndarray, str]:
    try:
        arrays = load_npz(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npz archive ({error})") from None
    usual = [k for k in ("x", "data") if k in arrays]
    if not usual and len(arrays) != 1:
        raise ValueError(
            f"{path}: holds the arrays {', '.join(arrays) or 'none'}; name one of them x or data"
        )
    name = usual[0] if usual else next(iter(arrays))
    left = [k for k in arrays if k != name]
    return arrays[name], f" (array {name})" + (f"; left out: {shown(left)}" if left else "")
