"""What a run goes on from: which run --resume means, if it can go on, and its states on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnnlib.cli import UserError
from dnnlib.util import Json, run_dirs, sync
from torch_utils import checkpoint, distributed
from training.data.source import Source
from training.data.toys import trained_on
from training.options import OPTIONS_FILE, TrainOptions

LAUNCH_FILE = ".launch.json"  # which torchrun started the run
# Options that may differ when a run goes on: where, how long and how often, never what. Of data
# the content is compared, see `_other_data`.
FREE = {
    "outdir", "resume", "device", "duration", "stop_after", "batch_gpu", "tick", "snap", "dump",
    "bench", "cache", "compile", "workers", "skip_nonfinite", "data",
}  # fmt: skip
LISTED = 3  # runs that do not match are named, newest first
ADVICE = "or leave --resume out to start another run"
KEPT = 2  # states
Open = Callable[[TrainOptions], Source]


def find_run(options: TrainOptions, source_of: Open) -> tuple[str | None, Json]:
    """The run that --resume means, or that torchrun has restarted this process for.

    Args:
        options: of the script; --resume is a run folder, or "latest": the newest run in outdir
            that the options agree with.
        source_of: opens data.

    Returns:
        run folder and its stored options; (None, {}) to begin one. If "latest" finds nothing to go
        on with, that is said.

    Raises:
        UserError: if the folder is no run, an option contradicts it, or its data have changed.
    """
    resume = options.resume or _run_before_restart(options.outdir)
    if resume is None:
        return None, {}
    if resume == "latest":
        return _latest(options, source_of)
    stored = _stored(Path(resume))
    for name, (old, new) in _conflicts(stored, options).items():
        raise UserError(
            f"--{name}={new} contradicts {resume}, which was started with {old}; leave "
            f"--{name} out to go on with that run, or leave --resume out to start another"
        )
    flaw = _unfit(Path(resume), stored, options, source_of)
    if flaw is not None:
        raise UserError(f"--resume={resume} {flaw}; {ADVICE}")
    return resume, stored


def _latest(options: TrainOptions, source_of: Open) -> tuple[str | None, Json]:
    """See `find_run`."""
    if options.outdir is None:
        raise UserError("--resume=latest needs --outdir, the folder of the runs")
    others, changed, data = [], "", options.chosen().get("data")
    for folder in _runs(options.outdir):
        if not (folder / OPTIONS_FILE).exists():
            continue
        stored = _stored(folder)
        differing = [
            f"--{name} ({old}, now {new})"
            for name, (old, new) in _conflicts(stored, options).items()
        ]
        flaw = f"differs in {', '.join(differing)}" if differing else None
        if flaw is None:
            flaw = _unfit(folder, stored, options, source_of)
            if flaw is None:
                return str(folder), stored
            if stored.get("data") and data in (None, stored["data"]):  # no other data are meant
                changed = changed or f"--resume=latest: {folder} {flaw}; {ADVICE}"
        others.append(f"{folder.name} {flaw}")
    if changed:
        raise UserError(changed)
    more = f"; and {len(others) - LISTED} older ones" if len(others) > LISTED else ""
    why = f"matches: {'; '.join(others[:LISTED])}{more}" if others else "yet"
    print(f"--resume=latest: no run in {options.outdir} {why}. A new one begins", flush=True)
    return None, {}


def _run_before_restart(outdir: str | None) -> str | None:
    """The run that this process's torchrun has started before it restarted it, if it has."""
    if not distributed.restarted():
        return None
    for folder in _runs(outdir or "."):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if distributed.launcher() in json.loads((folder / LAUNCH_FILE).read_text())["torchrun"]:
                return str(folder)
    return None


def _runs(outdir: str) -> list[Path]:
    """Folders that may be a run, the newest first; the last one where --nosubdir makes it."""
    return [*reversed(run_dirs(outdir)), Path(outdir)]


def _stored(folder: Path) -> Json:
    if folder.suffix == ".pt":
        network = checkpoint.SNAPSHOT.replace("{:06d}", folder.stem.rpartition("-")[2])
        raise UserError(
            f"--resume={folder} is a file; name the folder of a run of this suite. A state of the "
            "released code holds no schedule to go on with: start from the average of its weights, "
            f"--transfer={folder.with_name(network)}"
        )
    try:
        stored = json.loads((folder / OPTIONS_FILE).read_text())
        if not isinstance(stored, dict) or not isinstance(stored.get("arch"), str):
            raise ValueError
        return stored
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"--resume={folder}: no run there ({OPTIONS_FILE} is missing or damaged); name a run "
            "folder such as out/00000-circles-PRP, or latest"
        ) from None


def _conflicts(stored: Json, options: TrainOptions) -> dict[str, tuple[Any, Any]]:
    return {
        name: (stored.get(name), value)
        for name, value in options.chosen().items()
        if name not in FREE and stored.get(name) != value
    }


def _unfit(folder: Path, stored: Json, options: TrainOptions, source_of: Open) -> str | None:
    """What keeps a run of these stored options from going on; None: nothing."""
    flaw = _other_script(stored, options)
    if flaw is not None:
        return flaw
    whole = options.restored(stored)
    flaw = _other_data(folder, source_of(whole), whole)
    before, now = stored.get("duration"), whole.duration
    if flaw is None and stored.get("lr_decay") == "cosine" and before != now:
        print(
            f"Note: --lr_decay=cosine falls to zero at --duration: from here on it follows {now} "
            f"Mimg, no longer {before}, and the result is not that of one run of {now} Mimg"
        )
    return flaw


def _other_script(stored: Json, options: TrainOptions) -> str | None:
    """Why options read from a run's file are not of the kinds that a command line gives."""
    ours = options.record().items()
    flaws = [k for k, v in ours if k in stored and not _alike(stored[k], v)]
    if stored["arch"] not in options.PRESETS:
        flaws.append("arch")
    if not flaws:
        return None
    return (
        "is a run of another script or damaged "
        f"(--{flaws[0]}={str(stored[flaws[0]])[:40]}): name one of this script"
    )


def _alike(stored: Any, default: Any) -> bool:
    """Whether a stored value may stand in the place of a default."""
    number = (int, float)
    if stored is None or default is None:
        return isinstance(stored, (str, *number, list, type(None)))
    return isinstance(stored, type(default)) or (
        isinstance(stored, number) and isinstance(default, number)
    )


def _other_data(folder: Path, source: Source, options: TrainOptions) -> str | None:
    """Why a run cannot go on with a source: its data have other content, wherever they lie."""
    before, now = options.data_sha256, source.content_hash()
    which, name = options.named
    if which == "data_name":
        known = trained_on({"data": {"kind": "toy", "name": name, **options.record()}})
        if known != name:
            return f"was trained on {known}, at its time called {name}"
    if before is None:
        print(f"Note: {folder} is older than digests of data: they are taken to be the same")
    elif before != now:
        return (
            f"was trained on other data than --{which}={name} has now (sha256 {before[:12]}, "
            f"now {now[:12]}): restore them"
        )
    return None


# States ----------------------------------------------------------------------------------------


def save_state(run_dir: Path, nimg: int, content: Json) -> None:
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


def latest_state(run_dir: Path) -> Json | None:
    """The newest state that is whole, as rank 0 has it, on every rank; None if there is none.

    Raises:
        UserError: if there are states, but none can be read.
    """
    content, path, flaw = _search(run_dir) if distributed.is_main() else (None, None, None)
    keys: list[str]
    path, flaw, keys = distributed.broadcast((path, flaw, list(content or [])))  # type: ignore[misc]  # a broadcast returns what was sent
    if flaw is not None:
        raise UserError(flaw)
    if path is None:
        return None
    content = {k: distributed.broadcast(content and content[k]) for k in keys}
    distributed.print0(f"Resuming at {content['nimg'] / 1000:.1f} kimg from {path}")
    return content


def _search(run_dir: Path) -> tuple[Json | None, str | None, str | None]:
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
