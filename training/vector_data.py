"""The user's own vectors: .npy, .npz or .csv files as a training source."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.arrays import load_npy, load_npz
from torch_utils import distributed
from training import seeding


class VectorSource:
    """Rows of a file. Columns are standardised; the network file stores the statistics.

    Args:
        path: .npy [n, d], .npz with one such array (or one named x or data), or .csv with or
            without a header line.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.rows = torch.from_numpy(read_vectors(self.path))
        self.dim = self.rows.shape[1]
        sd = self.rows.std(0, correction=0)
        tiny = 1e-12 * self.rows.abs().amax(0).clamp_min(1e-300)
        self.constant = (sd <= tiny).nonzero()[:, 0].tolist()
        if len(self.constant) == self.dim:
            raise ValueError(f"{self.path}: every column is constant; there is nothing to learn")
        self.scale = torch.where(sd > tiny, sd, torch.ones_like(sd))

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
        return {
            "kind": "vectors",
            "name": self.path.stem,
            "dim": self.dim,
            "rows": len(self.rows),
            "sha256": self.content_hash(),
        }

    def content_hash(self) -> str:
        """SHA-256 of the rows and the names of their columns, whatever the file's format."""
        digest = hashlib.sha256(json.dumps(getattr(self, "columns", None)).encode())
        digest.update(f" {tuple(self.rows.shape)}".encode())
        digest.update(self.rows.numpy().astype("<f8").tobytes())
        return digest.hexdigest()


def read_vectors(path: Path) -> np.ndarray:
    """Read a finite float64 array [n, d] from .npy, .npz or .csv; no code in the file is run.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: not a .npy, .npz or .csv file")
    array = readers[path.suffix.lower()](path)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: holds a {array.dtype} array of shape {array.shape}, not numbers [n, d]"
        )
    array = np.ascontiguousarray(array, dtype=np.float64)
    if len(array) < 2:
        raise ValueError(f"{path}: holds {len(array)} rows; at least 2 are needed")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{path}: {len(bad)} values are NaN or infinite, the first in row {row}, column "
            f"{column} (counted from 0); remove or fill them"
        )
    return array


def _read_npy(path: Path) -> np.ndarray:
    try:
        return load_npy(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable array ({error})") from None


def _read_npz(path: Path) -> np.ndarray:
    try:
        arrays = load_npz(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npz archive ({error})") from None
    usual = [k for k in ("x", "data") if k in arrays]
    if not usual and len(arrays) != 1:
        raise ValueError(
            f"{path}: holds the arrays {', '.join(arrays) or 'none'}; name one of them x or data"
        )
    return arrays[usual[0]] if usual else next(iter(arrays.values()))


def _read_csv(path: Path) -> np.ndarray:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a text table ({error})") from None
    if lines and not all(_is_number(cell) for cell in lines[0]):
        lines = lines[1:]  # a header
    if not lines:
        raise ValueError(f"{path}: holds no rows of numbers")
    width = len(lines[0])
    for number, line in enumerate(lines, start=1):
        if len(line) != width:
            raise ValueError(f"{path}: data row {number} has {len(line)} columns, not {width}")
        for cell in line:
            if not _is_number(cell):
                raise ValueError(f"{path}: data row {number} holds {cell!r}, which is no number")
    return np.array([[float(cell or "nan") for cell in line] for line in lines])


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True
