"""Likelihood: against exact densities of Gaussians and mixtures."""

import math

import numpy as np
import pytest
import torch

from flow.exact import MixtureField
from flow.flow import Flow, ifs_times
from flow.likelihood import inflate_with_volume, log_normal, log_prob
from tests.helpers import gaussian_flow, three_blobs
from training.basis import Basis
from training.schedule import Schedule

COVERAGE = {"g_type": "orig", "g_rescaling": 0.15, "tmax": 15.01}


GAP = {"inflation_gap": 0.02, "tmax": 8.0}


def overlapping(d, keep, **schedule):
    """Three Gaussians of sd about .3, 1.25 apart, and 200 samples of them."""
    rng = np.random.default_rng(0)
    angle = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3 + 0.4
    means = torch.zeros(3, d, dtype=torch.float64)
    means[:, :2] = 1.25 / math.sqrt(3) * torch.stack([angle.cos(), angle.sin()], 1)
    means[:, 2:] = torch.tensor([0.5, -0.3, 0.0])[:, None]
    sds = 0.3 * torch.from_numpy(np.exp(0.2 * rng.standard_normal((3, d))))
    k = torch.from_numpy(rng.integers(0, 3, 200))
    x = means[k] + sds[k] * torch.from_numpy(rng.standard_normal((200, d)))
    total = torch.diag(sds.square().mean(0)) + torch.cov(means.T, correction=0)
    xi, W = torch.linalg.eigh(total)
    basis = Basis(means.mean(0), torch.ones(d).double(), xi.flip(0), W.flip(1))
    schedule = Schedule(basis.xi, keep, **schedule)
    return Flow(MixtureField(schedule, basis, means, torch.diag_embed(sds.square()))), x


def nll_error(flow, x, **how):
    """Error of the mean NLL with the noisy mixture's density at tmax as base, and evaluations."""
    T = flow.schedule.tmax
    inflated = inflate_with_volume(flow, flow.to_whitened(x, 0.0, "unscaled"), **how)
    evaluations = flow.evaluations
    end = flow.from_whitened(inflated.u, T, "unscaled_es")
    base = flow.model.log_density(end, T) + flow.log_volume(T, "unscaled_es")
    found = base + inflated.log_det - flow.log_volume(0.0, "unscaled_es")
    exact = flow.model.log_density(flow.model.encode(x), 0.0)
    return float((found - exact).mean().abs()), evaluations


@pytest.mark.parametrize("schedule", [GAP, COVERAGE])
@pytest.mark.parametrize(("d", "keep"), [(2, 2), (3, 3), (2, 1), (3, 2)])
def test_mixture_against_its_exact_density(d, keep, schedule):
    """Three overlapping Gaussians, only the flow on trial: the base density is exact too."""
    flow, x = overlapping(d, keep, **schedule)
    assert nll_error(flow, x, steps=8) <= (1e-3, 32)
    flow.evaluations = 0
    assert nll_error(flow, x, steps=64) <= (1e-5, 256)


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"),
    [("rk4", 64, 1e-5), ("ab3", 254, 1e-5), ("ab3", 30, 4e-3), ("rk4", 8, 1e-2)],
)
@pytest.mark.parametrize(("d", "keep"), [(2, 2), (2, 1), (3, 2)])
def test_a_sharp_mixture_needs_more_steps(d, keep, solver, steps, tolerance):
    """Sds down to .14, well apart: 32 evaluations give 2e-3 (ab3) to 7e-3 (rk4), not 1e-3."""
    flow, x = three_blobs(d, keep)
    error, evaluations = nll_error(flow, x[:100], solver=solver, steps=steps)
    assert error <= tolerance
    assert evaluations in (32, 256)


@pytest.mark.parametrize(("keep", "schedule"), [(2, {"tmax": 9.0}), (1, COVERAGE)])
def test_log_prob_of_a_mixture_from_the_gaussian_base(keep, schedule):
    flow, x = three_blobs(2, keep, **schedule)
    x = x[:60]
    exact = flow.model.log_density(flow.model.encode(x), 0.0)
    density = log_prob(flow, x, steps=64)
    assert (density.value - exact).mean().abs() <= 1e-4  # the latent is Gaussian to about that
    assert density.standard_error is None
    torch.testing.assert_close(density.latents, flow.inflate(x, "whitened", steps=64))


@pytest.mark.parametrize("solver", ["rk4", "ab2", "ab3", "angle_heun", "reversible", "adaptive"])
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
    times = ifs_times(401, flow.schedule.tmax / 401)
    paper = inflate_with_volume(flow, u, solver="heun", times=times)
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


@pytest.mark.parametrize("most", [2**40, 0])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_gradient_of_the_density(trace, most, monkeypatch):
    monkeypatch.setattr("flow.integration.LARGEST_GRAPH", most)
    flow, x = three_blobs(2, 1)
    x = x[:3].clone().requires_grad_()

    def f(x):
        how = {"trace": trace, "steps": 3, "solver": "angle_heun", "differentiable": True}
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
