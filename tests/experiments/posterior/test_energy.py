"""The posterior density, its gradient, and the units of latents."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.posterior.energy import (
    GRADIENT_HOW,
    LatentTarget,
    affordable,
    log_joint,
    log_prior,
)
from experiments.posterior.posterior import Problem, paper_mixture, simulate_data
from tests.experiments.posterior.linear_gaussian import (
    exact_posterior,
    linear_problem,
    matrix_problem,
)
from tests.helpers import three_blobs


@pytest.fixture(scope="module")
def curved():
    """A flow that is not linear."""
    flow, _ = three_blobs(2, 1)
    mixture = paper_mixture(flow.schedule.latent_variance())
    model = Problem(flow, mixture, 0.04, torch.ones(3).double(), how={"solver": "rk4", "steps": 3})
    return simulate_data(model, 5, 0)


def test_gradients_are_those_of_the_energies(curved):
    target = LatentTarget(curved[0])
    q = target.start + 0.3 * torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    log_w = torch.tensor([0.2, 0.3, 0.5]).double().log()
    for energy in (target.misfit, lambda v: target.prior(v, log_w)):
        gradient = energy(q)[1]
        for j in range(2):
            step = torch.zeros_like(q)
            step[:, j] = 1e-3
            slope = (energy(q + step)[0] - energy(q - step)[0]) / 2e-3
            torch.testing.assert_close(slope, gradient[:, j], rtol=2e-3, atol=2e-3)


def test_rows_are_those_of_the_batch(curved, monkeypatch):
    target = LatentTarget(curved[0])
    rows = torch.tensor([3, 1])
    whole = target.misfit(target.start)
    for all_rows, some in zip(whole, target.misfit(target.start[rows], rows), strict=True):
        torch.testing.assert_close(all_rows[rows], some)
    monkeypatch.setattr(curved[0].flow, "block", 2)  # large sets go through block by block
    for one, by_block in zip(whole, target.misfit(target.start), strict=True):
        torch.testing.assert_close(one, by_block)
    torch.testing.assert_close(LatentTarget(curved[0]).root, target.root)


def test_joint_density_is_the_sum_of_the_parts(curved):
    problem = replace(curved[0], concentration=torch.tensor([1.0, 2.0, 3.0]).double())
    z, log_w = curved[1].z, torch.tensor([0.2, 0.3, 0.5]).double().log()
    target = LatentTarget(problem)
    q = torch.linalg.solve(target.root, z - target.centre)
    prior = float((problem.concentration * log_w).sum())
    expected = prior - float((target.misfit(q)[0] + target.prior(q, log_w)[0]).sum())
    assert float(log_joint(problem, z, log_w)) == pytest.approx(expected)


def test_density_in_logits_is_the_dirichlet_of_the_weights():
    """With the last logit at zero, integrated over the others."""
    concentration = torch.tensor([2.0, 3.0, 4.0]).double()
    problem = replace(linear_problem(1)[0], concentration=concentration)
    grid = torch.linspace(-9, 9, 181).double()
    v = torch.cartesian_prod(grid, grid)
    log_w = torch.log_softmax(torch.cat([v, v.new_zeros(len(v), 1)], 1), 1)
    density = torch.softmax(log_prior(problem, log_w), 0)[:, None]
    mean = (density * log_w.exp()).sum(0)
    exact = concentration / 9
    torch.testing.assert_close(mean, exact, rtol=1e-4, atol=0)
    variance = (density * (log_w.exp() - mean).square()).sum(0)
    torch.testing.assert_close(variance, exact * (1 - exact) / 10, rtol=1e-3, atol=0)


def test_a_density_that_cannot_be_computed_is_minus_infinity():
    problem, truth = matrix_problem(3, wall=0.3)
    z = truth.z.clone()
    z[:, 0] = torch.tensor([-0.1, 0.5, -0.2]).double()
    assert float(log_joint(problem, z, truth.weights.log())) == -math.inf


def test_the_matrix_of_a_linear_flow_stands_for_it():
    problem, truth = linear_problem(20)
    linear, _ = matrix_problem(20)
    torch.testing.assert_close(linear.x, problem.x)
    torch.testing.assert_close(linear.generate(truth.z), problem.generate(truth.z))
    z, log_det = replace(problem, how={"steps": 48}).inflate(problem.x)
    exact = replace(linear, matrix=replace(problem, how={"steps": 48}).generate(torch.eye(2)).T)
    torch.testing.assert_close(exact.inflate(problem.x)[0], z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(exact.inflate(problem.x)[1], log_det, rtol=1e-6, atol=1e-6)


def test_whitened_units_are_those_of_the_posterior():
    problem, _ = matrix_problem(40)
    exact = exact_posterior(replace(problem, concentration=1e6 * torch.ones(3).double()))
    target = LatentTarget(problem, pilots=400)
    spread = target.root.square().sum(2).sqrt().numpy()
    assert np.abs(np.log(spread / exact.sd)).max() < 0.35
    offset = (target.centre.numpy() - exact.mean) / exact.sd
    assert np.sqrt((offset**2).mean()) < 0.15
    torch.testing.assert_close(target.latents(target.start), problem.inflate(problem.x)[0])


def test_without_pilots_the_units_are_laplace():
    problem, _ = linear_problem(4)
    target = LatentTarget(problem, pilots=0)
    A = problem.generate(torch.eye(2).double()).T
    sds, means = problem.mixture.sds, problem.mixture.means
    variance = sds.square().mean(0) + means.var(0, correction=0)
    precision = A.T @ A / problem.noise_var + torch.diag(1 / variance)
    covariance = (target.root @ target.root.mT)[2]
    torch.testing.assert_close(covariance, torch.linalg.inv(precision))


def test_expensive_integrations_are_replaced():
    problem, _ = linear_problem(2)
    cheap, cost = affordable(problem)
    assert cheap is problem
    assert cost == 4
    for how in ({"solver": "rk4", "steps": 64}, {"solver": "adaptive"}, {}):
        cheap, cost = affordable(replace(problem, how=how))
        assert cheap.how == GRADIENT_HOW
        assert cost == 32


def test_a_datum_that_cannot_be_inflated_is_named():
    problem, _ = linear_problem(4)
    x = problem.x.clone()
    x[2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"latent of datum 2, \[nan, .* is not finite"):
        LatentTarget(replace(problem, x=x))
