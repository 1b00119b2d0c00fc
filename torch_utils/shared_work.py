"""Work on rows, block by block, shared by all processes, known to all, and kept over a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dnnlib.arrays import load_npz
from dnnlib.util import atomic_path
from torch_utils import distributed


class Parts:
    """Finished blocks of work on disk, so that a run which was killed goes on where it was.

    A block is found again only by work of the same identity, and only if it is whole: its
    checksums are compared.

    Args:
        folder: for the files, made when the first is written; None keeps nothing.
        identity: what the blocks depend on: plain values, tensors, arrays. Blocks of another
            identity are left alone.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]):
        self.folder = folder
        self.identity = identity
        self.key = "" if folder is None else digest(identity)[:16]

    def also(self, **identity: Any) -> Parts:
        """Parts in the same folder that depend on further values."""
        return Parts(self.folder, {"of": self.key, **identity})

    def get(self, block: range, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The block's tensors: those on disk, else those of `work`, which are then kept.

        Args:
            block: its rows; tensors have a row for each.
            work: computes name -> tensor on the CPU.
        """
        found = self._load(block)
        if found is None:
            found = work()
            self._save(block, found)
        return found

    def count(self) -> int:
        """How many blocks there are."""
        return 0 if self.folder is None else len(list(self.folder.glob(f"{self.key}-*.npz")))

    def clear(self) -> None:
        """Remove the folder, with the blocks of every identity."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self, block: range) -> dict[str, Tensor] | None:
        if self.folder is None:
            return None
        with suppress(OSError, ValueError):
            arrays = load_npz(self._path(block))
            if arrays and all(len(a) == len(block) for a in arrays.values()):
                return {name: torch.from_numpy(a) for name, a in arrays.items()}
        return None

    def _save(self, block: range, rows: dict[str, Tensor]) -> None:
        if self.folder is None:
            return
        with atomic_path(self._path(block)) as temporary:
            np.savez(temporary, **{name: t.numpy() for name, t in rows.items()})  # type: ignore[arg-type]

    def _path(self, block: range) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.key}-{block.start:08d}.npz"


def digest(value: Any) -> str:
    """sha256 of plain values, tensors, arrays and modules (their tensors), nested or not."""
    arrays: list[np.ndarray] = []

    def plain(x: Any) -> Any:
        if isinstance(x, nn.Module):
            return {name: plain(tensor) for name, tensor in x.state_dict().items()}
        if isinstance(x, Tensor):
            x = x.detach().cpu().contiguous()
            x = x.float() if x.dtype == torch.bfloat16 else x
            return plain(x.numpy())
        if isinstance(x, np.ndarray):
            arrays.append(np.ascontiguousarray(x))
            return [str(x.dtype), list(x.shape)]
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return [plain(v) for v in x]
        return x if isinstance(x, (str, int, float, bool, type(None))) else str(x)

    found = hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode())
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()


NOTHING_KEPT = Parts(None, {})


def shared_rows(
    work: Callable[[range], Tensor],
    count: int,
    block: int,
    label: str,
    parts: Parts = NOTHING_KEPT,
) -> Tensor:
    """work(rows) of all blocks of rows, computed by all ranks, with a progress bar on rank 0.

    Args:
        work: rows -> tensor with a row for each, on any device. What it gives may depend on the
            rows alone, so that the result does not depend on the number of processes.
        count: rows in all.
        block: rows at a time.
        label: of the progress bar.
        parts: keeps finished blocks.

    Returns:
        [count, ...] on the CPU of every rank, in order.
    """
    mine = distributed.share(count, block)
    hidden = None if distributed.is_main() else True
    bar = tqdm(mine, desc=label, unit="block", disable=hidden, leave=False)
    done = [parts.get(rows, lambda r=rows: {"rows": work(r).cpu()})["rows"] for rows in bar]  # type: ignore[misc]
    gathered = distributed.gather_blocks(done, count, block)
    everyone = distributed.broadcast(gathered)
    assert isinstance(everyone, Tensor)
    return everyone
