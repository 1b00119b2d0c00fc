"""Uncertainty through a flow: linear flows in closed form, a curved one by its density."""

import math

import numpy as np
import pytest
import torch

from flow.flow import Flow
from tests.helpers import gaussian_flow, random_basis, three_blobs
from training.networks.toy import ToyMLP
from training.precond import InflationPrecond
from training.schedule import Schedule

HOW = {"steps": 8}


def linear(flow):
    """Matrix A and point b of a linear flow's z = A (x - b), whitened, by finite differences."""
    zero = flow.inflate(torch.zeros(1, 3), coords="whitened", **HOW)
    unit = flow.inflate(torch.eye(3).double(), coords="whitened", **HOW)
    return (unit - zero).T, zero[0]


def test_a_linear_flow_in_closed_form_both_ways():
    flow = gaussian_flow([1.5, 1.0, 0.4], [1.0, 0.8, 0.1], 2)
    A, b = linear(flow)
    C = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.2]]).double()
    x = torch.tensor([0.3, -0.2, 0.5]).double()
    found = flow.propagate(x, C, n=20000, seed=1, **HOW)
    torch.testing.assert_close(found.jacobian, A)
    torch.testing.assert_close(found.linear_covariance, A @ C @ A.T)
    torch.testing.assert_close(found.linear_mean, A @ x + b)
    sd = found.linear_covariance.diagonal().sqrt()
    assert ((found.mean - found.linear_mean).abs() < 4 * sd / math.sqrt(20000)).all()
    torch.testing.assert_close(found.covariance, found.linear_covariance, rtol=0.06, atol=0.02)
    assert found.parted == []
    assert found.note().startswith("The linearisation holds: KS distance at most 0.0")
    back = flow.propagate(found.linear_mean, found.linear_covariance, to="data", **HOW)
    torch.testing.assert_close(back.linear_covariance, C, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(back.linear_mean, x, rtol=1e-3, atol=1e-4)
    assert back.parted == []


def test_what_is_wide_for_the_map_parts_and_what_is_narrow_does_not():
    """Between two blobs the map bends: small uncertainty is linear there, a large one is not."""
    flow, x = three_blobs(2, 2)
    middle = x.mean(0)
    narrow, wide = (flow.propagate(middle, v * torch.eye(2), n=3000, **HOW) for v in (1e-6, 1.0))
    assert narrow.parted == []
    torch.testing.assert_close(narrow.covariance, narrow.linear_covariance, rtol=0.15, atol=1e-7)
    assert wide.parted
    assert float(wide.parting.max()) > 0.1
    assert "The linearisation fails in" in wide.note()
    # The draws are right: they are the samples, inflated.
    samples = middle + torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).double()
    carried = flow.propagate(samples=samples, **HOW)
    torch.testing.assert_close(carried.draws, flow.inflate(samples, "whitened", **HOW))
    torch.testing.assert_close(carried.covariance, torch.cov(carried.draws.T))


def test_the_jacobian_of_a_network_has_the_determinant_of_its_likelihood():
    basis = random_basis([1.5, 0.4])
    torch.manual_seed(0)
    net = ToyMLP(2)
    torch.nn.init.normal_(net.outlet.weight, std=0.3)
    model = InflationPrecond(net, Schedule(basis.xi, 1, inflation_gap=0.1), basis)
    flow = Flow(model.eval().requires_grad_(False))
    x = torch.tensor([0.4, -0.7]).double()
    found = flow.propagate(x, [0.1, 0.1], n=50, solver="rk4", steps=32)
    base = -0.5 * found.linear_mean.square().sum() - math.log(2 * math.pi)
    value = base + torch.linalg.slogdet(found.jacobian)[1]
    # The trace is integrated, the map has steps.
    assert float(value) == pytest.approx(float(flow.log_prob(x[None], steps=32)), abs=1e-3)


BAD = {
    "give x and its covariance cov": {"x": [0.0, 0.0]},
    "not both": {"x": [0.0, 0.0], "samples": np.zeros((3, 2))},
    r"x has shape \(3,\)": {"x": [0.0] * 3, "cov": [1.0, 1.0]},
    r"cov has shape \(3, 3\)": {"x": [0.0] * 2, "cov": np.eye(3)},
    "cov is no covariance": {"x": [0.0] * 2, "cov": [[1.0, 2.0], [2.0, 1.0]]},
    "cov holds NaN": {"x": [0.0] * 2, "cov": [np.nan, 1.0]},
    "to='there' is none of latent, data": {"x": [0.0] * 2, "cov": [1.0, 1.0], "to": "there"},
    "samples: wanted is": {"samples": np.zeros((1, 2))},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    flow, _ = three_blobs(2, 2)
    with pytest.raises(ValueError, match=message):
        flow.propagate(**BAD[message])
