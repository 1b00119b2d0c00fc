"""Scrambled Sobol sets, also such that contain a given point.

Points are kept as integers, in units of 2^-BITS, in which a digital shift is an exclusive or.

Reference: Owen 1998, "Scrambling Sobol' and Niederreiter-Xing points".
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

BITS = 30


def sobol_bits(
    rng: np.random.Generator, points: int, d: int, keep: np.ndarray | None = None
) -> np.ndarray:
    """A scrambled Sobol set, in units of 2^-BITS.

    Args:
        rng: of the scrambling.
        points: M.
        d: dimensions.
        keep: a point that must be in the set, [d]; None for any set.

    Returns:
        uint32 [M, d], `keep` first.
    """
    power = max(0, math.ceil(math.log2(points)))
    net = qmc.Sobol(d, scramble=True, bits=BITS, rng=rng).random_base2(power)[:points]
    bits = (net * 2**BITS).astype(np.uint32)
    if keep is None:
        return bits
    place = rng.integers(points)
    bits ^= bits[place] ^ keep
    bits[[0, place]] = bits[[place, 0]]
    return bits


def as_normals(bits: np.ndarray) -> np.ndarray:
    """The standard normals that Sobol points stand for."""
    return ndtri(as_uniforms(bits))


def as_uniforms(bits: np.ndarray) -> np.ndarray:
    """The numbers in (0, 1) that Sobol points stand for."""
    return (bits + 0.5) / 2**BITS
