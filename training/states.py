"""Training states on disk: the newest whole one is what a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dnnlib.cli import UserError
from dnnlib.util import sync
from torch_utils import checkpoint, distributed

KEPT = 2


def save_state(run_dir: Path, nimg: int, content: dict[str, Any]) -> None:
    """Write the state after nimg samples; older ones go once it is verified, all but the last.

    Raises:
        DiskError: if the disk refuses; the older ones then stay.
    """
    path = run_dir / checkpoint.STATE.format(nimg // 1000)
    checkpoint.save(path, "training-state", {"nimg": nimg, **content})
    if (run_dir / "stats.jsonl").exists():
        sync(run_dir / "stats.jsonl")  # which a resumed run takes to be complete up to here
    for old in checkpoint.numbered(run_dir, checkpoint.STATE)[:-KEPT]:
        old.unlink()


def latest_state(run_dir: Path) -> dict[str, Any] | None:
    """The newest state that is whole, as rank 0 has it, on every rank; None if there is none.

    Raises:
        UserError: if there are states, but none can be read.
    """
    content, path, flaw = _search(run_dir) if distributed.is_main() else (None, None, None)
    keys: list[str]
    path, flaw, keys = distributed.broadcast((path, flaw, list(content or [])))  # type: ignore[misc]
    if flaw is not None:
        raise UserError(flaw)
    if path is None:
        return None
    content = {k: distributed.broadcast(content and content[k]) for k in keys}
    distributed.print0(f"Resuming at {content['nimg'] / 1000:.1f} kimg from {path}")
    return content


def _search(run_dir: Path) -> tuple[dict[str, Any] | None, str | None, str | None]:
    """Content and path of the newest whole state; or a line on why there is none."""
    paths = checkpoint.numbered(run_dir, checkpoint.STATE)
    for path in reversed(paths):
        try:
            return checkpoint.load(path, "training-state"), str(path), None
        except ValueError as error:
            print(f"Passing over a damaged state: {error}", flush=True)
    if not paths:
        return None, None, None
    flaw = (
        f"--resume={run_dir}: all {len(paths)} training states in it are damaged; restore one from "
        "a copy, or remove training-state-*.pt to begin the run again at zero, or start another "
        "with --transfer from its latest network"
    )
    return None, None, flaw
