r"""Hamiltonian Monte Carlo: many chains side by side, gradients through the steps of the flow.

Chains begin where tempered Monte Carlo (`smc`) with as few particles has carried them, one in each,
so that modes have the chains that they should. (Of the evidence so few tell too little: it is NaN.)
In the many dimensions of images that takes hundreds of calls of the flow and more particles, and
gradients carry the chains instead (`annealing`).

Trajectories are a quarter turn long in the units of the chains' covariance, fitted from all of
them and refitted half way through the warm-up, or of the one that a Hessian tells; one step size,
of all chains, adapts to their acceptance.

Reference: Neal 2011, "MCMC using Hamiltonian dynamics".
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import Json
from flow.inference.annealing import LENGTH, anneal, trajectory
from flow.inference.smc import Ellipse, Smc
from flow.inference.step_size import DualAveraging
from flow.inference.target import Ask, Outcome, Sampler, Values, effective_size
from torch_utils import seeding

Start = Literal["smc", "annealing"]
JITTER = 0.2  # by which step sizes vary, so that no trajectory closes on itself


@dataclass(frozen=True)
class Hmc:
    """Settings.

    Attributes:
        chains: side by side.
        warmup: transitions in which the step size adapts, after the start.
        draws: of each chain, at least.
        leapfrogs: steps of a trajectory, at most.
        accept: acceptance aimed at.
        moves: of the start, at each temperature.
        start: "smc" or "annealing".
    """

    chains: int = 64
    warmup: int = 60
    draws: int = 50
    leapfrogs: int = 16
    accept: float = 0.8
    moves: int = 9
    start: Start = "smc"

    def enough(self, n: int) -> Hmc:
        """With draws enough for n of them."""
        return replace(self, draws=max(self.draws, -(-n // self.chains)))

    def sample(self, seed: int, d: int, like: Tensor) -> Sampler:
        """A sampler of one observation, see `smc.Smc.sample`."""
        z, ellipse, step, facts = yield from self.begin(seed, d, like)
        here = yield Ask(z, True)
        average = DualAveraging.begin(like.new_full((1,), step), LENGTH, self.accept)
        log_step, kept, rates = average.log_step, list[Values](), list[float]()
        for k in range(self.warmup + self.draws):
            if k == self.warmup // 2 and self.start == "smc":
                ellipse, kept = fitted(torch.stack([v.z for v in kept], 1)), []
                average = DualAveraging.begin(log_step.exp(), LENGTH, self.accept)
            if k == self.warmup:
                log_step, kept = average.log_average, []
            rng = seeding.generator(seed, "hmc", k)
            step = float(log_step.exp()) * (1 + JITTER * (2 * rng.random() - 1))
            here, rate = yield from trajectory(here, ellipse, step, rng, self.leapfrogs)
            kept.append(here)
            if k < self.warmup:
                average = average.updated(rate.mean()[None])
                log_step = average.log_step
            else:
                rates.append(float(rate.mean()))
        z, x = (torch.stack(v, 1) for v in zip(*((v.z, v.x) for v in kept), strict=True))
        facts |= {"accepted": float(np.mean(rates)), "step_size": float(log_step.exp()),
                  "chains": self.chains, "warmup": self.warmup}  # fmt: skip
        return Outcome(x, z, math.nan, effective_size(z), facts)

    def begin(
        self, seed: int, d: int, like: Tensor
    ) -> Generator[Ask, Values, tuple[Tensor, Ellipse, float, Json]]:
        """Where chains begin, [chains, d], in which units and steps they move, and what to tell."""
        if self.start == "annealing":
            z, ellipse, step, path = yield from anneal(seed, self.chains, d, like)
            return z, ellipse, step, {"temperatures": path}
        outcome = yield from Smc(self.chains, self.moves).sample(seed, d, like)
        told = {"temperatures": outcome.facts["temperatures"]}
        return outcome.z[:, -1], fitted(outcome.z), 0.5, told


def fitted(chains: Tensor) -> Ellipse:
    """The Gaussian of draws [chains, draws, d]."""
    z = chains.flatten(0, 1)
    return Ellipse.fitted(z, z.new_full((len(z),), 1 / len(z)))
