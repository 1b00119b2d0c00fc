"""Held-out data: the exact flow passes, others do not, though all are consistent."""

import numpy as np
import pytest
import torch

from experiments.calibration.data import held_out, judge
from experiments.coverage.carrier import Carrier
from experiments.coverage.coverage import shares_by_norm
from flow.exact import MixtureField
from flow.flow import Flow
from flow.method import Method
from training.basis import Basis
from training.data.toys import ToySource, exact_mixture
from training.networks.toy import ToyMLP
from training.precond import InflationPrecond
from training.schedule import Schedule

HOW = {"steps": 12}


def flows():
    """Of circles: exact, of circles a tenth too large, and a network of random weights."""
    mixture = exact_mixture("circles", points=24)
    one = torch.ones(2).double()
    basis = Basis(0 * one, one, one, torch.eye(2).double())
    schedule = Schedule(basis.xi, 2)
    wrong = mixture | {"means": 1.1 * mixture["means"]}
    torch.manual_seed(0)
    net = ToyMLP(2)
    torch.nn.init.normal_(net.outlet.weight, std=0.05)
    return {
        "exact": Flow(MixtureField(schedule, basis, **mixture)),
        "too large": Flow(MixtureField(schedule, basis, **wrong)),
        "random": Flow(InflationPrecond(net, schedule, basis).eval().requires_grad_(False)),
    }


@pytest.mark.parametrize(("name", "passes"), [("exact", 1), ("too large", 0), ("random", 0)])
def test_only_the_flow_of_the_data_passes(name, passes):
    flow, x = flows()[name], ToySource("circles").samples(7, 0, 4000)
    found = held_out(flow, x, HOW)
    assert found.passed == bool(passes)
    assert found.lines()[-1].startswith("Held-out data: " + ("PASS" if passes else "FAIL"))
    off = [abs(share - exact) / error for _, share, exact, error in found.rows()]
    assert (max(off) < 3.5) == bool(passes)
    assert (found.norm_p > 0.01) == bool(passes)
    # What tests the code alone says the same of all three.
    carrier = Carrier(flow, Method("rk4", 12, flow.schedule.tmax))
    z = carrier.points(500, 0)
    shares = shares_by_norm(z, carrier.passage(z)[1], np.array([1.0, 2.0]))
    assert np.abs(shares - shares[0]).max() <= 0.006


def test_what_is_normal_in_every_dimension_but_not_together_fails():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(5000)
    sign = np.where(rng.random(5000) < 0.5, -1, 1)
    assert judge(rng.standard_normal((5000, 2))).passed
    assert not judge(np.stack([a, a * sign], 1)).passed
    with pytest.raises(ValueError, match="1 of 5000 held-out samples"):
        judge(np.where(np.arange(5000)[:, None] == 3, np.nan, a[:, None]))
