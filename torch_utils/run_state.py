"""A folder of results that knows what run it belongs to, so that a run can go on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dnnlib.cli import UserError
from dnnlib.util import write_json
from torch_utils import distributed
from torch_utils.peers import of_rank0

MANIFEST = "run.json"
STATE = "state"  # folder, within that of the results, of what an unfinished run needs to go on
NETWORK = "network_sha256"


def begin(folder: Path, facts: dict[str, Any], resume: bool) -> bool:
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
    found = of_rank0(lambda: _manifest(folder))
    if resume and found is None:
        raise UserError(f"--resume: {folder} holds no run; leave --resume out to begin one")
    if found is not None:
        _compare(folder, found["facts"], facts, {NETWORK})
    left = of_rank0(lambda: (folder / STATE).is_dir() and any((folder / STATE).iterdir()))
    if found is not None and (resume or (left and not found["finished"])):
        new = json.loads(json.dumps(facts))
        _compare(folder, found["facts"], new, found["facts"].keys() | new)
        if not found["finished"]:
            distributed.print0(f"Going on with the unfinished run in {folder}")
        return bool(found["finished"])
    if distributed.is_main():
        shutil.rmtree(folder / STATE, ignore_errors=True)
        write_json(folder / MANIFEST, {"facts": facts, "finished": False})
    distributed.barrier()
    return False


def _manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder says of its run; None if there is none.

    Raises:
        UserError: if it is damaged.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text())
        if not isinstance(found["facts"], dict) or NETWORK not in found["facts"]:
            raise TypeError
        return {"facts": found["facts"], "finished": bool(found["finished"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"--outdir={folder}: {MANIFEST} there is damaged; remove it to begin anew, or name "
            "another folder"
        ) from None


def finish(folder: Path, facts: dict[str, Any]) -> None:
    """Note that the results are complete, and drop what was needed to go on; on rank 0."""
    write_json(folder / MANIFEST, {"facts": facts, "finished": True})
    shutil.rmtree(folder / STATE, ignore_errors=True)


def _compare(folder: Path, old: dict[str, Any], new: dict[str, Any], names: set[str]) -> None:
    if old[NETWORK] != new[NETWORK]:
        raise UserError(
            f"--outdir: {folder} holds a run of another network (sha256 {old[NETWORK][:12]}, now "
            f"{new[NETWORK][:12]}); name that network, or another --outdir"
        )
    for name in sorted(names):
        if old.get(name) != new.get(name):
            raise UserError(
                f"--outdir: {folder} holds a run with --{name}={old.get(name)}, now "
                f"--{name}={new.get(name)}; give the same option to go on, or another --outdir"
            )
