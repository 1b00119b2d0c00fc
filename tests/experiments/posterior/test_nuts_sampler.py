"""NUTS on weights and latents together: exact posteriors, rejections, resuming."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from experiments.posterior.chains import draw
from experiments.posterior.energy import LatentTarget
from experiments.posterior.nuts_sampler import Joint, NutsSampler, begin, tree_depth
from experiments.posterior.options import SamplerOptions
from tests.experiments.posterior.linear_gaussian import (
    check_draws,
    exact_posterior,
    linear_problem,
    matrix_problem,
)

sample = partial(draw, NutsSampler)


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyro.infer", None)
    problem, truth = matrix_problem(2)
    with pytest.raises(ValueError, match=r"needs pyro.*: pip install pyro-ppl"):
        sample(problem, truth, SamplerOptions())


def test_trees_have_at_most_the_steps_given():
    assert [tree_depth(n) for n in (1, 2, 3, 7, 14, 15, 16)] == [1, 1, 2, 3, 3, 4, 4]


def test_chains_begin_in_the_posterior_and_apart():
    problem, _ = matrix_problem(12)
    target = LatentTarget(problem)
    found = []
    for chain in (0, 1):
        position, scale = begin(target, np.random.default_rng(chain))
        log_w, z = Joint(target, scale).split(position)
        assert float(log_w.exp().sum()) == pytest.approx(1)
        assert bool(((z - problem.inflate(problem.x)[0]).abs() < 1.5).all())
        found.append(z)
    assert not torch.equal(*found)


@pytest.fixture
def pyro():
    return pytest.importorskip("pyro")


@pytest.mark.slow
@pytest.mark.usefixtures("pyro")
@pytest.mark.parametrize("make", [matrix_problem, linear_problem])
def test_the_exact_posterior_of_a_linear_flow_is_recovered(make):
    problem, truth = make(20)
    settings = SamplerOptions(mcmc_n=200, burn=60, chains=1, keep_z=200)
    draws = sample(problem, truth, settings)
    check_draws(draws, exact_posterior(problem), latents=0.2)
    found = draws.statistics
    assert 1 < found["gradients_per_draw"] <= 15
    assert found["divergent_share"] == 0
    assert draws.trajectories.shape == (1, 52, 15, 3 + 20 * 2)


@pytest.mark.usefixtures("pyro")
def test_an_energy_that_is_not_finite_counts_as_a_rejection():
    problem, truth = matrix_problem(5, wall=0.3)
    draws = sample(
        problem, truth, SamplerOptions(mcmc_n=60, burn=25, chains=1, keep_z=60, step_size=2.0)
    )
    assert np.isfinite(draws.weights).all()
    assert (draws.z[..., 0] <= problem.wall).all()
    assert draws.statistics["divergent_share"] > 0  # the wall was met
    assert len(np.unique(draws.weights[0, :, 0])) > 5  # and the chain moved on


@pytest.mark.usefixtures("pyro")
def test_a_resumed_run_is_the_same_run(tmp_path, monkeypatch):
    problem, truth = matrix_problem(6)
    settings = SamplerOptions(mcmc_n=8, burn=6, chains=2, keep_z=4, thin=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = sample(problem, truth, settings)
    assert torch.equal(torch.get_rng_state(), before)

    class Killed(Exception):
        pass

    monkeypatch.setattr("experiments.posterior.chain_store.SAVE_EVERY", 0.0)
    for at in (2, 8, 11):  # in the first chain's warm-up, in the draws, later in these
        seen = []

        def kill(done, facts, at=at, seen=seen):
            seen.append(done)
            if done == at:
                raise Killed

        with pytest.raises(Killed):
            sample(problem, truth, settings, tmp_path, kill)
    assert seen[0] == 8  # neither the warm-up nor the draws that were saved are repeated
    resumed = sample(problem, truth, settings, tmp_path)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    np.testing.assert_array_equal(resumed.z, whole.z)
    np.testing.assert_array_equal(resumed.trajectories, whole.trajectories)
