"""Likelihood: against exact densities of Gaussians and mixtures."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import gaussian_flow, three_blobs
from training.flow import ifs_times
from training.likelihood import inflate_with_volume, log_normal, log_prob

COVERAGE = {"g_type": "orig", "g_rescaling": 0.15, "tmax": 15.01}


@pytest.mark.parametrize(("steps", "tolerance"), [(64, 1e-5), (8, 2e-2)])
@pytest.mark.parametrize(("d", "keep"), [(2, 2), (2, 1), (3, 2)])
def test_mixture_against_its_exact_density(d, keep, steps, tolerance):
    """Base density: that of the noisy mixture at tmax, so that only the flow is on trial."""
    flow, x = three_blobs(d, keep)
    x = x[:60]
    y = flow.model.encode(x)
    T = flow.schedule.tmax
    u = flow.to_whitened(x, 0.0, "unscaled")
    inflated = inflate_with_volume(flow, u, steps=steps)
    end = flow.from_whitened(inflated.u, T, "unscaled_es")
    base = flow.model.log_density(end, T) + flow.log_volume(T, "unscaled_es")
    found = base + inflated.log_det - flow.log_volume(0.0, "unscaled_es")
    error = (found - flow.model.log_density(y, 0.0)).mean().abs()
    assert error <= tolerance


@pytest.mark.parametrize(("keep", "schedule"), [(2, {"tmax": 9.0}), (1, COVERAGE)])
def test_log_prob_of_a_mixture_from_the_gaussian_base(keep, schedule):
    flow, x = three_blobs(2, keep, **schedule)
    x = x[:60]
    exact = flow.model.log_density(flow.model.encode(x), 0.0)
    density = log_prob(flow, x, steps=64)
    assert (density.value - exact).mean().abs() <= 1e-4  # the latent is Gaussian to about that
    assert density.standard_error is None
    torch.testing.assert_close(density.latents, flow.inflate(x, "whitened", steps=64))


@pytest.mark.parametrize("solver", ["rk4", "ab2", "heun", "reversible", "adaptive"])
def test_gaussian_data_with_every_solver(solver):
    variances = [2.0, 0.3, 0.05]
    flow = gaussian_flow([1.5, 0.5, 0.1], variances, 2, **COVERAGE)
    normal = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    C = torch.tensor(variances).double() + flow.schedule.gamma(0.0)[0]
    S_T = torch.tensor(variances).double() + flow.schedule.gamma(flow.schedule.tmax)[0]
    y = normal * C.sqrt()
    density = log_prob(flow, flow.model.decode(y), steps=64, solver=solver)
    exact = -0.5 * (y.square() / C).sum(1) - 0.5 * (2 * math.pi * C).log().sum()
    # What the Gaussian base costs, known in closed form.
    v = S_T / flow.schedule.total(flow.schedule.tmax)
    exact = exact + 0.5 * (density.latents.square() * (1 / v - 1)).sum(1) + 0.5 * v.log().sum()
    torch.testing.assert_close(density.value, exact, atol=5e-3, rtol=0)


def test_paper_solver_agrees():
    flow, x = three_blobs(2, 2)
    u = flow.to_whitened(x[:20], 0.0, "unscaled")
    fine = inflate_with_volume(flow, u, steps=64)
    times = ifs_times(1601, flow.schedule.tmax / 1601)
    paper = inflate_with_volume(flow, u, solver="paper_heun", times=times)
    torch.testing.assert_close(paper.log_det, fine.log_det, atol=5e-3, rtol=0)


def test_hutchinson_is_unbiased_and_says_how_sure_it_is():
    flow, x = three_blobs(3, 2)
    u = flow.to_whitened(x[:40], 0.0, "unscaled")
    exact = inflate_with_volume(flow, u, steps=8).log_det
    estimate = inflate_with_volume(flow, u, trace="hutchinson", probes=64, steps=8)
    z = (estimate.log_det - exact) / estimate.standard_error
    assert z.abs().max() < 4.5
    assert 0.6 < z.square().mean() < 1.8
    assert inflate_with_volume(flow, u, trace="hutchinson", steps=8).standard_error is None


def test_probes_do_not_depend_on_the_partition():
    flow, x = three_blobs(2, 2)
    u = flow.to_whitened(x[:30], 0.0, "unscaled")
    how = {"trace": "hutchinson", "probes": 2, "seed": 5, "steps": 4}
    whole = inflate_with_volume(flow, u, **how)
    flow.block = 7
    parts = inflate_with_volume(flow, u, **how)
    tail = inflate_with_volume(flow, u[11:], start=11, **how)
    torch.testing.assert_close(parts.log_det, whole.log_det)
    torch.testing.assert_close(tail.log_det, whole.log_det[11:])


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_gradient_of_the_density(trace):
    flow, x = three_blobs(2, 1)
    x = x[:3].clone().requires_grad_()

    def f(x):
        how = {"trace": trace, "steps": 3, "solver": "heun", "differentiable": True}
        return log_prob(flow, x, **how).value.sum()

    (slope,) = torch.autograd.grad(f(x), x)
    h = 1e-5
    for i, j in np.ndindex(3, 2):
        shift = torch.zeros_like(x)
        shift[i, j] = h
        with torch.no_grad():
            found = (f(x + shift) - f(x - shift)) / (2 * h)
        assert float(slope[i, j]) == pytest.approx(float(found), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("coords", ["unscaled", "unscaled_es", "scaled", "scaled_es", "whitened"])
def test_densities_transform_as_densities_do(coords):
    """The volume of each map is its Jacobian's determinant."""
    flow, x = three_blobs(3, 2)
    u = flow.to_whitened(x[:1], 0.0, "unscaled")
    J = torch.autograd.functional.jacobian(
        lambda v: flow.from_whitened(v[None], 0.0, coords)[0], u[0]
    )
    assert flow.log_volume(0.0, coords) == pytest.approx(float(torch.linalg.slogdet(J)[1]))
    here = flow.from_whitened(u, 0.0, coords)
    reference = flow.log_prob(x[:1]) + flow.log_volume(0.0, "unscaled")
    found = log_prob(flow, here, coords).value + flow.log_volume(0.0, coords)
    torch.testing.assert_close(found, reference)


def test_log_normal():
    u = torch.randn(5, 3).double()
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(1)
    torch.testing.assert_close(log_normal(u), exact)
