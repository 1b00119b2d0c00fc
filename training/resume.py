"""Which run --resume means, and whether it can go on with these options and data."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnnlib.cli import UserError
from dnnlib.util import run_dirs
from torch_utils import checkpoint, distributed
from training.batches import Source
from training.data.toys import trained_on

OPTIONS_FILE = "training_options.json"
LAUNCH_FILE = ".launch.json"  # which torchrun started the run
# Options that may differ when a run goes on: where, how long and how often, never what. Of data
# the content is compared, see `options.run`.
FREE = {
    "outdir", "resume", "device", "duration", "stop_after", "batch_gpu", "tick", "snap", "dump",
    "bench", "cache", "compile", "workers", "skip_nonfinite", "data",
}  # fmt: skip
LISTED = 3  # runs that do not match are named, newest first


def find_run(
    resume: str,
    outdir: str | None,
    explicit: dict[str, Any],
    unfit: Callable[[Path, dict[str, Any]], str | None] = lambda folder, stored: None,
) -> tuple[str | None, dict[str, Any]]:
    """The run that --resume means, and its options with those the user changed.

    Args:
        resume: a run folder, or "latest": the newest run in outdir that the options agree with.
        outdir: --outdir.
        explicit: options that the user gave.
        unfit: run folder and its options -> what else keeps it from going on; None: nothing.

    Returns:
        run folder and options; (None, {}) if "latest" finds nothing to go on with, which is said.

    Raises:
        UserError: if the folder is no run, an option contradicts it, or its data have changed.
    """
    advice = "or leave --resume out to start another run"
    if resume != "latest":
        stored = _stored(Path(resume))
        for name, (old, new) in _conflicts(stored, explicit).items():
            raise UserError(
                f"--{name}={new} contradicts {resume}, which was started with {old}; leave "
                f"--{name} out to go on with that run, or leave --resume out to start another"
            )
        flaw = unfit(Path(resume), stored)
        if flaw is not None:
            raise UserError(f"--resume={resume} {flaw}; {advice}")
        return resume, stored | explicit
    if outdir is None:
        raise UserError("--resume=latest needs --outdir, the folder of the runs")
    others, changed = [], ""
    for folder in _runs(outdir):
        if (folder / OPTIONS_FILE).exists():
            stored = _stored(folder)
            differing = [
                f"--{name} ({old}, now {new})"
                for name, (old, new) in _conflicts(stored, explicit).items()
            ]
            flaw = f"differs in {', '.join(differing)}" if differing else None
            if flaw is None:
                flaw = unfit(folder, stored)
                if flaw is None:
                    return str(folder), stored | explicit
                if stored.get("data") and explicit.get("data") in (None, stored["data"]):
                    # no other data are meant
                    changed = changed or f"--resume=latest: {folder} {flaw}; {advice}"
            others.append(f"{folder.name} {flaw}")
    if changed:
        raise UserError(changed)
    more = f"; and {len(others) - LISTED} older ones" if len(others) > LISTED else ""
    why = f"matches: {'; '.join(others[:LISTED])}{more}" if others else "yet"
    print(f"--resume=latest: no run in {outdir} {why}. A new one begins", flush=True)
    return None, {}


def run_before_restart(outdir: str | None) -> str | None:
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


def _stored(folder: Path) -> dict[str, Any]:
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


def _conflicts(stored: dict[str, Any], explicit: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (stored.get(name), value)
        for name, value in explicit.items()
        if name not in FREE and stored.get(name) != value
    }


def other_script(
    found: dict[str, Any], options: dict[str, Any], presets: dict[str, dict[str, Any]]
) -> str | None:
    """Why options read from a run's file are not of the kinds that a command line gives."""
    flaws = [k for k, v in found.items() if k in options and not _alike(v, options[k])]
    if found.get("arch", options["arch"]) not in presets:
        flaws.append("arch")
    if not flaws:
        return None
    return (
        "is a run of another script or damaged "
        f"(--{flaws[0]}={str(found.get(flaws[0]))[:40]}): name one of this script"
    )


def _alike(stored: Any, default: Any) -> bool:
    """Whether a stored value may stand in the place of a default."""
    number = (int, float)
    if stored is None or default is None:
        return isinstance(stored, (str, *number, list, type(None)))
    return isinstance(stored, type(default)) or (
        isinstance(stored, number) and isinstance(default, number)
    )


def other_data(folder: Path, source: Source, found: dict[str, Any]) -> str | None:
    """Why a run cannot go on with a source: its data have other content, wherever they lie."""
    before, now = found.get("data_sha256"), source.content_hash()
    name = "data" if found.get("data") else "data_name"
    known = trained_on({"data": {"kind": "toy", "name": found[name], **found}})
    if name == "data_name" and known != found[name]:
        return f"was trained on {known}, at its time called {found[name]}"
    if before is None:
        print(f"Note: {folder} is older than digests of data: they are taken to be the same")
    elif before != now:
        return (
            f"was trained on other data than --{name}={found[name]} has now (sha256 {before[:12]}, "
            f"now {now[:12]}): restore them"
        )
    return None


def say_horizon(stored: dict[str, Any], found: dict[str, Any]) -> None:
    """Say what a cosine rate means for a run that goes on for longer."""
    before, now = stored.get("duration"), found.get("duration")
    if before != now:
        print(
            f"Note: --lr_decay=cosine falls to zero at --duration: from here on it follows {now} "
            f"Mimg, no longer {before}, and the result is not that of one run of {now} Mimg"
        )
