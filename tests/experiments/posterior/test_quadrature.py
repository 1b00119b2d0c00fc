"""Quadrature over the latent grid against a linear flow's closed forms."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from experiments.posterior.chains import draw
from experiments.posterior.mcmc import diagnose
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import Truth, paper_problem
from experiments.posterior.quadrature import (
    QuadratureSampler,
    draw_latents,
    grid_points,
    likelihoods,
    most_likely,
    resolution,
    tabulate,
)
from tests.experiments.posterior.linear import exact_log_like, exact_weights, linear_problem, slope
from tests.helpers import gaussian_flow

sample = partial(draw, QuadratureSampler)
TRUTH = Truth(torch.ones(3), torch.zeros(1), torch.zeros(1, 2))


@pytest.fixture(scope="module")
def problem():
    return linear_problem(30, steps=8)


@pytest.fixture(scope="module")
def grid(problem):
    return tabulate(problem, 121)


def test_the_grid_holds_all_mass(grid):
    np.testing.assert_allclose(grid.mass.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(grid.coarse.sum(0), 1, atol=1e-2)


def test_likelihoods_of_a_linear_flow(problem, grid):
    fine, coarse, off = likelihoods(problem.x, grid, problem.noise_var)
    assert not off.any()
    torch.testing.assert_close(fine, exact_log_like(problem), atol=1e-4, rtol=0)
    torch.testing.assert_close(coarse, exact_log_like(problem), atol=0.03, rtol=0)
    assert resolution(fine, coarse, problem.concentration) < 0.02
    assert resolution(fine, fine, problem.concentration) == 0


def test_what_a_grid_cannot_do_is_said(problem):
    """A grid too coarse for the noise, and a datum off it."""
    x = problem.x.clone()
    x[7] = 30.0
    settings = {"mcmc_n": 50, "burn": 0, "chains": 1}
    fine = sample(problem, TRUTH, SamplerOptions(grid=81, **settings))
    assert fine.warnings == []
    lost = sample(replace(problem, x=x), TRUTH, SamplerOptions(grid=81, **settings))
    (line,) = lost.warnings
    assert "1 of 30 data (the first: number 7) lie off the grid" in line
    assert lost.statistics["data_off_the_grid"] == [7]
    coarse = replace(problem, noise_var=0.01)
    (line, *_) = sample(coarse, TRUTH, SamplerOptions(grid=9, **settings)).warnings
    assert "--grid=9 is too coarse" in line
    assert "use --grid=17" in line


def test_the_posterior_of_a_linear_flow(problem):
    draws = sample(problem, TRUTH, SamplerOptions(mcmc_n=2000, burn=100, grid=61))
    found = diagnose(draws.weights)
    mean, sd = exact_weights(problem)
    error = np.abs(np.array(found["mean"]) - mean)
    assert (error < 4 * np.array(found["mcse_mean"])).all()
    assert (error < 0.1 * sd).all()
    np.testing.assert_allclose(found["sd"], sd, rtol=0.1)
    assert draws.evaluations == 61**2 * 4 * 8


def test_latents_are_those_of_the_gaussian_posterior(problem, grid):
    weights = np.repeat([[1.0, 0.0, 0.0]], 400, 0)
    z = draw_latents(problem, grid, weights, np.random.default_rng(0))
    A, m = slope(problem), problem.mixture
    precision = A**2 / problem.noise_var + 1 / m.sds[0] ** 2
    mean = (A * problem.x / problem.noise_var + m.means[0] / m.sds[0] ** 2) / precision
    v = (z - mean.numpy()) * precision.sqrt().numpy()
    assert np.abs(v.mean((0, 1))).max() < 0.05
    np.testing.assert_allclose(v.std((0, 1)), 1, atol=0.05)


def test_most_likely_weights_and_their_covariance():
    """With labels known these are the multinomial's."""
    counts = np.array([60, 30, 10])
    log_like = torch.from_numpy(np.where(np.eye(3)[np.repeat([0, 1, 2], counts)] > 0, 0.0, -1e3))
    w, covariance = most_likely(log_like, torch.zeros(3))
    np.testing.assert_allclose(w, counts / 100)
    np.testing.assert_allclose(covariance, (np.diag(w) - np.outer(w, w)) / 100, rtol=1e-6)


def test_three_dimensions_are_refused():
    flow = gaussian_flow([1.0, 0.5, 0.2], [1.0, 0.5, 0.2], 3)
    with pytest.raises(ValueError, match="at most 2 dimensions, these latents have 3"):
        grid_points(paper_problem(flow).mixture, 11)


def test_the_table_is_kept_for_a_resumed_run(problem, tmp_path):
    settings = SamplerOptions(mcmc_n=50, burn=0, grid=21, chains=1, keep_z=2)
    first = sample(problem, TRUTH, settings, tmp_path)
    second = sample(problem, TRUTH, settings, tmp_path)
    assert (first.evaluations > 0, second.evaluations) == (True, 0)
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.z, second.z)
