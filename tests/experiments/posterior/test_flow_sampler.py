"""Candidates about the posteriors of the data, against a linear flow's exact posterior."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.posterior import flow_sampler
from experiments.posterior.chains import Chain, draw
from experiments.posterior.flow_sampler import FlowSampler, choose, plan
from experiments.posterior.mcmc import diagnose
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import Truth, paper_problem, simulate_data
from experiments.posterior.proposals import DEFENCE, LEAST_SHARE, SPREAD, proposals
from tests.experiments.posterior.linear import exact_log_like, exact_weights, linear_problem, slope
from tests.experiments.posterior.linear_gaussian import (
    Linear,
    check_draws,
    exact_posterior,
    matrix_problem,
)
from tests.helpers import gaussian_flow

TRUTH = Truth(torch.ones(3), torch.zeros(1), torch.zeros(1, 2))


def test_candidates_are_chosen_in_proportion():
    log_g = np.log(np.array([[[1.0, 2.0], [3.0, 1.0]]])) - 1e3  # one datum, M = K = 2
    w = np.array([0.25, 0.75])
    picks = [
        choose(np.repeat(log_g, 1000, 0), w, np.random.default_rng(s)).mean() for s in range(8)
    ]
    first, second = 0.25 * 1 + 0.75 * 2, 0.25 * 3 + 0.75 * 1
    assert np.mean(picks) == pytest.approx(second / (first + second), abs=0.02)


@pytest.mark.parametrize(
    ("draws", "refresh", "renewals"), [(90, 0, 0), (90, 5, 4), (180, 5, 6), (90, 500, 138)]
)
def test_the_plan_covers_every_draw_and_renews_with_draws(draws, refresh, renewals):
    settings = SamplerOptions(
        mcmc_n=draws, burn=17, proposals=512, refresh=refresh
    )  # 4 data a block
    steps = plan(settings, 10)
    drawn = [i for start, stop, _ in steps for i in range(start, stop)]
    assert drawn == list(range(17 + draws))
    assert [j for *_, j in steps if j is not None] == list(range(3 + renewals))
    assert [stop for _, stop, j in steps[:3]] == [0, 0, 0]
    in_burn = [j for _, stop, j in steps if j is not None and 0 < stop <= 17]
    assert in_burn == ([3, 4, 5] if refresh else [])


def fast(problem, matrix=None):
    """The problem with the matrix of its flow in the flow's place."""
    matrix = torch.diag(slope(problem)) if matrix is None else matrix
    parts = problem.flow, problem.mixture, problem.noise_var, problem.concentration
    return Linear(*parts, problem.x, problem.how, matrix)


def run(problem, folder=None, progress=None, **settings):
    options = SamplerOptions(**{"keep_z": 0} | settings)
    return draw(FlowSampler, problem, TRUTH, options, folder, progress)


def test_likelihoods_of_a_linear_flow():
    problem = linear_problem(12, steps=8)
    options = SamplerOptions(proposals=1024)
    chain = Chain(FlowSampler(problem, TRUTH, options), 0)
    chain.begin()
    while plan(options, 12)[chain.steps][1] == 0:
        chain.advance()
    exact = exact_log_like(problem).numpy()
    scale = np.logaddexp.reduce(exact, axis=1, keepdims=True)  # unlikely components are coarse
    error = np.exp(chain.state.log_like - scale) - np.exp(exact - scale)
    assert np.abs(error).max() < 0.02
    assert np.abs(error).mean() < 0.002


def test_few_candidates_that_are_renewed_are_exact_and_fixed_ones_are_not(monkeypatch):
    monkeypatch.setattr("experiments.posterior.proposals.DEFENCE", 0.5)  # poor proposals
    monkeypatch.setattr(flow_sampler, "check", lambda state, options: None)
    problem = fast(linear_problem(15, steps=4))
    mean, sd = exact_weights(problem)
    common = {"seed": 1, "chains": 2, "mcmc_n": 400, "burn": 50, "proposals": 4}
    exact = diagnose(run(problem, refresh=150.0, **common).weights)
    error = np.abs(np.array(exact["mean"]) - mean)
    assert (error < 4 * np.array(exact["mcse_mean"])).all()
    assert (error < 0.25 * sd).all()
    np.testing.assert_allclose(exact["sd"], sd, rtol=0.15)
    fixed = run(problem, refresh=0.0, **common)
    assert (np.abs(fixed.weights.mean((0, 1)) - mean) / sd).max() > 0.3
    assert max(fixed.statistics["error_of_a_fixed_set_in_posterior_sds"]) > 0.1


def test_latents_of_a_linear_flow():
    """With one weight next to 1 the posterior of a latent is Gaussian."""
    problem = fast(linear_problem(6, steps=4))
    problem.concentration[:] = torch.tensor([1e6, 1e-3, 1e-3])
    draws = run(problem, chains=1, mcmc_n=200, burn=10, proposals=256, keep_z=200, refresh=100.0)
    A, m = slope(problem), problem.mixture
    precision = A**2 / problem.noise_var + 1 / m.sds[0] ** 2
    mean = (A * problem.x / problem.noise_var + m.means[0] / m.sds[0] ** 2) / precision
    z = draws.z[0]
    assert z.shape == (200, 6, 2)
    sd = 1 / precision.sqrt().numpy()
    assert np.abs((z.mean(0) - mean.numpy()) / sd).max() < 0.5
    np.testing.assert_allclose(((z - mean.numpy()) / sd).std((0, 1)), 1, atol=0.1)


def test_a_datum_that_the_flow_cannot_carry_is_named():
    problem = linear_problem(4, steps=4)
    problem.x[2] = float("nan")
    with pytest.raises(ValueError, match=r"datum 2, \[nan, .* is not finite"):
        run(problem, chains=1, mcmc_n=8, burn=0, proposals=8)
    walled, _ = matrix_problem(4)
    with pytest.raises(ValueError, match=r"no candidate of datum 0, \[.*\], generates finite data"):
        run(replace(walled, wall=-9.0), chains=1, mcmc_n=8, burn=0, proposals=8)


def test_a_killed_chain_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    problem = fast(linear_problem(10, steps=4))
    settings = {
        "chains": 2,
        "mcmc_n": 120,
        "burn": 10,
        "proposals": 8,
        "keep_z": 4,
        "refresh": 25.0,
    }
    whole = run(problem, **settings)
    monkeypatch.setattr("experiments.posterior.chain_store.SAVE_EVERY", 0.0)

    def die(done, facts):
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(problem, folder=tmp_path, progress=die, **settings)
    seen = []
    again = run(
        problem, folder=tmp_path, progress=lambda done, facts: seen.append(done), **settings
    )
    np.testing.assert_array_equal(again.weights, whole.weights)
    np.testing.assert_array_equal(again.z, whole.z)
    with pytest.raises(ValueError, match="other data or other settings"):
        run(fast(linear_problem(10, steps=4, seed=5)), folder=tmp_path, **settings)


def thin_problem(thin, n=40, spread=0.02):
    """Data with `thin` dimensions a fifth as wide as the noise."""
    variances = [0.7, 0.5] + [spread**2] * thin
    flow = gaussian_flow([1.0, 0.4] + [spread**2] * thin, variances, 2 + thin)
    problem = paper_problem(flow, 0.01, proper=True, how={"solver": "rk4", "steps": 8})
    problem, _ = simulate_data(problem, n, 0)
    matrix = problem.generate(torch.eye(problem.dim).double()).T
    return fast(problem, matrix)


@pytest.mark.parametrize("thin", [0, 2, 4])
def test_data_thinner_than_the_noise(thin):
    problem = thin_problem(thin)
    exact = exact_posterior(problem)
    draws = run(problem, chains=4, mcmc_n=500, burn=50, refresh=4.0, keep_z=100)
    assert draws.statistics["effective_candidates"]["10%"] > 15
    assert draws.warnings == []
    assert draws.fatal == ""
    found = diagnose(draws.weights)
    off = np.abs(np.array(found["mean"]) - exact.weights.mean(0))
    assert (off < 4 * np.array(found["mcse_mean"])).all()
    check_draws(draws, exact)


def test_candidates_of_the_components_alone_are_refused(monkeypatch):
    """Of which too few count: weights are off, and R-hat does not see it."""
    monkeypatch.setattr("experiments.posterior.proposals.DEFENCE", 1 - 1e-9)
    settings, problem = {"chains": 1, "mcmc_n": 50, "burn": 10}, thin_problem(0)
    object.__setattr__(problem, "noise_var", 0.0005)
    with pytest.raises(ValueError, match=r"of 32 candidates a datum, 1.\d count at the 10 %"):
        run(problem, **settings)
    monkeypatch.setattr(flow_sampler, "check", lambda state, options: None)
    assert "--proposals=128" in run(problem, **settings).fatal
    monkeypatch.setattr(flow_sampler, "TOO_FEW", 0.0)
    (line,) = run(problem, **settings).warnings
    assert "1." in line


def test_longer_chains_come_nearer():
    """Renewals go with draws: the candidates' part in the error falls too."""
    problem = fast(linear_problem(15, steps=4))
    mean, sd = exact_weights(problem)
    off = []
    for draws in (50, 1500):
        common = {"chains": 6, "burn": 20, "proposals": 4, "refresh": 10.0}
        w = run(problem, mcmc_n=draws, **common).weights
        off.append(np.sqrt(((w.mean(1) - mean) ** 2).mean(0) / sd**2).max())
    assert off[1] < 0.4 * off[0]


def test_gaussians_are_the_posteriors_of_a_linear_flow():
    """Under each component; shares are what each gives the datum."""
    problem = linear_problem(20, steps=8)
    found, K = proposals(problem), 3
    A, m = slope(problem), problem.mixture
    precision = A**2 / problem.noise_var + 1 / m.sds**2  # [K, d]
    mean = (A * problem.x[:, None] / problem.noise_var + m.means / m.sds**2) / precision
    off = (found.mean[:, :K] - mean) * precision.sqrt()
    assert float(off.square().mean().sqrt()) < 0.15
    sds = found.root[:, :K].square().sum(3).sqrt() * precision.sqrt() / SPREAD
    assert 0.9 < float(sds.mean()) < 1.1
    exact = torch.softmax(exact_log_like(problem), 1)
    share = (found.share[:, :K] / (1 - DEFENCE) - LEAST_SHARE / K) / (1 - LEAST_SHARE)
    assert float((share - exact).abs().mean()) < 0.03


def test_candidates_have_the_density_that_they_are_weighed_by():
    problem = linear_problem(3, steps=8)
    found, rng = proposals(problem), np.random.default_rng(0)
    z = found.draw(np.arange(3), rng.random((3, 4000)), rng.standard_normal((3, 4000, 2)))
    unit = problem.mixture.sds.max(0).values  # [d]
    wide = torch.distributions.Normal(torch.zeros(2).double(), 3 * unit)
    ratio = (wide.log_prob(z).sum(2) - found.log_density(np.arange(3), z)).exp()
    inside = (z.abs() < 1.5 * unit).all(2)  # where both have mass
    box = wide.cdf(1.5 * unit) - wide.cdf(-1.5 * unit)
    np.testing.assert_allclose((ratio * inside).mean(1), float(box.prod()), rtol=0.15)
