"""The streamed eigenbasis against NumPy's covariance of everything at once."""

import numpy as np
import pytest
import torch

from training.basis import EIGENVALUE_FLOOR, EXACT, PANEL, eigenbasis, moments


def _data(n=1000, d=5, offset=0.0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + offset
    return torch.from_numpy(x)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_streamed_moments_equal_those_of_all_data(offset):
    x = _data(offset=offset)
    n, mean, covariance = moments(x.split(137), 5)
    assert n == 1000
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), rtol=1e-6, atol=1e-8)


def test_eigenbasis_diagonalises_and_whitens():
    x = _data(offset=3.0)
    basis = eigenbasis(x.split(100), 5)
    y = (x - basis.mean) @ basis.W
    np.testing.assert_allclose(np.cov(y.T, bias=True), torch.diag(basis.xi), atol=1e-9)
    assert (basis.xi.diff() <= 0).all()
    largest = basis.W.gather(0, basis.W.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    assert basis.floored == 0


def test_a_constant_column_is_floored():
    x = _data()
    x[:, 2] = 4.0
    basis = eigenbasis(x.split(100), 5)
    assert basis.floored == 1
    assert float(basis.xi[-1]) == pytest.approx(EIGENVALUE_FLOOR * float(basis.xi[0]))


def test_scaled_columns_have_unit_variance():
    x = _data()
    basis = eigenbasis(x.split(100), 5, scale=x.std(0, correction=0))
    assert float(basis.xi.sum()) == pytest.approx(5.0)


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples"):
        eigenbasis(iter([torch.ones(1, 3)]), 3)
    with pytest.raises(ValueError, match="does not vary"):
        eigenbasis(iter([torch.ones(10, 3)]), 3)


def test_covariance_of_more_columns_than_a_panel():
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((700, PANEL + 130))) @ torch.diag(
        torch.linspace(0.1, 2, PANEL + 130, dtype=torch.float64)
    )
    _, mean, covariance = moments([x[:300], x[300:]], x.shape[1])
    assert torch.allclose(mean, x.mean(0), atol=1e-12)
    assert torch.allclose(covariance, torch.cov(x.T, correction=0), atol=1e-12)
    assert torch.equal(covariance, covariance.T)


def test_moments_of_levels_are_exact_whatever_the_blocks():
    d = PANEL + 30
    levels = np.random.default_rng(0).integers(0, 256, (3 * EXACT + 5, d), dtype=np.uint8)
    levels[:, 3] = 17
    levels[:, 4] = 255 * (levels[:, 5] > 99)  # the largest products there are
    levels[: 2 * EXACT, 6] = 0
    x = torch.from_numpy(levels)
    n, mean, covariance = moments(x.split(700), d)
    other = moments(x.flip(0).split(2 * EXACT + 1), d)
    assert n == other[0] == len(levels)
    assert torch.equal(mean, other[1])
    assert torch.equal(covariance, other[2])
    whole = levels.astype(float) - 128  # sums of products below 2^53: exact
    exact = (n * (whole.T @ whole) - np.outer(whole.sum(0), whole.sum(0))) / (127.5 * n) ** 2
    np.testing.assert_allclose(covariance, exact, rtol=1e-14)
    assert float(covariance[3, 3]) == 0
    raw = levels / 127.5 - 1
    np.testing.assert_allclose(mean, raw.mean(0), atol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(raw.T, bias=True), atol=1e-12)
