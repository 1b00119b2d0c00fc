r"""Hamiltonian Monte Carlo: many chains side by side, gradients through the steps of the flow.

Chains begin where tempered Monte Carlo (`smc`) with as few particles has carried them, one in each,
so that modes have the chains that they should. (Of the evidence so few tell too little: it is NaN.)
Trajectories are a quarter turn long in the units of the chains' covariance, fitted from all of
them, and refitted half way through the warm-up; one step size, of all chains, adapts to their
acceptance.

Reference: Neal 2011, "MCMC using Hamiltonian dynamics".
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flow.inference.smc import Ellipse, Smc
from flow.inference.step_size import DualAveraging
from flow.inference.target import Ask, Outcome, Sampler, Values, effective_size
from torch_utils import seeding

LENGTH = math.pi / 2  # of a trajectory: a quarter turn forgets a Gaussian's start
JITTER = 0.2  # by which step sizes vary, so that no trajectory closes on itself


@dataclass(frozen=True)
class Hmc:
    """Settings.

    Attributes:
        chains: side by side.
        warmup: transitions in which the step size adapts, after the start by `smc`.
        draws: of each chain, at least.
        leapfrogs: steps of a trajectory, at most.
        accept: acceptance aimed at.
        moves: of the start, at each temperature.
    """

    chains: int = 64
    warmup: int = 60
    draws: int = 50
    leapfrogs: int = 16
    accept: float = 0.8
    moves: int = 9

    def enough(self, n: int) -> Hmc:
        """With draws enough for n of them."""
        return replace(self, draws=max(self.draws, -(-n // self.chains)))

    def sample(self, seed: int, d: int, like: Tensor) -> Sampler:
        """A sampler of one observation, see `smc.Smc.sample`."""
        begun = yield from Smc(self.chains, self.moves).sample(seed, d, like)
        ellipse = fitted(begun.z)
        here = yield Ask(begun.z[:, -1], True)
        average = DualAveraging.begin(like.new_full((1,), 0.5), LENGTH, self.accept)
        log_step, kept, rates = average.log_step, list[Values](), list[float]()
        for k in range(self.warmup + self.draws):
            if k == self.warmup // 2:
                ellipse, kept = fitted(torch.stack([v.z for v in kept], 1)), []
                average = DualAveraging.begin(log_step.exp(), LENGTH, self.accept)
            if k == self.warmup:
                log_step, kept = average.log_average, []
            rng = seeding.generator(seed, "hmc", k)
            step = float(log_step.exp()) * (1 + JITTER * (2 * rng.random() - 1))
            here, rate = yield from self.transition(here, ellipse, step, rng)
            kept.append(here)
            if k < self.warmup:
                average = average.updated(rate.mean()[None])
                log_step = average.log_step
            else:
                rates.append(float(rate.mean()))
        z, x = (torch.stack(v, 1) for v in zip(*((v.z, v.x) for v in kept), strict=True))
        facts = {"accepted": float(np.mean(rates)), "step_size": float(log_step.exp()),
                 "chains": self.chains, "warmup": self.warmup,
                 "temperatures": begun.facts["temperatures"]}  # fmt: skip
        return Outcome(x, z, math.nan, effective_size(z), facts)

    def transition(
        self, here: Values, ellipse: Ellipse, step: float, rng: np.random.Generator
    ) -> Generator[Ask, Values, tuple[Values, Tensor]]:
        """One trajectory of every chain: where they are then, and acceptance probabilities [n]."""
        momentum = torch.from_numpy(rng.standard_normal(here.z.shape)).to(here.z)
        uniform = torch.from_numpy(rng.random(len(here.z))).to(here.z)
        count = min(max(1, round(LENGTH / step)), self.leapfrogs)
        there, p = here, momentum
        for _ in range(count):
            p = p + 0.5 * step * force(there, ellipse)
            there = yield Ask(there.z + step * p @ ellipse.L.T, True)
            p = p + 0.5 * step * force(there, ellipse)
        rise = energy(there) - energy(here) + 0.5 * (p.square() - momentum.square()).sum(1)
        rate = torch.exp(-rise.nan_to_num(math.inf, math.inf, math.inf).clamp(min=0))
        take = uniform < rate
        return there.where(take, here), rate


def fitted(chains: Tensor) -> Ellipse:
    """The Gaussian of draws [chains, draws, d]."""
    z = chains.flatten(0, 1)
    return Ellipse.fitted(z, z.new_full((len(z),), 1 / len(z)))


def energy(at: Values) -> Tensor:
    """-log of the posterior up to a constant, [n]."""
    return 0.5 * at.z.square().sum(1) - at.log_like


def force(at: Values, ellipse: Ellipse) -> Tensor:
    """Minus the gradient of the energy in the ellipse's units, [n, d]."""
    assert at.slope is not None
    return (at.slope - at.z) @ ellipse.L
