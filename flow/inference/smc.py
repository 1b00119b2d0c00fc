r"""Tempered sequential Monte Carlo: from the prior N(0, I) to the posterior, without gradients.

Particles begin in the prior, and the likelihood is let in by degrees: targets are
N(z; 0, I) L(f(z))^beta, beta going from 0 to 1 in steps that leave an effective share of the
particles. At each step M particles are resampled and carried on by `moves` transitions; all states
of these M chains are the particles of the next step (waste-free SMC), which are also what the
evidence is estimated from. Both modes of a posterior are kept, as both have particles from the
beginning.

A transition is an elliptical slice move: exact for any likelihood, no step size. Its ellipse is
that of a Gaussian fitted to the particles, of which the target is the Gaussian times a ratio, so
that a Gaussian posterior is drawn from independently, in any dimension; every few moves it is the
prior's own, which reaches where the fitted one has no mass.

References: Del Moral, Doucet and Jasra 2006, "Sequential Monte Carlo samplers"; Dau and Chopin
2022, "Waste-free SMC"; Murray, Adams and MacKay 2010, "Elliptical slice sampling"; Nishihara,
Murray and Adams 2014, "Parallel MCMC with generalized elliptical slice sampling".
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import Json
from flow.inference.target import Ask, Outcome, Sampler, Values, effective_size
from torch_utils import seeding

TRIES = 8  # points of an ellipse looked at in a move, after which the particle stays: still exact
EVERY = 4  # of so many moves, one is on the prior's ellipse
MOST = 200  # temperatures


@dataclass(frozen=True)
class Smc:
    """Settings.

    Attributes:
        particles: M, moved side by side.
        moves: of each particle at each temperature.
        share: effective share of the particles that a temperature leaves.
    """

    particles: int = 1024
    moves: int = 5
    share: float = 0.7

    def enough(self, n: int) -> Smc:
        """With particles enough for n draws."""
        return replace(self, particles=max(self.particles, -(-n // (self.moves + 1))))

    def sample(self, seed: int, d: int, like: Tensor) -> Sampler:
        """A sampler of one observation, see `target`.

        Args:
            seed: of all its random numbers.
            d: dimensions.
            like: a latent, [1, d]: its dtype and device.

        Raises:
            ValueError: if no particle of the prior has a likelihood.
        """
        M, K = self.particles, self.moves + 1
        start = torch.from_numpy(seeding.normals(seed, "smc prior", 0, M * K, d)).to(like)
        pool = yield Ask(start)
        check_possible(pool.log_like)
        beta, log_evidence, path = 0.0, 0.0, [0.0]
        accepted: list[float] = []
        while beta < 1.0:
            step, beta = next_temperature(pool.log_like, path, self.share)
            log_w = step * pool.log_like
            log_evidence += float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
            weights = torch.softmax(log_w, 0)
            path.append(beta)
            rng = seeding.generator(seed, "smc", len(path))
            here = pool.rows(systematic(weights, M, rng))
            fitted, prior = Ellipse.fitted(pool.z, weights), Ellipse.of_prior(pool.z)
            states = [here]
            for k in range(self.moves):
                ellipse = prior if k % EVERY == EVERY - 1 else fitted
                here, share = yield from elliptical(here, beta, ellipse, rng)
                accepted.append(share)
                states.append(here)
            pool = Values(*(torch.cat(v) for v in list(zip(*states, strict=True))[:3]))
        z, x = (v.unflatten(0, (K, M)).transpose(0, 1) for v in (pool.z, pool.x))
        facts: Json = {
            "temperatures": path,
            "moved": float(np.mean(accepted)),
            "particles": M,
        }
        return Outcome(x, z, log_evidence, effective_size(z), facts)


class Ellipse(NamedTuple):
    """A Gaussian N(mean, L L^T) on whose ellipses particles move.

    Attributes:
        mean: [d].
        L: lower triangular, [d, d].
    """

    mean: Tensor
    L: Tensor

    @classmethod
    def of_prior(cls, z: Tensor) -> Ellipse:
        """That of N(0, I), for latents like z [n, d]."""
        d = z.shape[1]
        return cls(z.new_zeros(d), torch.eye(d, dtype=z.dtype, device=z.device))

    @classmethod
    def fitted(cls, z: Tensor, weights: Tensor) -> Ellipse:
        """To weighted particles z [n, d]; weights [n], sum 1.

        The covariance is shrunk towards its diagonal as far as the particles are few.
        """
        d, n = z.shape[1], 1 / float(weights.square().sum())
        mean = weights @ z
        c = z - mean
        covariance = (weights[:, None] * c).T @ c
        shrink = min(1.0, d / n)
        diagonal = torch.diag(covariance.diagonal())
        jitter = 1e-9 * torch.eye(d, dtype=z.dtype, device=z.device)
        return cls(
            mean, torch.linalg.cholesky((1 - shrink) * covariance + shrink * diagonal + jitter)
        )

    def log_density(self, z: Tensor) -> Tensor:
        """log N(z; mean, L L^T) less its constant that all Gaussians share, [n]."""
        white = torch.linalg.solve_triangular(self.L, (z - self.mean).T, upper=False)
        return -0.5 * white.square().sum(0) - self.L.diagonal().log().sum()


def check_possible(log_like: Tensor) -> None:
    """Check log likelihoods [n] at draws of the prior.

    Raises:
        ValueError: if all are impossible.
    """
    if not bool(torch.isfinite(log_like).any()):
        raise ValueError(
            f"the likelihood is zero at all of {len(log_like)} draws of the prior: is the "
            "observation in the data's units, and its noise not too small? More particles may "
            "find some"
        )


def next_temperature(log_like: Tensor, path: list[float], share: float) -> tuple[float, float]:
    """How much further the likelihood [n] is let in, and the temperature after those of `path`.

    Raises:
        ValueError: if there are too many.
    """
    beta = path[-1]
    if len(path) > MOST:
        raise ValueError(
            f"{MOST} temperatures have not reached the posterior (now {beta:.3g}): the "
            "likelihood is too sharp for this flow; give a larger noise or more particles"
        )
    step = next_step(log_like, 1.0 - beta, share)
    return step, 1.0 if step >= 1.0 - beta else beta + step


def next_step(log_like: Tensor, most: float, share: float) -> float:
    """How much further the likelihood [n] can be let in, so that a share stays effective."""
    finite = log_like[torch.isfinite(log_like)]

    def enough(step: float) -> bool:
        w = torch.softmax(step * finite, 0)
        return 1 / float(w.square().sum()) >= share * len(finite)

    if enough(most):
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2 if low else high / 16
        low, high = (middle, high) if enough(middle) else (low, middle)
        if low and high / low < 1.001:
            break
    return low


def systematic(weights: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """n rows drawn in proportion to weights [m], evenly: each within one of what it should have."""
    edges = weights.double().cumsum(0).cpu()
    points = (torch.arange(n, dtype=torch.float64) + rng.random()) / n * edges[-1]
    return torch.searchsorted(edges, points).clamp(max=len(weights) - 1).to(weights.device)


def elliptical(
    here: Values, beta: float, ellipse: Ellipse, rng: np.random.Generator
) -> Generator[Ask, Values, tuple[Values, float]]:
    """One elliptical slice move of every particle.

    Each looks at points of an ellipse through it until one is in its slice; those that are not
    done are looked at together. A particle that has not found one after `TRIES` stays, which leaves
    the target invariant too: as many points lie between on the way back.

    Returns:
        the particles, and the share of them that moved.
    """
    M, d = here.z.shape

    def drawn(a: np.ndarray) -> Tensor:
        return torch.from_numpy(a).to(here.z)

    centred = here.z - ellipse.mean
    other = drawn(rng.standard_normal((M, d))) @ ellipse.L.T
    level = height(here, beta, ellipse) + drawn(np.log(rng.random(M)))
    turns = drawn(rng.random((TRIES, M)))
    angle = 2 * math.pi * drawn(rng.random(M))
    low, high = angle - 2 * math.pi, angle.clone()
    z, x, log_like = here.z.clone(), here.x.clone(), here.log_like.clone()
    left = torch.arange(M, device=z.device)
    for k in range(TRIES):
        a = angle[left, None]
        there = yield Ask(ellipse.mean + centred[left] * torch.cos(a) + other[left] * torch.sin(a))
        inside = height(there, beta, ellipse) > level[left]
        moved = left[inside]
        z[moved], x[moved], log_like[moved] = (v[inside] for v in there[:3])
        left = left[~inside]
        if not len(left):
            break
        below = angle[left] < 0
        low[left] = torch.where(below, angle[left], low[left])
        high[left] = torch.where(below, high[left], angle[left])
        angle[left] = low[left] + (high[left] - low[left]) * turns[k][left]
    return Values(z, x, log_like), 1 - len(left) / M


def height(at: Values, beta: float, ellipse: Ellipse) -> Tensor:
    """Log of the target over the ellipse's Gaussian, [n]."""
    return beta * at.log_like - 0.5 * at.z.square().sum(1) - ellipse.log_density(at.z)
