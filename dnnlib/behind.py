"""Files written by threads beside other work, each of them whole or not at all."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnlib import cli
from dnnlib.util import scratch_dir, sync, writing

Writer = Callable[[Path], object]  # writes a file at the path that it is given
Block = dict[Path, Writer]
THREADS = min(8, os.cpu_count() or 1)
EVERY = 1.0  # seconds between two waits for the disk


class Behind:
    """Does work in one thread beside the caller's, in order; what fails there fails the caller.

    The end of the `with` block waits for all that is left.

    Args:
        ahead: how much work may be left when more is asked for; it is waited for until then.
    """

    def __init__(self, ahead: int = 0) -> None:
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(1)
        self._left: deque[Future] = deque()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.wait()
        except Exception as other:
            if error is None:
                raise
            cli.say(f"{other}", "Also")  # beside the error that ends the block
        finally:
            self._pool.shutdown()

    def __call__(self, work: Callable[..., object], *args: Any) -> None:
        """Do work(*args) later, after all that was asked for before.

        Raises:
            Exception: what earlier work failed with.
        """
        self.wait(self._ahead)
        self._left.append(self._pool.submit(work, *args))

    def wait(self, most: int = 0) -> None:
        """Wait until no more than `most` pieces of work are left.

        Raises:
            Exception: what the work failed with.
        """
        while self._left and (len(self._left) > most or self._left[0].done()):
            self._left.popleft().result()


@contextmanager
def blocks_of_files(folder: str | os.PathLike) -> Iterator[Callable[[Block], None]]:
    """Yield a function that writes a block of files below a folder, beside the caller's work.

    Files get their names once they are on the disk, which one call a second waits for: whenever the
    process or the machine dies, a file is whole or not there, and no more than a second of writing
    is lost. The end of the `with` block waits for the last one. Two blocks are in memory at most.

    Args:
        folder: of all the files, or above their folders.

    Raises:
        DiskError: naming a file, if the disk refuses.
    """
    with (
        scratch_dir(Path(folder) / "files") as scratch,
        ThreadPoolExecutor(THREADS) as pool,
        Behind() as behind,
    ):
        files = _Files(scratch, pool)
        try:
            yield lambda block: behind(files.write, block)
        finally:
            behind(files.name)
        behind.wait()
        for parent in files.parents:
            sync(parent)


class _Files:
    """Files written in a scratch folder, and moved to where they belong once the disk has them."""

    def __init__(self, scratch: Path, pool: ThreadPoolExecutor) -> None:
        self.parents: set[Path] = set()
        self._scratch, self._pool = scratch, pool
        self._numbers = itertools.count()
        self._written: dict[Path, Path] = {}  # where a file belongs, where it is
        self._named = time.monotonic()

    def write(self, files: Block) -> None:
        for parent in {path.parent for path in files} - self.parents:
            with writing(parent / "files"):
                parent.mkdir(parents=True, exist_ok=True)
            self.parents.add(parent)
        hidden = {p: self._scratch / f"{next(self._numbers)}{p.suffix}" for p in files}

        def put(paths: list[Path]) -> None:
            for path in paths:
                with writing(path):
                    files[path](hidden[path])

        todo = list(files)
        list(self._pool.map(put, [todo[k::THREADS] for k in range(THREADS)]))
        self._written |= hidden
        if time.monotonic() - self._named > EVERY:
            self.name()

    def name(self) -> None:
        for path in list(self._written)[:1]:
            with writing(path):
                _sync_all(self._scratch, list(self._written.values()), self._pool)
        for path, temporary in self._written.items():
            with writing(path):
                os.replace(temporary, path)
        self._written, self._named = {}, time.monotonic()


def _sync_all(folder: Path, files: list[Path], pool: ThreadPoolExecutor) -> None:
    """Wait until files of a folder are on the disk: in one call where the system has one."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None) if os.name != "nt" else None
    if syncfs is None:
        list(pool.map(sync, files))
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(handle)
