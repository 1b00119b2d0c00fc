"""Files that appear whole or not at all, run folders, logs, and small conveniences."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from dnnlib import cli
from dnnlib.cli import DiskError

try:
    import fcntl
except ImportError:  # on Windows, where what killed processes leave stays
    fcntl = None  # type: ignore[assignment]  # Windows has no fcntl

S = TypeVar("S")
T = TypeVar("T")
Json = dict[str, Any]  # what a .json file holds: plain values by name
SCRATCH = ".part"  # how names of scratch folders end
_swept: set[str] = set()


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


def aligned(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of text in aligned columns, under a header."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def in_order(
    function: Callable[[S], T], items: Iterable[S], workers: int | None = None, ahead: int = 4
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
def scratch_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a hidden folder beside `path`, on the same disk, that is removed after the block.

    Its owner holds a lock on it, which the system lets go of when the process ends, however it
    ends: the next process that writes beside `path` removes folders without an owner, and never
    those of a living one, whatever the clocks say.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    lock, folder = None, None
    while folder is None or not folder.exists():  # swept before it was locked
        if lock is not None:
            os.close(lock)
        folder = Path(tempfile.mkdtemp(SCRATCH, f".{path.name}.", path.parent))
        lock = locked(folder, exclusive=False)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def locked(folder: Path, exclusive: bool, wait: bool = True) -> int | None:
    """A lock on a folder, which lasts until it is closed; None where it is not to be had."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; once a process, as it lists the folder."""
    here = str(folder.resolve())
    if here in _swept:
        return
    _swept.add(here)
    for path in folder.glob(f".*.????????{SCRATCH}"):
        lock = locked(path, exclusive=True, wait=False)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn the disk's refusals in the block into a `DiskError` that names `path`.

    Those that name a file outside the folder of `path`, as what is copied may be, stay as they are.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # of torch.save, RuntimeError
        refused = cli.refusal(error)
        if refused is None or refused.errno is None or isinstance(error, DiskError):
            raise
        if refused.filename is not None:
            folder, named = (Path(p).absolute() for p in (path, os.fsdecode(refused.filename)))
            folder = folder.parent
            if named != folder and named not in folder.parents and folder not in named.parents:
                raise
        raise DiskError(path, refused.errno) from error


def sync(path: str | os.PathLike) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # of folders, on Windows
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in cli.REFUSALS and error.errno != errno.EPERM:
            raise
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds, and never in part.

    Both the content and the new name are on the disk after the block.

    Raises:
        DiskError: if the disk refuses; what was at `path` before is untouched.
    """
    path = Path(path)
    with writing(path), scratch_dir(path) as folder:
        temporary = folder / path.name
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


class Logger:
    """Copies everything printed to stdout into a file while the block lasts."""

    def __init__(self, path: str | os.PathLike, mode: str = "a"):
        self.file: IO[str] = open(  # noqa: SIM115  (closed by __exit__)
            path, mode, encoding="utf-8", errors="backslashreplace"
        )
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


def next_run_dir(
    outdir: str | os.PathLike, description: str, files: dict[str, object] | None = None
) -> Path:
    """Create and return the next run folder {outdir}/{00000}-{description}.

    Runs that start together get different numbers: one at a time holds the lock of `outdir`.
    Where the disk has no locks, each looks again after it has made its folder, and gives it up if
    there is another of that number: of two, at least the second to come sees the first.

    Args:
        outdir: folder of the runs.
        description: end of the name.
        files: name -> value of JSON files that the folder holds from its first moment on.

    Raises:
        DiskError: if the disk refuses.
    """
    outdir = Path(outdir)
    with writing(outdir / description):
        outdir.mkdir(parents=True, exist_ok=True)
        while True:
            lock = locked(outdir, exclusive=True)
            try:
                path = _new_run_dir(outdir, description, files or {})
            finally:
                if lock is not None:
                    os.close(lock)
            if path is not None:
                return path
            time.sleep(random.uniform(0.01, 0.1))


def fill_dir(path: str | os.PathLike, files: dict[str, object]) -> Path:
    """Make a folder, if it is not there, and write JSON files (name -> value) into it.

    Raises:
        DiskError: if the disk refuses.
    """
    path = Path(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            write_json(path / name, value)
    return path


def _new_run_dir(outdir: Path, description: str, files: dict[str, object]) -> Path | None:
    """A folder of the next number; None if another process took the number meanwhile."""
    number = max((int(p.name[:5]) for p in run_dirs(outdir)), default=-1) + 1
    path = outdir / f"{number:05d}-{description}"
    with scratch_dir(path) as scratch:
        whole = scratch / path.name
        whole.mkdir()
        for name, value in files.items():
            write_json(whole / name, value)
        try:
            whole.rename(path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return None
            raise
        if [p for p in run_dirs(outdir) if p.name[:5] == path.name[:5]] != [path]:
            path.rename(whole)
            return None
    sync(outdir)
    return path


def run_dirs(outdir: str | os.PathLike) -> list[Path]:
    """Run folders in a folder, oldest number first."""
    outdir = Path(outdir)
    found = outdir.iterdir() if outdir.is_dir() else []
    return sorted(p for p in found if p.is_dir() and p.name[:5].isdigit() and p.name[5:6] == "-")
