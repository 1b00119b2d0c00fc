"""Observation models against scipy, and what they refuse."""

import numpy as np
import pytest
import torch
from scipy import stats

from flow import observe
from flow.inference.operators import blur, downsample

X = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 4)))
A = np.random.default_rng(1).standard_normal((3, 4))
NAN = float("nan")


def test_coordinates_seen():
    model = observe([0.3, NAN, -1.0, 2.0], mask=[1, 0, 1, 0], noise=[0.1, 1, 0.2, 1])
    expected = stats.norm.logpdf(X[:, [0, 2]], [0.3, -1.0], [0.1, 0.2]).sum(1)
    np.testing.assert_allclose(model.log_likelihood(X), expected)
    missing = observe([0.3, NAN, -1.0, NAN], noise=[0.1, 1, 0.2, 1])
    np.testing.assert_allclose(missing.log_likelihood(X), expected)


def test_linear():
    y = np.array([0.1, NAN, 0.4])
    expected = stats.norm.logpdf(X.numpy() @ A[[0, 2]].T, y[[0, 2]], 0.3).sum(1)
    np.testing.assert_allclose(observe.linear(A, y, 0.3).log_likelihood(X), expected)
    as_function = observe.linear(lambda x: x @ torch.from_numpy(A).T, y, 0.3)
    np.testing.assert_allclose(as_function.log_likelihood(X), expected)


def test_counts():
    y = np.array([3.0, 0.0, 7.0])
    rate = 5 * np.maximum(X.numpy() @ A.T + 1, 0) + 0.5
    model = observe.poisson(y, A, exposure=5.0, offset=1.0, background=0.5)
    np.testing.assert_allclose(model.log_likelihood(X), stats.poisson.logpmf(y, rate).sum(1))
    dark = observe.poisson([3.0, 0.0, 7.0, 1.0], offset=-100.0)
    assert torch.isneginf(dark.log_likelihood(X)).all()


def test_operators_on_images():
    image = torch.zeros(1, 2, 8, 8).double()
    image[0, 1, 3, 4] = 1.0
    seen = blur((2, 8, 8), 0.8)(image.flatten(1)).unflatten(1, (2, 8, 8))
    assert float(seen[0, 0].abs().max()) == 0
    assert float(seen.sum()) == pytest.approx(1.0)
    where = torch.arange(8).double()
    variance = (seen[0, 1].sum(1) * (where - 3) ** 2).sum()
    assert float(variance) == pytest.approx(0.8**2, rel=0.02)
    ones = torch.ones(1, 128).double()
    torch.testing.assert_close(blur((2, 8, 8), 2.0)(ones), ones)  # edges are repeated
    half = downsample((2, 8, 8), 2)
    assert half.size == (2, 4, 4)
    expected = torch.nn.functional.avg_pool2d(image, 2).flatten(1)
    torch.testing.assert_close(half(image.flatten(1)), expected)


REFUSED = {
    "all 2 values of x are missing": lambda: observe([NAN, NAN], noise=1.0),
    "noise=0: standard deviations must be above 0": lambda: observe([1.0], noise=0.0),
    "noise=-1": lambda: observe([1.0, 2.0], noise=[1.0, -1.0]),
    "noise=nan": lambda: observe([1.0], noise=NAN),
    "noise is missing": lambda: observe([1.0]),
    "noise has 2 values for 3 measurements": lambda: observe([1, 2, 3], noise=[1, 2]),
    "x is NaN or infinite where mask": lambda: observe([NAN, 1.0], mask=[1, 1], noise=1.0),
    "mask has 3 values, x has 2": lambda: observe([0.0, 1.0], mask=[1, 1, 0], noise=1.0),
    "holds infinite values": lambda: observe([np.inf, 1.0], noise=1.0),
    "holds no real numbers": lambda: observe(["a"], noise=1.0),
    r"A has shape \(3, 4\); for 2 values of y it must be \[2, d\]":
        lambda: observe.linear(A, [0.0, 1.0], 0.1),
    "A holds NaN": lambda: observe.linear(A * NAN, [0.0, 1.0, 2.0], 0.1),
    "y has 3 values, and the operator gives 16":
        lambda: observe.linear(downsample((1, 8, 8), 2), [0.0, 1.0, 2.0], 0.1),
    "whole numbers": lambda: observe.poisson([0.5]),
    "exposure=0": lambda: observe.poisson([1], exposure=0),
    "background and offset": lambda: observe.poisson([1], background=-1.0),
    "downsample:3": lambda: downsample((1, 8, 8), 3),
    "blur:0": lambda: blur((1, 8, 8), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line):
    with pytest.raises(ValueError, match=line):
        REFUSED[line]()
