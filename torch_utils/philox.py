"""Random numbers by seed, purpose and place: a counter-based generator, the same on every device.

Number k of row i of a stream of rows of w is the word i w + k of Philox 4x64-10, the key of which
is a digest of seed and purpose: whoever needs some rows draws these and nothing else. On the CPU
the words are NumPy's, on a GPU the same words come from integer operations of torch. Uniform
numbers and signs are equal on all devices to the bit; normal ones, of 32 bits each as those of
GPU libraries, differ by what the devices' logarithms, sines and cosines differ.

Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

CPU = torch.device("cpu")
ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW = 2**32 - 1
_WORDS = 4  # of one counter


def key(seed: int, purpose: str) -> tuple[int, int]:
    """The two 64-bit halves of a stream's key."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def words(
    seed: int, purpose: str, start: int, stop: int, width: int, device: torch.device = CPU
) -> Tensor:
    """Rows start..stop of a stream of 64-bit words, int64 [stop - start, width]."""
    return _stretch(_raw, seed, purpose, start * width, stop * width, device).view(-1, width)


def uniforms(
    seed: int, purpose: str, start: int, stop: int, width: int, device: torch.device = CPU
) -> Tensor:
    """Rows start..stop of a stream uniform on [0, 1), float64 [stop - start, width]."""
    return _stretch(_unit, seed, purpose, start * width, stop * width, device).view(-1, width)


def normals(
    seed: int, purpose: str, start: int, stop: int, width: int, device: torch.device = CPU
) -> Tensor:
    """Rows start..stop of a standard normal stream, float32 [stop - start, width], up to 6.7."""
    return _stretch(_normal, seed, purpose, start * width, stop * width, device, 2 * _WORDS).view(
        -1, width
    )


def signs(
    seed: int, purpose: str, start: int, stop: int, width: int, device: torch.device = CPU
) -> Tensor:
    """Rows start..stop of a stream of random signs, float64 [stop - start, width]."""
    bits = words(seed, purpose, start, stop, -(-width // 64), device)
    ones = (bits[:, :, None] >> torch.arange(64, device=bits.device)) & 1
    return 1 - 2 * ones.flatten(1)[:, :width].double()


def order(seed: int, purpose: str, start: int, count: int) -> np.ndarray:
    """A random permutation of `count`, by as many words from number `start` on."""
    drawn = words(seed, purpose, start, start + count, 1)[:, 0]
    return np.argsort(drawn.numpy(), kind="stable")


def _stretch(
    draw: Callable[[tuple[int, int], int, int, torch.device], Tensor],
    seed: int,
    purpose: str,
    start: int,
    stop: int,
    device: torch.device,
    each: int = _WORDS,
) -> Tensor:
    """Numbers start..stop of a stream, of which every counter gives `each`.

    Args:
        draw: key, first counter, how many and where -> numbers of whole counters.
        seed, purpose: of the stream.
        start, stop: range of numbers.
        device: where to compute; Apple's, which has no float64, gets what the CPU draws.
        each: numbers of a counter.
    """
    first, last = start // each, -(-stop // each)
    where = CPU if device.type == "mps" else device
    drawn = draw(key(seed, purpose), first, last - first, where)
    return drawn[start - each * first : stop - each * first]


def _raw(of: tuple[int, int], first: int, counters: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        drawn = _numpy(of, first).random_raw(_WORDS * counters)
        return torch.from_numpy(drawn.view(np.int64))
    return torch_words(of, first, counters, device)


def _unit(of: tuple[int, int], first: int, counters: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        generator = np.random.Generator(_numpy(of, first))
        return torch.from_numpy(generator.random(_WORDS * counters))
    return to_unit(torch_words(of, first, counters, device))


def _normal(of: tuple[int, int], first: int, counters: int, device: torch.device) -> Tensor:
    """Two normal numbers a word, by Box and Muller's transform of its halves."""
    halves = _raw(of, first, counters, device).view(torch.int32).view(-1, 2)
    share = (halves[:, 0] & (2**31 - 1)).float().add_(0.5).mul_(2.0**-31)
    radius = share.log_().mul_(-2).sqrt_()
    angle = halves[:, 1].float().mul_(math.pi * 2.0**-31)
    drawn = torch.empty(len(halves), 2, device=device)
    torch.mul(radius, angle.cos(), out=drawn[:, 0])
    torch.mul(radius, angle.sin_(), out=drawn[:, 1])
    return drawn.flatten()


def _numpy(of: tuple[int, int], first: int) -> np.random.Philox:
    """NumPy's generator, which counts up before it draws, at counter `first`."""
    return np.random.Philox(key=np.array(of, np.uint64), counter=(first - 1) % 2**256)


def to_unit(drawn: Tensor) -> Tensor:
    """Words to numbers on [0, 1) by their upper 53 bits."""
    return ((drawn >> 11) & (2**53 - 1)).double() * 2.0**-53


def torch_words(of: tuple[int, int], first: int, counters: int, device: torch.device) -> Tensor:
    """The words of counters first..first + counters, int64 [4 counters], by operations of torch.

    Args:
        of: key.
        first: first counter.
        counters: how many.
        device: where to compute.
    """
    place = torch.arange(first, first + counters, device=device)
    even = torch.stack([place, torch.zeros_like(place)])  # words 0 and 2 of the block
    odd = torch.zeros_like(even)  # words 1 and 3
    for k in range(ROUNDS):
        keys = [_signed(h + k * w) for h, w in zip(of, _WEYL, strict=True)]
        high, low = _product(even)
        even = torch.stack([high[1] ^ odd[0] ^ keys[0], high[0] ^ odd[1] ^ keys[1]])
        odd = low.flip(0)
    return torch.stack([even[0], odd[0], even[1], odd[1]], 1).flatten()


def _product(x: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower halves of the 128-bit products of two rows of words by the multipliers."""
    high, low = [], []
    for row, by in zip(x, _MULTIPLIERS, strict=True):
        upper, lower = by >> 32, by & _LOW
        b, a = (row >> 32) & _LOW, row & _LOW
        middle = b * lower + (((a * lower) >> 32) & _LOW)
        other = a * upper + (middle & _LOW)
        high.append(b * upper + ((middle >> 32) & _LOW) + ((other >> 32) & _LOW))
        low.append(row * _signed(by))
    return torch.stack(high), torch.stack(low)


def _signed(word: int) -> int:
    """A word as torch's integers have it."""
    return (word + 2**63) % 2**64 - 2**63
