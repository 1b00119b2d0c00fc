"""Work that is shared by processes and survives a kill: whose it is, what is done, what is missing.

A folder of results knows by its facts which run it belongs to (`begin`, `finish`). Within a run,
rows are computed block by block, each block on one rank (`compute`, `shared_rows`), and finished
blocks are kept under a digest of all that they depend on (`Parts`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dnnlib.arrays import load_npz
from dnnlib.cli import UserError
from dnnlib.util import Json, atomic_path, write_json
from torch_utils import distributed
from torch_utils.peers import of_rank0

MANIFEST = "run.json"
STATE = "state"  # folder, within that of the results, of what an unfinished run needs to go on
NETWORK = "network_sha256"


def digest(value: Any) -> str:
    """sha256 of plain values, tensors, arrays and modules (their tensors), nested or not."""
    arrays: list[np.ndarray] = []

    def plain(x: Any) -> Any:
        if isinstance(x, nn.Module):
            x = x.state_dict()
        if isinstance(x, Tensor):
            x = x.detach().cpu().contiguous()
            x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
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


def differing(stored: Json, wanted: Json) -> list[str]:
    """Names by which two identities differ, sorted; one of them may have been read from a file."""
    stored, wanted = (json.loads(json.dumps(facts)) for facts in (stored, wanted))
    return sorted(k for k in stored.keys() | wanted if stored.get(k) != wanted.get(k))


# Blocks ----------------------------------------------------------------------------------------


class Parts:
    """Finished blocks of work on disk, so that a run which was killed goes on where it was.

    A block is found again only by work of the same identity, and only if it is whole: its
    checksums are compared.

    Args:
        folder: for the files, made when the first is written; None keeps nothing.
        identity: what the blocks depend on: plain values, tensors, arrays. Blocks of another
            identity are left alone.
    """

    def __init__(self, folder: Path | None, identity: Json):
        self.folder = folder
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
        if self.folder is None:
            return work()
        path = self.folder / f"{self.key}-{block.start:08d}.npz"
        with suppress(OSError, ValueError):
            arrays = load_npz(path)
            if arrays and all(len(a) == len(block) for a in arrays.values()):
                return {name: torch.from_numpy(a) for name, a in arrays.items()}
        found = work()
        with atomic_path(path) as temporary:
            np.savez(temporary, **{name: t.numpy() for name, t in found.items()})  # type: ignore[arg-type]  # numpy's stub takes the names for its own argument
        return found

    def count(self) -> int:
        """How many blocks there are."""
        return 0 if self.folder is None else len(list(self.folder.glob(f"{self.key}-*.npz")))

    def others(self) -> int:
        """How many blocks there are of other work."""
        there = 0 if self.folder is None else len(list(self.folder.glob("*-*.npz")))
        return there - self.count()

    def clear(self) -> None:
        """Remove the folder, with the blocks of every identity."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


NOTHING_KEPT = Parts(None, {})


def blocks(count: int, block: int, label: str) -> Iterator[range]:
    """This rank's blocks of range(count), see `distributed.share`; rank 0 shows its progress."""
    hidden = None if distributed.is_main() else True
    mine = distributed.share(count, block)
    yield from tqdm(mine, desc=label, unit="block", disable=hidden, leave=False)


def compute(
    work: Callable[[range], dict[str, Tensor]],
    count: int,
    block: int,
    label: str,
    parts: Parts = NOTHING_KEPT,
) -> dict[str, Tensor] | None:
    """What `work` gives for all rows, computed block by block by all ranks, which all call this.

    Args:
        work: rows -> name -> tensor on the CPU with a row for each. What it gives may depend on
            the rows alone, so that the result does not depend on the number of processes.
        count: rows in all, at least one.
        block: rows at a time.
        label: of the progress bar.
        parts: keeps finished blocks.

    Returns:
        name -> [count, ...] in order, on rank 0; None elsewhere.
    """
    done = [parts.get(rows, partial(work, rows)) for rows in blocks(count, block, label)]
    return gather(done, count, block)


def gather(done: list[dict[str, Tensor]], count: int, block: int) -> dict[str, Tensor] | None:
    """The rows of all blocks, of which each rank gives its own as `distributed.share` deals them.

    Args:
        done: name -> rows of each block of this rank; names are alike in all.
        count: rows in all, at least one.
        block: rows in a block.

    Returns:
        name -> [count, ...] in order, on rank 0; None elsewhere.
    """
    found = {}
    for name in distributed.broadcast(list(done[0]) if done else []):  # rank 0 has a block
        rows = distributed.gather_blocks([d[name] for d in done], count, block)
        if rows is not None:
            found[name] = rows
    return found if distributed.is_main() else None


def shared_rows(
    work: Callable[[range], Tensor],
    count: int,
    block: int,
    label: str,
    parts: Parts = NOTHING_KEPT,
) -> Tensor:
    """`compute` of a single tensor, on any device, for all ranks: [count, ...] on the CPU."""
    found = compute(lambda rows: {"rows": work(rows).cpu()}, count, block, label, parts)
    return distributed.broadcast(found or {})["rows"]


# Runs ------------------------------------------------------------------------------------------


def begin(folder: Path, facts: Json, resume: bool) -> bool:
    """Check a folder against the run that is to use it, and claim it; every rank calls this.

    Args:
        folder: of the results.
        facts: plain values that the results depend on, the network's digest among them.
        resume: go on with what the folder holds.

    An unfinished run of the same facts is gone on with in any case: the same command does it.

    Returns:
        whether the folder already holds the finished results of this run, to be resumed.

    Raises:
        UserError: if there is nothing to resume, if what there is came from another network or
            other options, or if a new run would discard an unfinished one.
    """
    facts = json.loads(json.dumps(facts))
    found = of_rank0(lambda: _manifest(folder))
    if found is None and resume:
        raise UserError(f"--resume: {folder} holds no run; leave --resume out to begin one")
    if found is not None:
        old, finished = found["facts"], found["finished"]
        if old[NETWORK] != facts[NETWORK]:
            raise UserError(
                f"--outdir: {folder} holds a run of another network (sha256 {old[NETWORK][:12]}, "
                f"now {facts[NETWORK][:12]}); name that network, or another --outdir"
            )
        if resume or (found["left"] and not finished):
            names = differing(old, facts)
            if names:
                raise UserError(
                    f"--outdir: {folder} holds a run with --{names[0]}={old.get(names[0])}, now "
                    f"--{names[0]}={facts.get(names[0])}; give the same option to go on, or "
                    "another --outdir"
                )
            if not finished:
                distributed.print0(f"Going on with the unfinished run in {folder}")
            return finished
    if distributed.is_main():
        shutil.rmtree(folder / STATE, ignore_errors=True)
        write_json(folder / MANIFEST, {"facts": facts, "finished": False})
    distributed.barrier()
    return False


def finish(folder: Path, facts: Json) -> None:
    """Note that the results are complete, and drop what was needed to go on; on rank 0."""
    write_json(folder / MANIFEST, {"facts": facts, "finished": True})
    shutil.rmtree(folder / STATE, ignore_errors=True)


def _manifest(folder: Path) -> Json | None:
    """What a folder says of its run, and whether something is left of it; None if there is none.

    Raises:
        UserError: if it is damaged.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text())
        if not isinstance(found["facts"], dict) or NETWORK not in found["facts"]:
            raise TypeError
        finished = bool(found["finished"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"--outdir={folder}: {MANIFEST} there is damaged; remove it to begin anew, or name "
            "another folder"
        ) from None
    left = (folder / STATE).is_dir() and any((folder / STATE).iterdir())
    return {"facts": found["facts"], "finished": finished, "left": left}
