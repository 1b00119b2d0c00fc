"""The adapter to hamiltorch, against a stand-in: the library is in no package index."""

import enum
import math
import sys
import types
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from experiments.posterior.chains import draw
from experiments.posterior.hamiltorch_sampler import HamiltorchSampler, Recorder
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import Problem, paper_mixture, simulate_data
from tests.experiments.posterior.linear_gaussian import check_draws, exact_posterior, matrix_problem
from tests.helpers import gaussian_flow

sample = partial(draw, HamiltorchSampler)


class Sampler(enum.Enum):
    """As in the library."""

    HMC = 1
    HMC_NUTS = 3


def gradient(log_prob_func, position):
    position = position.detach().requires_grad_()
    return torch.autograd.grad(log_prob_func(position), position)[0]


def stand_in_sample(calls):
    """HMC as the library documents it; draws and arguments are noted in `calls`."""

    def energy(log_prob_func, position, momentum):
        return float(momentum.square().sum() / 2 - log_prob_func(position))

    def run(log_prob_func, params_init, num_samples, num_steps_per_sample, step_size, burn,
            sampler, desired_accept_rate):  # fmt: skip
        assert 0 < burn < num_samples
        calls.append(locals() | {"start": params_init.clone()})
        position, kept, log_step = params_init.clone(), [params_init.clone()], math.log(step_size)
        for n in range(num_samples):
            momentum = torch.randn(position.shape, dtype=position.dtype)
            h, q = math.exp(log_step), position
            before = energy(log_prob_func, q, momentum)
            p = momentum + h / 2 * gradient(log_prob_func, q)
            for _ in range(num_steps_per_sample):
                q = q + h * p
                slope = gradient(log_prob_func, q)
                p = p + h * slope
            after = energy(log_prob_func, q, p - h / 2 * slope)
            probability = min(1.0, math.exp(min(0.0, before - after)))
            if not math.isfinite(after):  # the library raises LogProbError and rejects
                probability = 0.0
            if float(torch.rand(1)) < probability:
                position = q
            if n < burn:
                log_step += (probability - desired_accept_rate) / math.sqrt(n + 1)
            if n > burn:
                kept.append(position.clone())
        return kept

    return run


@pytest.fixture
def calls(monkeypatch):
    noted: list = []
    module = types.ModuleType("hamiltorch")
    module.Sampler, module.sample = Sampler, stand_in_sample(noted)
    monkeypatch.setitem(sys.modules, "hamiltorch", module)
    return noted


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "hamiltorch", None)
    with pytest.raises(ValueError, match=r"pip install git\+https://github.com/AdamCobb/hamilt"):
        sample(*matrix_problem(2), SamplerOptions())


def test_burn_in_is_needed(calls):
    with pytest.raises(ValueError, match=r"--burn=0: .* at least 1"):
        sample(*matrix_problem(2), SamplerOptions(burn=0))


@pytest.mark.parametrize(("keep", "step"), [(2, 1e-2), (1, 1e-3)])
def test_the_library_gets_the_published_settings(calls, keep, step):
    flow = gaussian_flow([1.0, 0.5], [0.6, 0.9], keep)
    mixture = paper_mixture(flow.schedule.latent_variance())
    how = {"solver": "angle_euler", "steps": 1}
    problem = Problem(flow, mixture, 0.01, torch.zeros(3).double(), how=how)
    problem, truth = simulate_data(problem, 2, 0)
    sample(problem, truth, SamplerOptions(mcmc_n=2, burn=3, chains=1))
    (call,) = calls
    assert call["num_steps_per_sample"] == 15
    assert call["step_size"] == step
    assert call["desired_accept_rate"] == 0.8
    assert call["sampler"] is Sampler.HMC_NUTS
    assert (call["num_samples"], call["burn"]) == (6, 3)
    logits, z = call["start"][:3], call["start"][3:].reshape(2, 2)
    torch.testing.assert_close(logits.exp(), torch.tensor([0.5, 0.25, 0.25]).double())
    torch.testing.assert_close(z, truth.z)
    given = sample(
        problem, truth, SamplerOptions(mcmc_n=2, burn=3, chains=1, step_size=0.5, acpt=0.6)
    )
    assert (calls[1]["step_size"], calls[1]["desired_accept_rate"]) == (0.5, 0.6)
    assert given.statistics["step_size_at_start"] == 0.5


def test_the_exact_posterior_of_a_linear_flow_is_recovered(calls):
    problem, truth = matrix_problem(5)
    settings = SamplerOptions(mcmc_n=300, burn=60, chains=1, keep_z=300, step_size=0.1)
    draws = sample(problem, truth, settings)
    check_draws(draws, exact_posterior(problem), latents=0.2)
    assert draws.weights.shape == (1, 300, 3)
    assert draws.trajectories.shape == (1, 72, 15, 3 + 5 * 2)
    assert 0.6 < draws.statistics["acceptance"][0] < 0.95
    last = draws.trajectories[0, -1]  # consecutive positions of a trajectory are steps apart
    lengths = np.linalg.norm(np.diff(last, axis=0), axis=1)
    assert lengths.max() < 4 * lengths.min()


def test_an_energy_that_is_not_finite_counts_as_a_rejection(calls):
    problem, truth = matrix_problem(4, wall=0.3)
    settings = SamplerOptions(mcmc_n=40, burn=20, chains=1, keep_z=40, step_size=0.1)
    draws = sample(problem, truth, settings)
    assert (draws.z[..., 0] <= problem.wall).all()
    assert np.isfinite(draws.weights).all()
    assert len(np.unique(draws.weights[0, :, 0])) > 5


def test_finished_chains_are_kept(calls, tmp_path):
    problem, truth = matrix_problem(3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    settings = SamplerOptions(mcmc_n=4, burn=3, chains=2, thin=2, keep_z=2)
    whole = sample(problem, truth, settings)
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(whole.weights[0], whole.weights[1])
    sample(problem, truth, replace(settings, chains=1), tmp_path)
    assert len(calls) == 3
    resumed = sample(problem, truth, settings, tmp_path)
    assert len(calls) == 4  # the second chain alone
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    np.testing.assert_array_equal(resumed.z, whole.z)
    np.testing.assert_array_equal(resumed.trajectories, whole.trajectories)


def test_positions_are_sorted_into_trajectories():
    found: dict[int, list[float]] = {}
    recorder = Recorder(2, lambda k, path: found.update({k: path[:, 0].tolist()}))
    nan = math.nan
    asked = [0, 0, 1, 2, 2]  # accepted: goes on from 2
    asked += [2, 2, 3, 4, 4]  # rejected: again from 2
    asked += [2, 2, 5, nan, nan]  # rejected: again from 2
    asked += [2, 6, 7, 7]
    for value in asked:
        recorder.see(torch.tensor([float(value), 0.0]))
    assert found[0] == [1, 2]
    assert found[1] == [3, 4]
    assert found[2][0] == 5
    assert math.isnan(found[2][1])
    assert found[3] == [6, 7]
    assert recorder.number == 4
