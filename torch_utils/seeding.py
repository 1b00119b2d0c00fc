"""Random numbers that depend on a seed and a position, never on batch size or process count.

Sample i of any stream lies in block i // BLOCK, and each block has a generator of its own, so any
process can draw any stretch of a stream without drawing what came before.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BLOCK = 1024
# How a run of training draws by position: `torch_utils.philox`, or, as runs before it, blocks.
PHILOX, BLOCKS = "philox", "blocks"


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator for one purpose ("training", "latents", ...) and one index within it."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), index])


def integer(seed: int, purpose: str, *where: int) -> int:
    """A 63-bit seed for another library's generator, for one purpose and position."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *where])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def rows(
    draw: Callable[[int, np.random.Generator], np.ndarray],
    seed: int,
    purpose: str,
    start: int,
    stop: int,
) -> np.ndarray:
    """Rows start..stop of an endless stream of samples.

    Args:
        draw: called as draw(BLOCK, generator), gives [BLOCK, ...].
        seed: seed of the stream.
        purpose: name of the stream; streams of different names are independent.
        start, stop: range of samples.

    Returns:
        array [stop - start, ...].
    """
    first, last = start // BLOCK, -(-stop // BLOCK)
    blocks = [draw(BLOCK, generator(seed, purpose, b)) for b in range(first, max(last, first + 1))]
    return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]


def normals(seed: int, purpose: str, start: int, stop: int, d: int) -> np.ndarray:
    """Standard normal rows start..stop of a stream, float64 [stop - start, d]."""
    return rows(lambda n, rng: rng.standard_normal((n, d)), seed, purpose, start, stop)


def rademacher(seed: int, purpose: str, start: int, stop: int, d: int) -> Tensor:
    """Rows start..stop of a stream of random signs, float64 [stop - start, d]."""
    return torch.from_numpy(np.where(normals(seed, purpose, start, stop, d) < 0, -1.0, 1.0))


def epochs(seed: int, start: int, stop: int, n: int) -> np.ndarray:
    """Which of n items the positions start..stop of an endless stream are, [stop - start].

    Every n positions are one epoch, in which each item comes once, in an order of its own.
    """
    index = np.arange(start, stop)
    picks = np.empty_like(index)
    for epoch in range(start // n, -(-stop // n)):
        here = index // n == epoch
        picks[here] = _epoch_order(seed, epoch, n)[index[here] % n]
    return picks


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    return generator(seed, "epoch", epoch).permutation(n)
