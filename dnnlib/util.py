"""Files that appear whole or not at all, logs, downloads, and small conveniences."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class EasyDict(dict):
    """A dict whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


def format_time(seconds: float) -> str:
    """Seconds as "45s", "3m 05s", "2h 03m" or "5d 02h"."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02d}m"
    return f"{s // 86400}d {s // 3600 % 24:02d}h"


def in_order(
    function: Callable[[S], T],
    items: Iterable[S],
    workers: int | None = None,
    ahead: int = 4,
) -> Generator[T, None, None]:
    """function(item) of each item, computed by threads a little ahead, given in order.

    Args:
        function: called in threads.
        items: may be endless.
        workers: threads; None for one a core, at most 16.
        ahead: results in waiting, for each thread.
    """
    workers = workers or min(16, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it, fsynced, if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


class Logger:
    """Copies everything printed to stdout into a file while the block lasts."""

    def __init__(self, path: str | os.PathLike, mode: str = "a"):
        self.file: IO[str] = open(path, mode, encoding="utf-8")  # noqa: SIM115  (closed by __exit__)
        self.stdout = sys.stdout

    def __enter__(self) -> Logger:
        sys.stdout = self
        return self

    def __exit__(self, *exc: object) -> None:
        sys.stdout = self.stdout
        self.file.close()

    def write(self, text: str) -> int:
        """Write to both."""
        self.file.write(text)
        return self.stdout.write(text)

    def flush(self) -> None:
        """Flush both."""
        self.file.flush()
        self.stdout.flush()

    def isatty(self) -> bool:
        """Whether the real stdout is a terminal."""
        return self.stdout.isatty()


def next_run_dir(outdir: str | os.PathLike, description: str) -> Path:
    """Create and return the next run folder {outdir}/{00000}-{description}.

    The folder is made by an operation that only one process can win, so that two runs that start
    together get two numbers.
    """
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    while True:
        number = max((int(p.name[:5]) for p in run_dirs(outdir)), default=-1) + 1
        claim = outdir / f".{number:05d}.claim"
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            with suppress(FileNotFoundError):  # its owner may be done with it by now
                if time.time() - claim.stat().st_mtime > 60:  # or have died between two steps
                    claim.unlink()
            time.sleep(0.05)
            continue
        path = outdir / f"{number:05d}-{description}"
        try:
            if number not in {int(p.name[:5]) for p in run_dirs(outdir)}:
                path.mkdir()
                return path
        finally:
            claim.unlink(missing_ok=True)


def run_dirs(outdir: str | os.PathLike) -> list[Path]:
    """Run folders in a folder, oldest number first."""
    outdir = Path(outdir)
    found = outdir.iterdir() if outdir.is_dir() else []
    return sorted(p for p in found if p.is_dir() and p.name[:5].isdigit() and p.name[5:6] == "-")
