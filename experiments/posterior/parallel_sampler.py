r"""Gradient HMC on all latents side by side: the sampler `parallel`.

Given the weights w the latents z_i are independent of each other. So one iteration is

    1. for every datum, a Hamiltonian trajectory of its own z_i given w, with a step size and an
       acceptance of its own; all data in one batch through the flow;
    2. for the weights, Gibbs draws of component labels given z and w, and of w given the labels.

A joint chain on all latents accepts or rejects them together, and so needs steps that shrink with
their number; here nothing depends on it. The posterior is the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.chains import Chain, Facts, Sampler, of_gradients
from experiments.posterior.energy import LatentTarget
from experiments.posterior.leapfrog import LENGTH, Point, leapfrog_counts, transition
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import (
    SWEEPS,
    Draws,
    Problem,
    Truth,
    gibbs_weights,
    start_weights,
)
from flow.inference.step_size import DualAveraging
from torch_utils import seeding

NAME = "parallel"
SHORT = 3  # leapfrog steps at most, except in every fifth iteration: few data need more, and a
LONG_EVERY = 5  # network call for those few takes nearly as long as one for all
START_STEP = 0.5
JITTER = 0.1  # relative; keeps trajectories of a fixed length from returning to where they began


class State(NamedTuple):
    """A chain between two iterations.

    Attributes:
        point: latents in whitened units.
        steps: step sizes of the latents.
        w: weights, [K].
        sums: over draws, of acceptance probabilities, leapfrog steps and divergences, [3, n].
        moves: leapfrog steps of one latent, burn-in included: gradients.
        rate: mean acceptance probability of the last iteration.
    """

    point: Point
    steps: DualAveraging
    w: np.ndarray
    sums: Tensor
    moves: int = 0
    rate: float = math.nan


def start(target: LatentTarget, options: SamplerOptions, chain: int) -> State:
    """Around f^-1(x) and with weights drawn evenly, so that chains start apart."""
    rng = _random(options, chain, 0)
    w = start_weights(len(target.problem.concentration), rng)
    q = target.begin(rng)
    misfit, slope = target.misfit(q)
    first = min(options.step_size or START_STEP, LENGTH)
    steps = DualAveraging.begin(torch.full_like(misfit, first), LENGTH, options.acpt)
    return State(Point(q, misfit, slope), steps, w, q.new_zeros(3, len(q)))


def advance(
    target: LatentTarget, options: SamplerOptions, state: State, chain: int, iteration: int,
    path: list[Tensor] | None = None,
) -> State:  # fmt: skip
    """One iteration of a chain.

    Args:
        target: the latents' posterior.
        options: of the sampler.
        state: of the chain.
        chain: its number.
        iteration: from 0 on, of which the first `burn` adapt step sizes.
        path: gets whitened latents after each leapfrog step, [n, d].
    """
    rng, point, steps = _random(options, chain, iteration + 1), state.point, state.steps
    n, d = point.q.shape
    momentum, uniform, jitter = (
        torch.from_numpy(a).to(point.q)
        for a in (rng.standard_normal((n, d)), rng.random(n), rng.uniform(-1, 1, n))
    )
    warm = iteration < options.burn
    size = (steps.log_step if warm else steps.log_average).exp()
    most = options.traj_length if iteration % LONG_EVERY == 0 else min(SHORT, options.traj_length)
    counts = leapfrog_counts(size, most)
    log_w = torch.from_numpy(_logits(state.w)).to(point.q)
    size = size * (1 + JITTER * jitter)
    moved = transition(target, point, log_w, size, counts, momentum, uniform, path)
    sums = state.sums
    if not warm:
        sums = sums + torch.stack([moved.probability, counts, moved.diverged]).to(sums)
    like = target.problem.mixture.log_components(target.latents(moved.point.q))
    return State(
        moved.point,
        steps.updated(moved.probability) if warm else steps,
        gibbs_weights(like, target.problem.concentration, 1, 0, rng, state.w, SWEEPS)[0],
        sums,
        state.moves + int(counts.sum()),
        float(moved.probability.mean()),
    )


class ParallelSampler(Sampler):
    """HMC on all latents side by side.

    A step size given is that of whitened latents to begin with, `traj_length` the most leapfrog
    steps.

    Raises:
        ValueError: if the flow is not finite on the data.
    """

    name, state = NAME, State

    def __init__(
        self, problem: Problem, truth: Truth, options: SamplerOptions, folder: Path | None = None
    ):
        self.target = LatentTarget(problem, options.seed)
        super().__init__(self.target.problem, options, options.burn + options.mcmc_n)

    def init(self, chain: Chain) -> State:
        """See `start`."""
        return start(self.target, self.options, chain.number)

    def step(self, state: State, iteration: int, chain: Chain) -> tuple[State, int, Facts]:
        """`advance`, leaving with the chain what is to be kept."""
        target, options = self.target, self.options
        path: list[Tensor] | None = [] if chain.store.records(iteration) else None
        after = advance(target, options, state, chain.number, iteration, path)
        if path is not None:  # those that are done stay where they are
            path = path + [path[-1]] * (options.traj_length - len(path))
            places = [target.latents(q).flatten().cpu().numpy() for q in path]
            chain.record(iteration, np.stack([np.r_[_logits(state.w), z] for z in places]))
        z = target.latents(after.point.q)
        chain.draw(iteration - options.burn, after.w[None], lambda _: z[None].cpu().numpy())
        return after, iteration + 1, {"accept": f"{after.rate:.2f}"}

    def outcome(self, state: State, chain: Chain) -> dict[str, np.ndarray]:
        """Means over the draws of a finished chain, and what its step sizes have become."""
        return {
            "means": (state.sums / max(self.options.mcmc_n, 1)).cpu().numpy(),
            "step_size": state.steps.log_average.exp().cpu().numpy(),
            "moves": np.array(float(state.moves)),
        }

    def summary(self, found: dict[str, np.ndarray]) -> Draws:
        """The draws, with what there is to know about the chains."""
        acceptance, steps, diverged = found["means"].transpose(1, 0, 2)  # each [chains, n]
        statistics = {
            "acceptance": float(acceptance.mean()),
            "acceptance_of_data": quantiles(acceptance),
            "step_size_of_data": quantiles(found["step_size"]),
            "leapfrog_steps": float(steps.mean()),
            "divergent_share": float(diverged.mean()),
            **of_gradients(self, self.target.cost),
        }
        starts = self.options.chains * len(self.problem.x)
        gradients = int(found["moves"].sum()) + 3 * starts
        cost = self.target.setup_evaluations + self.target.cost * gradients
        return Draws(found["weights"], statistics=statistics, evaluations=cost)


def _logits(w: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(w, 1e-300))


def _random(options: SamplerOptions, chain: int, iteration: int) -> np.random.Generator:
    return seeding.generator(options.seed, f"{NAME} chain {chain}", iteration)


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Smallest, 10 %, median, 90 % and largest value."""
    points = {"min": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "max": 1.0}
    return {name: float(np.quantile(values, at)) for name, at in points.items()}
