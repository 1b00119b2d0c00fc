"""The variational bound: tight for exact fields, and refused where there is none."""

import math

import numpy as np
import pytest
import torch

from flow.dequantization import IMAGE_HALF_WIDTH
from flow.elbo import elbo, quadrature
from flow.exact import MixtureField
from flow.flow import Flow
from tests.helpers import gaussian_flow, random_basis, three_blobs
from training.schedule import Schedule

COVERAGE = {"g_type": "orig", "g_rescaling": 0.15, "tmax": 15.01}


@pytest.mark.parametrize("keep", [2, 1])
def test_times_integrate_the_weight_and_others_like_it(keep):
    schedule = Schedule(torch.tensor([1.0, 0.01]), keep, **COVERAGE)
    fine = torch.linspace(0, schedule.tmax, 200_001).double()
    cos = schedule.cos_sin(fine)[0].square()
    when, weight = quadrature(schedule, 64)
    at = schedule.cos_sin(when)[0].square()
    for f in (lambda t: 1 + 0 * t, lambda t: torch.exp(-t / 5)):
        exact = torch.trapezoid(((schedule.rates * cos).sum(1) * f(fine)), fine)
        found = ((schedule.rates * at).sum(1).numpy() * (weight * f(when)).numpy()).sum()
        assert found == pytest.approx(float(exact), abs=2e-3)
    assert (np.diff(when.numpy()) > 0).all()


@pytest.mark.parametrize(("keep", "schedule"), [(2, {"tmax": 9.0}), (1, COVERAGE)])
def test_bound_is_tight_for_an_exact_field(keep, schedule):
    """Its mean is then the entropy of the noisy data, which it cannot be below."""
    flow, x = three_blobs(2, keep, **schedule)
    x = x.repeat(20, 1)
    bound = elbo(flow, x, times=64).value
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    y = flow.model.encode(x + math.sqrt(5e-4) * noise)
    nll = -flow.model.log_density(y, 0.0)
    error = math.sqrt(float(bound.var() + nll.var()) / len(x))
    # Data points here are themselves samples, so the two means differ by chance alone.
    assert float(bound.mean() - nll.mean()) == pytest.approx(0.0, abs=4 * error)
    assert error < 0.03


def test_bound_of_gaussian_data_part_by_part():
    """One datum, known field: prior and entropy in closed form, an error of F adds its weight."""
    flow = gaussian_flow([1.0, 0.5], [1.0, 0.5], 2, tmax=8.0)
    x = flow.model.decode(torch.tensor([[1.0, -0.3]]).double())
    bound = elbo(flow, x, times=8)
    cos, sin = flow.schedule.cos_sin(8.0)
    u = cos * torch.tensor([1.0, -0.3]).double() / flow.schedule.xi.sqrt()
    q = torch.distributions.Normal(u, sin)
    p = torch.distributions.Normal(torch.zeros(2).double(), torch.ones(2).double())
    exact = float(torch.distributions.kl_divergence(q, p).sum())
    assert float(bound.prior) == pytest.approx(exact, abs=1e-12)
    assert float(bound.rest) == pytest.approx(math.log(2 * math.pi * math.e * 5e-4))


def test_bound_on_the_probability_of_levels():
    """Four images, equally frequent, exact field: at least log 4, and near it at small gamma0."""
    h = IMAGE_HALF_WIDTH
    x = torch.tensor([[10, 20], [40, 230], [200, 60], [128, 127]]).double() * 2 * h - 1
    basis = random_basis([0.5, 0.2])
    basis.mean = x.mean(0)
    for gamma0, excess in (((h / 3) ** 2, 0.05), ((4 * h) ** 2, 6.0)):
        schedule = Schedule(basis.xi, 2, gamma0=gamma0, tmax=16.0)
        flow = Flow(MixtureField(schedule, basis, x))
        many = x.repeat(300, 1)
        value = elbo(flow, many, times=64, half_width=h).value
        error = float(value.std()) / math.sqrt(len(many))
        assert math.log(4) - 4 * error < float(value.mean()) < math.log(4) + excess + 4 * error


def test_noise_does_not_depend_on_the_partition():
    flow, x = three_blobs(2, 2)
    flow.block = 16
    whole = elbo(flow, x[:40], times=4, seed=2).value
    tail = elbo(flow, x[16:37], times=4, seed=2, start=16).value
    torch.testing.assert_close(tail, whole[16:37])
    flow.block = 7
    torch.testing.assert_close(elbo(flow, x[:40], times=4, seed=2).value, whole)
    torch.testing.assert_close(elbo(flow, x[5:9], times=4, seed=2, start=5).value, whole[5:9])
    assert not torch.allclose(elbo(flow, x[5:9], times=4, seed=2).value, whole[5:9])


def test_schedules_without_a_bound():
    flow, x = three_blobs(2, 1)
    with pytest.raises(ValueError, match=r"growth rate -0.5 < 0"):
        elbo(gaussian_flow([1.0, 0.5], [1, 0.5], 1, g_type="constant_inflation_gap",
                           inflation_gap=1.5), x[:2])  # fmt: skip
    proportional = Schedule(torch.tensor([1.0]), 1, g_type="proportional")
    none = Flow(MixtureField(proportional, random_basis([1.0]), torch.zeros(1, 1).double()))
    with pytest.raises(ValueError, match="no noise at t = 0"):
        elbo(none, torch.zeros(2, 1).double())
    assert elbo(flow, x[:2], times=2).value.isfinite().all()
