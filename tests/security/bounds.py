"""A bound on the memory of a block of code."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 2**20


@contextmanager
def memory_bound(extra: int) -> Iterator[None]:
    """Let this process have no more than `extra` bytes beside those it has; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def about_memory(message: object) -> bool:
    """Whether an error is that of a bound that was hit."""
    words = ("MemoryError", "allocate", "cannot be read", "Cannot allocate")
    return any(word in str(message) for word in words)
