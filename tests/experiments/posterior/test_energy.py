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


def test_joint_density_is_the_sum_of_the_parts(curved):
    problem = replace(curved[0], concentration=torch.tensor([1.0, 2.0, 3.0]).double())
    z, log_w = curved[1].z, torch.tensor([0.2, 0.3, 0.5]).double().log()
    prior = (problem.concentration * log_w).sum()
    each = problem.mixture.log_components(z).exp() @ log_w.exp()
    noise = torch.distributions.Normal(problem.generate(z), problem.noise_var**0.5)
    expected = prior + each.log().sum() + noise.log_prob(problem.x).sum()
    assert float(log_joint(problem, z, log_w)) == pytest.approx(float(expected))


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


def test_units_are_those_of_the_posterior():
    """Under the flow's prior; chains begin in it."""
    problem, _ = linear_problem(40)
    target = LatentTarget(problem)
    how = {"solver": "rk4", "steps": 4}  # which the draws are made with
    A = replace(problem, how=how).generate(torch.eye(2).double()).T
    prior = torch.diag(1 / problem.flow.stretch(problem.flow.schedule.tmax, "scaled_es").square())
    covariance = torch.linalg.inv(A.T @ A / problem.noise_var + prior)
    mean = problem.x @ A / problem.noise_var @ covariance
    sd = covariance.diagonal().sqrt()
    spread = target.root.square().sum(2).sqrt()
    assert float((spread / sd).log().abs().max()) < 0.35
    assert float(((target.centre - mean) / sd).square().mean().sqrt()) < 0.2
    z = torch.stack([target.latents(target.begin(np.random.default_rng(s))) for s in range(200)])
    assert float(((z.mean(0) - mean) / sd).square().mean().sqrt()) < 0.25
    assert float((z.std(0) / sd).log().abs().max()) < 0.4


def test_expensive_integrations_are_replaced():
    problem, _ = linear_problem(2)
    cheap, cost = affordable(problem)
    assert cheap is problem
    assert cost == 4
    for how in ({"solver": "rk4", "steps": 64}, {"solver": "adaptive"}, {}):
        cheap, cost = affordable(replace(problem, how=how))
        assert cheap.how == GRADIENT_HOW
        assert cost == 32
