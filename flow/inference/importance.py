r"""Adaptive importance sampling: independent draws of a fitted Gaussian, with exact weights.

Proposals are q = (1 - defence) N(m, C) + defence N(0, I), of whitened latents, so that no weight
is ever beyond 1 / defence times the likelihood. m and C are fitted, round by round, to the weighted
draws of the round before, the weights being tempered as far as few draws carry them. It suits few
dimensions, or posteriors that are nearly Gaussian.

Reference: Bugallo et al. 2017, "Adaptive importance sampling: the past, the present, the future".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flow.inference.smc import Ellipse, next_step, systematic
from flow.inference.target import Ask, Outcome, Sampler
from flow.likelihood import log_normal
from torch_utils import seeding

WIDER = 1.1  # factor on the fitted standard deviations
BETTER = 1.1  # factor by which a round must raise the effective size for another to follow


@dataclass(frozen=True)
class Importance:
    """Settings.

    Attributes:
        particles: proposals of a round.
        rounds: at most.
        share: of the particles that stays effective when weights are tempered for a fit.
        defence: share of proposals from the prior.
        n: draws wanted.
    """

    particles: int = 8192
    rounds: int = 30
    share: float = 0.3
    defence: float = 0.1
    n: int = 0

    def enough(self, n: int) -> Importance:
        """With particles enough for n draws."""
        return replace(self, particles=max(self.particles, n), n=n)

    def sample(self, seed: int, d: int, like: Tensor) -> Sampler:
        """A sampler of one observation, see `smc.Smc.sample`."""
        ellipse, sizes = Ellipse.of_prior(like), [0.0]
        while True:
            rng = seeding.generator(seed, "importance", len(sizes))
            white = torch.from_numpy(rng.standard_normal((self.particles, d))).to(like)
            free = torch.from_numpy(rng.random(self.particles) < self.defence).to(like.device)
            z = torch.where(free[:, None], white, ellipse.mean + white @ ellipse.L.T)
            found = yield Ask(z)
            log_w = found.log_like + log_normal(z) - self.log_proposal(z, ellipse)
            if not bool(torch.isfinite(log_w).any()):
                raise ValueError(f"the likelihood is zero at all of {len(z)} draws of the prior")
            weights = torch.softmax(log_w, 0)
            sizes.append(1 / float(weights.square().sum()))
            step = next_step(log_w, 1.0, self.share)
            if len(sizes) > self.rounds or (step == 1.0 and sizes[-1] < BETTER * sizes[-2]):
                break
            tempered = torch.softmax(step * log_w, 0)
            mean, L = Ellipse.fitted(z, tempered)
            ellipse = Ellipse(mean, WIDER * L)
        rows = systematic(weights, self.n, rng)
        evidence = float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
        facts = {"effective_by_round": sizes[1:], "particles": self.particles}
        return Outcome(found.x[rows][None], z[rows][None], evidence, sizes[-1], facts)

    def log_proposal(self, z: Tensor, ellipse: Ellipse) -> Tensor:
        """log q(z), [n]."""
        fitted = ellipse.log_density(z) - z.shape[1] / 2 * math.log(2 * math.pi)
        both = torch.stack(
            [fitted + math.log1p(-self.defence), log_normal(z) + math.log(self.defence)]
        )
        return torch.logsumexp(both, 0)
