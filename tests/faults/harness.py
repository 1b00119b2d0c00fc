"""Kill a command at random moments, watch its folder meanwhile, and see what it has in the end.

Commands run in forked processes (tests/forked.py); a kill is a kill.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dnnlib.util import SCRATCH, write_json
from tests import forked

# What differs between two runs that give the same: times, and how a run was begun.
NOT_RESULTS = {
    "seconds", "seconds_per_effective_draw", "sec_per_kimg", "sec_total", "timestamp",
    "cpu_mem_gib", "images_made", "envelope",
}  # fmt: skip
LOGS = ("log.txt", "events.out.tfevents")


def _child(command: list[str], folder: str, log: str, env: dict[str, str]) -> None:
    """Run a script's main in a folder, its output in a log.

    Of `env`, MOST_BYTES limits the size of files, as a disk does that is full.
    """
    forked.redirect(log, log)
    os.environ.update(env)
    if "MOST_BYTES" in env:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(env["MOST_BYTES"]),) * 2)
    os.chdir(folder)
    torch.set_num_threads(1)
    importlib.import_module(command[0]).main(command[1:])


def start(command: list[str], folder: Path, log: Path, **env: str) -> Any:
    """Start a command, [script, option, ...], in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    process = forked.context.Process(target=_child, args=(command, str(folder), str(log), env))
    process.start()
    return process


def run(command: list[str], folder: Path, log: Path, **env: str) -> int:
    """Run a command to its end; its exit code."""
    process = start(command, folder, log, **env)
    process.join()
    return process.exitcode


def start_ranks(command: list[str], folder: Path, log: Path, **env: str) -> list[Any]:
    """Start a command in two processes, as torchrun does."""
    env |= {"TORCHELASTIC_RESTART_COUNT": env.get("RESTARTS", "0")}
    return [start(command, folder, log, **env, **rank) for rank in forked.ranks(2)]


def ended(processes: list[Any]) -> list[int]:
    """Wait for processes; their exit codes."""
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    """Wait until something is so, while a process lives."""
    while not condition():
        assert process.exitcode is None, "it ended too early"
        time.sleep(0.005)


class Watcher:
    """Looks at a folder all the time, in a thread, and loads every file that is new or changed.

    Attributes:
        loaded: how many files were.
        flaws: those that could not be.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.loaded = 0
        self.flaws: list[str] = []
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.look()

    def look(self) -> None:
        """Load what is new."""
        for path in visible(self.folder):
            try:
                raw = self._changed(path)
                if raw is not None:
                    load(path, raw)
                    self.loaded += 1
            except FileNotFoundError:
                continue  # an old state that is no longer needed
            except Exception as error:
                self.flaws.append(f"{path}: {type(error).__name__} {error}")

    def _changed(self, path: Path) -> bytes | None:
        """Content of a file that was not seen so far, read through one handle."""
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            mark = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._seen.get(path) == mark:
                return None
            self._seen[path] = mark
            return file.read()


def visible(folder: Path) -> list[Path]:
    """Files under a folder, none of whose names below it begins with a dot."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def load(path: Path, raw: bytes) -> Any:
    """The content of a file, in a form that can be compared.

    Raises:
        Exception: of whatever kind, if it is not whole.
    """
    if path.name.startswith(LOGS):
        return None
    file = io.BytesIO(raw)
    if path.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: _plain(arrays[name]) for name in arrays.files}
    if path.suffix == ".npy":
        return _plain(np.load(file, allow_pickle=False))
    if path.suffix in (".pkl", ".pt"):
        return _plain(torch.load(file, weights_only=True, map_location="cpu"))
    if path.suffix == ".json":
        return _plain(json.loads(raw))
    if path.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in raw.decode().splitlines()]
    if path.suffix in (".png", ".gif"):
        with Image.open(file) as image:
            return np.asarray(image).tobytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    if path.suffix == ".nc":  # of arviz, which writes its versions and the time into it
        if not raw.startswith((b"\x89HDF", b"CDF")):
            raise ValueError("no netCDF file")
        return None
    if path.suffix == ".ply":
        if not raw.startswith(b"ply"):
            raise ValueError("no PLY file")
        return raw
    raise ValueError("a kind of file that this test does not know")


def _plain(value: Any) -> Any:
    """Values that `==` compares bit by bit, without what does not belong to the result."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in NOT_RESULTS}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, torch.Tensor):
        return _plain(value.numpy())
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind == "U" and value.ndim == 0 and str(value).startswith("{"):
            return _plain(json.loads(str(value)))
        return str(value.dtype), value.shape, value.tobytes()
    return value


def results(folder: Path) -> dict[str, Any]:
    """Content of all files under a folder that are results, by name."""
    found = {}
    for path in visible(folder):
        if not path.name.startswith(LOGS):
            found[str(path.relative_to(folder))] = load(path, path.read_bytes())
    return found


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Names of what differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f"{where}/{k} only on one side" for k in a.keys() ^ b.keys()]
        for key in a.keys() & b.keys():
            found += differences(a[key], b[key], f"{where}/{key}")
        return found
    return [] if a == b or (a != a and b != b) else [where]


@dataclass
class Outcome:
    """What came of killing a command many times.

    Attributes:
        kills: that hit it while it ran.
        ends: times that it came to its end and was compared.
        loaded: files that were loaded while it ran.
        seconds: of the uninterrupted command.
    """

    kills: int
    ends: int
    loaded: int
    seconds: float


def kill_and_compare(
    commands: list[list[str]],
    folder: Path,
    kills: int,
    seed: int = 0,
    number: int = signal.SIGKILL,
) -> Outcome:
    """Kill commands, run one after the other, at random moments; start again; compare the end.

    Args:
        commands: [script, option, ...] each. Paths in them are relative to the folder that they
            run in, or absolute.
        folder: to work in.
        kills: how many must hit.
        seed: of the moments, uniform in the time that a whole run takes.
        number: signal that kills.

    Raises:
        AssertionError: if a file was ever not whole, or the end is another.
    """
    rng = np.random.default_rng(seed)
    log, whole, cut = folder / "log.txt", folder / "whole", folder / "cut"
    whole.mkdir()
    warm = forked.context.Process(target=os.getpid)  # the server starts with the first
    warm.start()
    warm.join()
    began = time.monotonic()
    for command in commands:
        assert run(command, whole, log) == 0, log.read_text()
    seconds = time.monotonic() - began
    expected = results(whole)
    hits = ends = loaded = 0
    while not ends or hits < kills:
        shutil.rmtree(cut, ignore_errors=True)
        cut.mkdir()
        with Watcher(cut) as watcher:
            for command in commands:
                share = max(seconds / len(commands), 0.05)
                while True:
                    process = start(command, cut, log)
                    process.join(share * rng.random() if hits < kills else None)
                    if process.exitcode is not None:
                        break
                    os.kill(process.pid, number)
                    process.join()
                    hits += process.exitcode == -number
                assert process.exitcode == 0, log.read_text()
            watcher.look()
        ends += 1
        loaded += watcher.loaded
        assert not watcher.flaws, watcher.flaws
        assert not differences(expected, results(cut)), differences(expected, results(cut))
        assert_swept(cut)
    return Outcome(hits, ends, loaded, seconds)


def assert_swept(folder: Path) -> None:
    """Check that no temporaries are left, or only such as go when the next file is written.

    (A kill may come between the renaming of the last file of a folder and its owner's tidying up.)
    """
    for place in {p.parent for p in folder.rglob(f".*{SCRATCH}")}:
        process = forked.context.Process(target=write_json, args=(place / "x.json", 0))
        process.start()
        process.join()
        (place / "x.json").unlink()
    assert not [p for p in folder.rglob(".*") if p.name != ".launch.json"]
