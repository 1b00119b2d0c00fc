"""Calibration checks: they pass what is right and catch what is wrong."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from experiments.posterior import mcmc, plots, sbc, tarp
from experiments.posterior.options import McmcOptions
from experiments.posterior.uniformity import assess, band, ecdf
from tests.experiments.posterior.linear import linear_problem

POINTS = np.linspace(0, 1, 51)[1:-1]
options = partial(McmcOptions, outdir="", network="")


def test_the_band_holds_whole_uniform_ecdfs_as_often_as_it_says():
    low, high = band(100, POINTS)
    rng = np.random.default_rng(5)
    curves = [ecdf(rng.random(100), POINTS) for _ in range(1000)]
    inside = np.mean([((low <= c) & (c <= high)).all() for c in curves])
    assert inside == pytest.approx(0.95, abs=0.03)


def test_assessment_tells_uniform_values_from_others():
    rng = np.random.default_rng(0)
    good, bad = assess(rng.random(400), POINTS), assess(rng.beta(2, 2, 400), POINTS)
    assert good["share_of_ecdf_outside_band"] == 0
    assert min(good["chi_square_p"], good["kolmogorov_smirnov_p"]) > 0.01
    assert bad["share_of_ecdf_outside_band"] > 0.2
    assert max(bad["chi_square_p"], bad["kolmogorov_smirnov_p"]) < 1e-3
    assert bad["coverage_of_central_intervals"]["0.5"] > 0.6


@pytest.fixture(scope="module")
def problem():
    return linear_problem(0, steps=4)


def test_ranks_of_a_right_posterior_are_uniform(problem):
    found = sbc.calibrate(problem, options(sims=50, sim_n=20, grid=41, seed=1))
    assert found.arrays["ranks"].shape == found.arrays["weights"].shape == (50, 3)
    summary = found.summary
    for tests in summary["ranks"].values():
        assert tests["share_of_ecdf_outside_band"] < 0.05
        assert tests["chi_square_p"] > 1e-3
    np.testing.assert_allclose(summary["mean_of_standardised_error"], 0, atol=0.45)
    np.testing.assert_allclose(summary["sd_of_standardised_error"], 1, atol=0.35)


def test_ranks_show_a_wrong_model(problem, monkeypatch):
    """Data with four times the noise variance that the posterior is told of."""
    honest = sbc.simulate_data

    def noisy(told, *args, **kwargs):
        data, truth = honest(replace(told, noise_var=16 * told.noise_var), *args, **kwargs)
        return replace(data, noise_var=told.noise_var), truth

    monkeypatch.setattr(sbc, "simulate_data", noisy)
    found = sbc.calibrate(problem, options(sims=50, sim_n=20, grid=41, seed=1))
    worst = max(t["share_of_ecdf_outside_band"] for t in found.summary["ranks"].values())
    assert worst > 0.3


def test_an_improper_prior_is_refused(problem):
    improper = replace(problem, concentration=problem.concentration * 0)
    with pytest.raises(ValueError, match="must be proper"):
        sbc.calibrate(improper, options(sims=10, sim_n=5, grid=21))


def test_coverage_of_latent_posteriors():
    """Weighted balls cover as they should; unweighted ones ignore the prior, which shows."""
    problem = replace(linear_problem(0, steps=4), noise_var=0.5)
    found = tarp.expected_coverage(problem, options(sims=256, proposals=256, seed=2))
    exact, flat = (found.summary[name] for name in tarp.POSTERIORS)
    assert exact["kolmogorov_smirnov_p"] > 0.01
    assert exact["share_of_ecdf_outside_band"] < 0.05
    assert flat["kolmogorov_smirnov_p"] < 1e-3
    assert all(len(c) == 256 for c in found.arrays.values())


def test_posteriors_on_a_line_are_drawn_without_a_density(tmp_path):
    share = np.linspace(0.2, 0.8, 60).reshape(2, 30)
    weights = np.stack([share, 1 - share, np.zeros_like(share)], axis=2)  # the third has collapsed
    report = {"truth": [0.5, 0.3, 0.2], **mcmc.diagnose(weights)}
    plots.posterior(tmp_path / "posterior.png", weights, report, "collapsed")
    assert (tmp_path / "posterior.png").stat().st_size > 0
