"""Sobol sets that keep a point."""

import numpy as np
import pytest
from scipy import stats

from experiments.posterior.sobol import BITS, as_normals, sobol_bits


def test_sobol_sets_keep_a_point_and_the_others_are_uniform():
    """Whatever point is kept, uniform itself, each other point is uniform and the set is a net."""
    rng = np.random.default_rng(0)
    others = []
    for _ in range(800):
        keep = rng.integers(0, 2**BITS, 2, dtype=np.uint32)
        bits = sobol_bits(rng, 8, 2, keep)
        assert np.array_equal(bits[0], keep)
        others.append(bits[1:])
        cells = np.sort(bits[:, 0] >> np.uint32(BITS - 3))
        assert cells.tolist() == list(range(8))  # one point in each eighth
    u = np.stack(others) / 2**BITS  # [sets, 7, 2]
    for point in range(7):
        for axis in range(2):
            assert stats.kstest(u[:, point, axis], "uniform").pvalue > 1e-4


def test_normals_are_finite_at_the_edges():
    edge = np.array([0, 2**BITS - 1], dtype=np.uint32)
    assert as_normals(edge)[0] == pytest.approx(-as_normals(edge)[1], rel=1e-6)
    assert np.isfinite(as_normals(edge)).all()
    with np.errstate(all="raise"):
        points = sobol_bits(np.random.default_rng(0), 5, 3)  # not a power of two
    assert points.shape == (5, 3)
