"""Small pieces of running commands: their output, a lock on a folder, how they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

EVERY = 10.0  # seconds between lines of a progress bar


def lines(stream: IO[bytes], log: IO[bytes]) -> Iterator[str]:
    """Lines of a stream, copied to a log; of progress bars, a state every few seconds."""
    pending, shown = b"", time.time()
    while chunk := stream.read1(65536):  # type: ignore[attr-defined]
        log.write(chunk)
        log.flush()
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            if text := line.split(b"\r")[-1].decode(errors="replace").rstrip():
                yield text
        bar = [b for b in pending.split(b"\r") if b.strip()]
        if bar and b"\r" in pending and time.time() - shown > EVERY:
            shown = time.time()
            yield bar[-1].decode(errors="replace").strip()


def locked(file: IO[str]) -> bool:
    """Try to lock a file, where the system knows such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def terminate(process: subprocess.Popen) -> None:
    """End a command that leads a process group, and the commands that it runs in its turn."""
    if os.name != "posix":
        process.terminate()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the commands, as Ctrl-C does; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
