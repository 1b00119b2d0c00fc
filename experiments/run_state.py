"""A folder of results that knows what run it belongs to, so that a run can go on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dnnlib.cli import UserError
from dnnlib.util import write_json
from experiments.mcmc import STATE
from torch_utils import distributed

MANIFEST = "run.json"
NETWORK = "network_sha256"


def begin(folder: Path, facts: dict[str, Any], resume: bool) -> bool:
    """Check a folder against the run that is to use it, and claim it; every rank calls this.

    Args:
        folder: of the results.
        facts: plain values that the results depend on, the network's digest among them.
        resume: go on with what the folder holds.

    Returns:
        whether the folder already holds the finished results of this run, to be resumed.

    Raises:
        UserError: if there is nothing to resume, if what there is came from another network or
            other options, or if a new run would discard an unfinished one.
    """
    manifest = folder / MANIFEST
    found = json.loads(manifest.read_text()) if manifest.exists() else None
    if resume:
        if found is None:
            raise UserError(f"--resume: {folder} holds no run; leave --resume out to begin one")
        _compare(folder, found["facts"], json.loads(json.dumps(facts)))
        return bool(found["finished"])
    left = list((folder / STATE).iterdir()) if (folder / STATE).is_dir() else []
    if found is not None and not found["finished"] and left:
        raise UserError(
            f"--outdir={folder} holds an unfinished run: add --resume to go on with it, delete the "
            "folder, or name another"
        )
    distributed.barrier()  # every rank has looked
    if distributed.is_main():
        shutil.rmtree(folder / STATE, ignore_errors=True)
        write_json(manifest, {"facts": facts, "finished": False})
    distributed.barrier()
    return False


def finish(folder: Path, facts: dict[str, Any]) -> None:
    """Note that the results are complete, and drop what was needed to go on; on rank 0."""
    write_json(folder / MANIFEST, {"facts": facts, "finished": True})
    shutil.rmtree(folder / STATE, ignore_errors=True)


def _compare(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old[NETWORK] != new[NETWORK]:
        raise UserError(
            f"--resume: {folder} holds a run of another network (sha256 {old[NETWORK][:12]}, now "
            f"{new[NETWORK][:12]}); name that network, or another --outdir"
        )
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"--resume: {folder} holds a run with --{name}={old.get(name)}, now "
                f"--{name}={new.get(name)}; give the same option, or another --outdir"
            )
