"""Dropout whose masks depend on a sample's key and a layer, never on what else is in the batch.

Sample i has a random key s_i of 64 bits. The words of its masks are those of SplitMix64, element j
of a layer's stream being mix(s_i + gamma j): a few integer operations, the same on every device.
Each word decides on four elements.

Reference: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as torch's integers have it
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_LEVELS = 2**16  # of a share: elements have 16 bits each
_LAYER = 2**32  # words of a layer


def split_mix(keys: Tensor, first: int, count: int) -> Tensor:
    """Words first..first + count of the stream of each key [n], int64 [n, count]."""
    place = torch.arange(first + 1, first + 1 + count, device=keys.device)
    z = keys[:, None] + place * _GAMMA
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FIRST  # shifts of torch's integers keep their sign
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _SECOND
    return z ^ ((z >> 31) & (2**33 - 1))


@torch.library.custom_op("flows::kept", mutates_args=())  # compilers miscompile its integers
def kept(keys: Tensor, layer: int, count: int, p: float) -> Tensor:
    """Which elements of each sample a layer keeps, bool [n, count].

    Args:
        keys: of the samples, int64 [n].
        layer: number of the layer.
        count: elements of a sample.
        p: probability of dropping one, in steps of 2^-16.
    """
    drawn = split_mix(keys, layer * _LAYER, -(-count // 4)).view(torch.int16)[:, :count]
    return drawn >= round(p * _LEVELS) - _LEVELS // 2


@kept.register_fake
def _(keys: Tensor, layer: int, count: int, p: float) -> Tensor:
    return keys.new_empty(len(keys), count, dtype=torch.bool)


def dropout(x: Tensor, p: float, keys: Tensor | None, layer: int) -> Tensor:
    """Feature maps with some elements zero and the rest so much larger, as in training.

    Args:
        x: [n, c, h, w].
        p: probability of dropping an element.
        keys: of the samples, int64 [n]; None to draw from torch's own generator.
        layer: number of the layer, each of which has masks of its own.
    """
    if keys is None:
        return nnf.dropout(x, p)
    n, c, h, w = x.shape
    keep = kept(keys, layer, c * h * w, p).view(n, h, w, c)  # as images lie in memory
    share = 1 - round(p * _LEVELS) / _LEVELS
    return torch.where(keep.permute(0, 3, 1, 2), x / share, 0.0)
