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
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.chain_store import (
    ChainStore,
    fingerprint,
    gather,
    kept,
    my_chains,
    record_every,
)
from experiments.posterior.energy import LatentTarget
from experiments.posterior.leapfrog import LENGTH, Point, leapfrog_counts, transition
from experiments.posterior.posterior import Draws, Problem, Truth, start_weights, thinned_weights
from experiments.posterior.step_size import DualAveraging
from torch_utils import seeding

if TYPE_CHECKING:
    from experiments.posterior.mcmc import Settings

SHORT = 3  # leapfrog steps at most, except in every fifth iteration: few data need more, and a
LONG_EVERY = 5  # network call for those few takes nearly as long as one for all
START_STEP = 0.5
JITTER = 0.1  # relative; keeps trajectories of a fixed length from returning to where they began


class Chain:
    """One chain of `parallel`: its state, how it moves, and how it is saved.

    Every iteration draws from a generator of its own, so that a saved chain needs no random state.

    Args:
        target: the latents' posterior.
        settings: of the run.
        number: of the chain.
    """

    def __init__(self, target: LatentTarget, settings: Settings, number: int):
        self.target, self.settings, self.number = target, settings, number
        problem = target.problem
        self.store = ChainStore(
            settings.checkpoint,
            "parallel",
            number,
            fingerprint(problem, settings),
            record_every(problem, settings),
        )
        self.kept = kept(settings)
        n, d = problem.x.shape
        self.iteration = 0
        self.weights = np.empty((settings.draws, len(problem.concentration)))
        self.z = np.empty((len(self.kept), n, d))
        self.sums = problem.x.new_zeros(3, n)  # probability, leapfrog steps, divergences
        self.moves = 0  # leapfrog steps of one latent, burn-in included: gradients
        self.rate = math.nan  # mean acceptance probability of the last iteration
        saved = self.store.load()
        if saved is None:
            self._begin()
        else:
            self._restore(saved)

    @property
    def done(self) -> bool:
        """Whether all draws are made."""
        return self.iteration == self.settings.burn + self.settings.draws

    def _begin(self) -> None:
        """Around f^-1(x) and with weights drawn evenly, so that chains start apart."""
        rng = self._random(0)
        self.w = start_weights(self.weights.shape[1], rng)
        q = self.target.begin(rng)
        misfit, slope = self.target.misfit(q)
        self.point = Point(q, misfit, slope)
        first = self.settings.step_size or START_STEP
        self.steps = DualAveraging.begin(
            torch.full_like(misfit, min(first, LENGTH)), LENGTH, self.settings.accept
        )

    def advance(self) -> None:
        """One iteration."""
        rng, point, s = self._random(self.iteration + 1), self.point, self.settings
        n, d = point.q.shape
        momentum, uniform, jitter = (
            torch.from_numpy(a).to(point.q)
            for a in (rng.standard_normal((n, d)), rng.random(n), rng.uniform(-1, 1, n))
        )
        warm = self.iteration < s.burn
        settled = self.steps.log_step if warm else self.steps.log_average
        most = s.traj_length if self.iteration % LONG_EVERY == 0 else min(SHORT, s.traj_length)
        counts = leapfrog_counts(settled.exp(), most)
        step = settled.exp() * (1 + JITTER * jitter)
        path: list[Tensor] | None = [] if self.store.records(self.iteration) else None
        log_w = torch.from_numpy(np.log(np.maximum(self.w, 1e-300))).to(point.q)
        moved = transition(self.target, point, log_w, step, counts, momentum, uniform, path)
        self.point, self.rate = moved.point, float(moved.probability.mean())
        self.moves += int(counts.sum())
        if path is not None:
            self._record(path)
        if warm:
            self.steps.update(moved.probability)
        else:
            self.sums += torch.stack([moved.probability, counts, moved.diverged]).to(self.sums)
        z = self.target.latents(self.point.q)
        like = self.target.problem.mixture.log_components(z)
        prior = self.target.problem.concentration
        self.w = thinned_weights(like, prior, 1, 0, rng, self.w)[0]
        if not warm:
            self._keep(self.iteration - s.burn, z)
        self.iteration += 1
        if self.store.due or (self.done and s.checkpoint is not None):
            self.save()

    def _keep(self, draw: int, z: Tensor) -> None:
        self.weights[draw] = self.w
        for place, which in enumerate(self.kept):
            if which == draw:
                self.z[place] = z.cpu().numpy()

    def _record(self, path: list[Tensor]) -> None:
        """Logits and latents after every leapfrog step; those that are done stay where they are."""
        path = path + [path[-1]] * (self.settings.traj_length - len(path))
        logits = np.log(np.maximum(self.w, 1e-300))
        states = [self.target.latents(q).flatten().cpu().numpy() for q in path]
        self.store.record(self.iteration, np.stack([np.r_[logits, z] for z in states]))

    def _random(self, iteration: int) -> np.random.Generator:
        return seeding.generator(self.settings.seed, f"parallel chain {self.number}", iteration)

    def save(self) -> None:
        """Save everything that the rest of the chain depends on."""
        tensors = {name: getattr(self.point, name) for name in ("q", "misfit", "slope")}
        tensors |= {name: getattr(self.steps, name) for name in STEP_ARRAYS}
        tensors["sums"] = self.sums
        arrays: dict[str, Any] = {name: t.cpu().numpy() for name, t in tensors.items()}
        self.store.save(
            arrays
            | {"iteration": self.iteration, "w": self.w, "weights": self.weights, "z": self.z}
            | {"step_start": self.steps.start, "step_count": self.steps.count, "moves": self.moves}
        )

    def _restore(self, saved: dict[str, np.ndarray]) -> None:
        like = self.target.centre
        tensor = {
            k: torch.from_numpy(saved[k]).to(like)
            for k in ("q", "misfit", "slope", "sums", *STEP_ARRAYS)
        }
        self.iteration, self.w, self.moves = (
            int(saved["iteration"]),
            saved["w"],
            int(saved["moves"]),
        )
        self.weights, self.z, self.sums = saved["weights"], saved["z"], tensor["sums"]
        self.point = Point(tensor["q"], tensor["misfit"], tensor["slope"])
        log_step, log_average, error = (tensor[k] for k in STEP_ARRAYS)
        first, count = float(saved["step_start"]), int(saved["step_count"])
        self.steps = DualAveraging(
            log_step, log_average, error, count, first, math.log(LENGTH), self.settings.accept
        )


STEP_ARRAYS = ("log_step", "log_average", "error")


def sample(problem: Problem, truth: Truth, settings: Settings) -> Draws:
    """Draw weights and latents by HMC on all latents side by side.

    Processes share the chains. A chain is a batch of its own and has random numbers of its own,
    so that it does not depend on how many others there are, or where they run.

    Args:
        problem: with data x [n, d].
        truth: not used.
        settings: `draws`, `burn`, `chains`, `seed`; `step_size` (of whitened latents, to begin
            with; .5), `traj_length` (most leapfrog steps), `accept`, `thin` (of trajectories),
            `keep_z`, `checkpoint`, `progress`.

    Returns:
        the draws on rank 0, none on other ranks; seconds are those since the start or resume.

    Raises:
        ValueError: if the flow is not finite on the data, or a checkpoint is of another run.
    """
    began = time.monotonic()
    target = LatentTarget(problem, settings.seed)
    chains = [Chain(target, settings, c) for c in my_chains(settings)]
    total = settings.burn + settings.draws
    for iteration in range(total):
        for chain in chains:
            if chain.iteration == iteration:
                chain.advance()
        if settings.progress is not None:
            rates = [chain.rate for chain in chains if chain.iteration == iteration + 1]
            settings.progress(iteration + 1, {"accept": f"{np.mean(rates):.2f}"} if rates else {})
    return _collect(target, chains, settings, began)


def _collect(target: LatentTarget, chains: list[Chain], settings: Settings, began: float) -> Draws:
    """The draws of all ranks' chains, with what there is to know about them."""
    total = settings.burn + settings.draws
    found = gather(
        [
            {
                "weights": chain.weights,
                "z": chain.z,
                "trajectories": chain.store.trajectories(total),
                "means": (chain.sums / max(settings.draws, 1)).cpu().numpy(),
                "step_size": chain.steps.log_average.exp().cpu().numpy(),
                "moves": np.array(float(chain.moves)),
            }
            for chain in chains
        ],
        settings.chains,
    )
    if found is None:
        return Draws(np.empty((0, settings.draws, len(target.problem.concentration))))
    acceptance, steps, diverged = found["means"].transpose(1, 0, 2)  # each [chains, n]
    statistics = {
        "acceptance": float(acceptance.mean()),
        "acceptance_of_data": quantiles(acceptance),
        "step_size_of_data": quantiles(found["step_size"]),
        "leapfrog_steps": float(steps.mean()),
        "divergent_share": float(diverged.mean()),
        "integration": target.problem.how,
        "evaluations_per_gradient": target.cost,
        "trajectory_every": record_every(target.problem, settings),
    }
    starts = settings.chains * len(target.problem.x)
    return Draws(
        found["weights"],
        found["z"] if settings.keep_z else None,
        found["trajectories"],
        statistics,
        target.setup_evaluations + target.cost * (int(found["moves"].sum()) + 3 * starts),
        time.monotonic() - began,
    )


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Smallest, 10 %, median, 90 % and largest value."""
    points = {"min": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "max": 1.0}
    return {name: float(np.quantile(values, at)) for name, at in points.items()}
