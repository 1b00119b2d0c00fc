"""HMC on all latents side by side: exact posteriors, rejections, step sizes, resuming."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from experiments.posterior import parallel_sampler
from experiments.posterior.chains import Chain, draw
from experiments.posterior.energy import LatentTarget
from experiments.posterior.leapfrog import Point, leapfrog_counts, transition
from experiments.posterior.options import SamplerOptions
from experiments.posterior.parallel_sampler import ParallelSampler
from flow.inference.step_size import DualAveraging
from tests.experiments.posterior.linear_gaussian import (
    check_draws,
    exact_posterior,
    linear_problem,
    matrix_problem,
)

sample = partial(draw, ParallelSampler)


@pytest.mark.parametrize(
    "make", [matrix_problem, pytest.param(linear_problem, marks=pytest.mark.slow)]
)
def test_the_exact_posterior_of_a_linear_flow_is_recovered(make):
    problem, truth = make(60)
    settings = SamplerOptions(mcmc_n=200, burn=80, chains=2, keep_z=200)
    draws = sample(problem, truth, settings)
    check_draws(draws, exact_posterior(problem))
    found = draws.statistics
    assert 0.75 < found["acceptance"] < 0.95  # above .8 where the longest step allowed is that good
    assert found["acceptance_of_data"]["min"] > 0.5  # each has a step size of its own
    assert found["divergent_share"] == 0
    steps = draws.statistics["leapfrog_steps"] * 2 * 60  # of an iteration, all chains and data
    if make is linear_problem:
        assert found["evaluations_per_gradient"] == 4
        assert draws.evaluations == pytest.approx(4 * steps * 280, rel=0.15)
    assert draws.weights.shape == (2, 200, 3)
    assert draws.trajectories.shape == (2, 56, 15, 3 + 60 * 2)


def moved(target, q, step, counts, seed=0, path=None):
    rng = np.random.default_rng(seed)
    misfit, slope = target.misfit(q)
    p, u = (torch.from_numpy(a) for a in (rng.standard_normal(q.shape), rng.random(len(q))))
    log_w = torch.tensor([0.2, 0.3, 0.5]).double().log()
    here = Point(q, misfit, slope)
    return transition(target, here, log_w, step, counts, p, u, path)


def test_small_steps_conserve_energy_and_large_ones_are_rejected_one_by_one():
    target = LatentTarget(matrix_problem(6)[0])
    counts = torch.full((6,), 4)
    step = torch.tensor([1e-3, 30.0, 1e-3, 1e-3, 30.0, 1e-3]).double()
    found = moved(target, target.start, step, counts)
    small = step < 1
    assert float(found.probability[small].min()) > 0.9999
    assert bool(found.accepted[small].all())
    assert not bool(found.accepted[~small].any())
    torch.testing.assert_close(found.point.q[~small], target.start[~small], rtol=0, atol=0)
    assert found.diverged.tolist() == (~small).tolist()


def test_each_latent_takes_its_own_number_of_steps():
    target = LatentTarget(matrix_problem(3)[0])
    step = torch.full((3,), 0.2).double()
    path: list = []
    moved(target, target.start, step, torch.tensor([1, 3, 2]), path=path)
    same = [[bool((path[k][i] == path[k - 1][i]).all()) for i in range(3)] for k in (1, 2)]
    assert same == [[True, False, False], [True, False, True]]
    counts = leapfrog_counts(torch.tensor([0.01, 0.5, 1.5]), 15)
    assert counts.tolist() == [15, 3, 1]


def test_an_energy_that_is_not_finite_counts_as_a_rejection():
    problem, truth = matrix_problem(5, wall=0.3)
    target = LatentTarget(problem, pilots=0)
    step = torch.full((5,), 1.0).double()
    hit = 0
    for seed in range(40):
        path: list = []
        found = moved(target, target.start, step, torch.full((5,), 2), seed, path)
        wall = (target.latents(path[-1])[:, 0] > problem.wall) | ~torch.isfinite(path[-1]).all(1)
        wall |= target.latents(path[0])[:, 0] > problem.wall
        hit += int(wall.sum())
        assert bool((found.probability[wall] == 0).all())
        assert not bool(found.accepted[wall].any())
        assert bool(found.diverged[wall].all())
        assert bool(torch.isfinite(found.point.q).all())
    assert hit > 5
    draws = sample(problem, truth, SamplerOptions(mcmc_n=30, burn=20, chains=1, keep_z=30))
    assert np.isfinite(draws.weights).all()
    assert (draws.z[..., 0] <= problem.wall).all()
    assert draws.statistics["divergent_share"] > 0


def test_step_sizes_reach_the_acceptance_aimed_at():
    """Where acceptance falls as exp(-c step), each of many targets has a step of its own."""
    rates = torch.tensor([0.1, 1.0, 10.0]).double()
    steps = DualAveraging.begin(torch.full((3,), 0.5).double(), 100.0, 0.8)
    for _ in range(2000):
        steps = steps.updated(torch.exp(-rates * steps.log_step.exp()))
    found = torch.exp(-rates * steps.log_average.exp())
    torch.testing.assert_close(found, torch.full((3,), 0.8).double(), atol=0.01, rtol=0)
    capped = DualAveraging.begin(torch.full((2,), 0.5).double(), 1.5, 0.8)
    for _ in range(50):
        capped = capped.updated(torch.tensor([1.0, torch.nan]).double())  # a NaN is no acceptance
    assert float(capped.log_step[0].exp()) == pytest.approx(1.5)
    assert float(capped.log_step[1].exp()) < 1e-3


def test_a_resumed_run_is_the_same_run(tmp_path, monkeypatch):
    problem, truth = matrix_problem(8)
    settings = SamplerOptions(mcmc_n=12, burn=8, chains=2, keep_z=5, thin=4)
    whole = sample(problem, truth, settings)

    class Killed(Exception):
        pass

    def kill(done, facts):
        if done == 14:
            raise Killed

    monkeypatch.setattr("experiments.posterior.chain_store.SAVE_EVERY", 0.0)
    with pytest.raises(Killed):
        sample(problem, truth, settings, tmp_path, kill)
    chain = Chain(ParallelSampler(problem, truth, settings), 0, tmp_path)
    chain.begin()
    assert chain.at
    resumed = sample(problem, truth, settings, tmp_path)
    again = sample(problem, truth, settings, tmp_path)  # nothing is left to do
    for found in (resumed, again):
        np.testing.assert_array_equal(found.weights, whole.weights)
        np.testing.assert_array_equal(found.z, whole.z)
        np.testing.assert_array_equal(found.trajectories, whole.trajectories)
        assert found.statistics == whole.statistics
        assert found.evaluations == whole.evaluations


def test_a_chain_does_not_depend_on_how_many_there_are():
    problem, truth = matrix_problem(6)
    settings = SamplerOptions(mcmc_n=4, burn=3)
    one, three = (sample(problem, truth, replace(settings, chains=c)) for c in (1, 3))
    np.testing.assert_array_equal(one.weights[0], three.weights[0])
    assert not np.array_equal(three.weights[0], three.weights[1])
    other = sample(problem, truth, replace(settings, chains=1, seed=5))
    assert not np.array_equal(one.weights, other.weights)


def test_the_checkpoint_of_other_data_is_refused(tmp_path):
    settings = SamplerOptions(mcmc_n=2, burn=1, chains=1)
    sample(*matrix_problem(4), settings, tmp_path)
    with pytest.raises(ValueError, match=r"parallel-chain00.npz is a chain of other data"):
        sample(*matrix_problem(4, seed=1), settings, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        sample(*matrix_problem(4), replace(settings, acpt=0.7), tmp_path)


def test_every_fifth_iteration_is_long(monkeypatch):
    asked = []
    real = parallel_sampler.leapfrog_counts
    monkeypatch.setattr(
        parallel_sampler, "leapfrog_counts", lambda s, most: asked.append(most) or real(s, most)
    )
    problem, truth = matrix_problem(4)
    sample(problem, truth, SamplerOptions(mcmc_n=4, burn=3, chains=1))
    assert asked == [15, 3, 3, 3, 3, 15, 3]
    asked.clear()
    sample(problem, truth, SamplerOptions(mcmc_n=2, burn=0, chains=1, traj_length=2))
    assert asked == [2, 2]
