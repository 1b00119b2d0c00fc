r"""Hamiltonian chains carried from the prior to a posterior in many dimensions, by its degrees.

Chains begin in the prior, and the likelihood is let in as by `smc`: at each temperature they are
resampled by their weights and moved by one trajectory. Its units are those of a Gaussian of
precision I + beta |H|, where H is the Hessian of -log L(f(z)) at the best chain so far, of which
eigenvalues count by their size; it is taken anew when beta has grown by `ANEW`. Hessians are
differences of gradients in all directions, evaluated together. So a few tens of gradients carry
chains that are far fewer than dimensions, from whose draws no covariance could be fitted.

References: Neal 2001, "Annealed importance sampling"; Del Moral, Doucet and Jasra 2006,
"Sequential Monte Carlo samplers"; Dauphin et al. 2014, "Identifying and attacking the saddle point
problem in high-dimensional non-convex optimization".
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flow.inference.smc import Ellipse, check_possible, next_temperature, systematic
from flow.inference.target import Ask, Values
from torch_utils import seeding

LENGTH = math.pi / 2  # of a trajectory: a quarter turn forgets a Gaussian's start
SHARE = 0.5  # of the chains that a temperature leaves effective
LEAPFROGS = 4  # of a trajectory on the way, at most
ANEW = 5.0  # times beta, after which the Hessian is taken again
APART = 0.05  # of the points whose gradients give a Hessian; the prior's sd is 1
LARGEST = 1024  # dimensions in which there is a Hessian; in more, the prior's units serve


class Annealed(NamedTuple):
    """Where chains have come.

    Attributes:
        z: whitened latents, [chains, d].
        ellipse: the Gaussian whose units trajectories had at last.
        step: their last step size.
        path: temperatures beta.
    """

    z: Tensor
    ellipse: Ellipse
    step: float
    path: list[float]


def anneal(seed: int, chains: int, d: int, like: Tensor) -> Generator[Ask, Values, Annealed]:
    """Carry chains from the prior to the posterior.

    Args:
        seed: of all random numbers.
        chains: how many.
        d: dimensions.
        like: a latent, [1, d]: its dtype and device.

    Raises:
        ValueError: if no chain of the prior has a likelihood, or it is too sharp.
    """
    start = torch.from_numpy(seeding.normals(seed, "hmc prior", 0, chains, d)).to(like)
    here = yield Ask(start, True)
    check_possible(here.log_like)
    path, taken, step = [0.0], 0.0, 0.5
    values, vectors = yield from curvature(like.new_zeros(d))
    while path[-1] < 1.0:
        more, beta = next_temperature(here.log_like, path, SHARE)
        weights = torch.softmax(more * here.log_like, 0)
        path.append(beta)
        rng = seeding.generator(seed, "annealed", len(path))
        here = here.rows(systematic(weights, chains, rng))
        if beta > ANEW * taken or beta == 1.0:
            best = int((beta * here.log_like - 0.5 * here.z.square().sum(1)).argmax())
            values, vectors = yield from curvature(here.z[best])
            taken = beta
        covariance = (vectors / (1 + beta * values)) @ vectors.T
        ellipse = Ellipse(here.z.mean(0), torch.linalg.cholesky((covariance + covariance.T) / 2))
        here, rate = yield from trajectory(here, ellipse, step, rng, LEAPFROGS, beta)
        step = min(LENGTH, step * math.exp(float(rate.mean()) - 0.7))
    return Annealed(here.z, ellipse, step, path)


def curvature(z: Tensor) -> Generator[Ask, Values, tuple[Tensor, Tensor]]:
    """Sizes of the eigenvalues, [d], and eigenvectors [d, d] of the Hessian of -log L at z [d]."""
    d = len(z)
    if d > LARGEST:
        return torch.zeros_like(z), torch.eye(d, dtype=z.dtype, device=z.device)
    apart = APART * torch.eye(d, dtype=z.dtype, device=z.device)
    at = yield Ask(torch.cat([z + apart, z - apart]), True)
    assert at.slope is not None
    forward, backward = at.slope.split(d)
    hessian = (backward - forward) / (2 * APART)
    values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    return values.abs(), vectors


def trajectory(
    here: Values,
    ellipse: Ellipse,
    step: float,
    rng: np.random.Generator,
    most: int,
    beta: float = 1.0,
) -> Generator[Ask, Values, tuple[Values, Tensor]]:
    """One Hamiltonian trajectory of every chain, of a quarter turn or of `most` leapfrogs.

    Returns:
        where the chains are then, and acceptance probabilities [n].
    """
    momentum = torch.from_numpy(rng.standard_normal(here.z.shape)).to(here.z)
    uniform = torch.from_numpy(rng.random(len(here.z))).to(here.z)
    there, p = here, momentum
    for _ in range(min(max(1, round(LENGTH / step)), most)):
        p = p + 0.5 * step * force(there, ellipse, beta)
        there = yield Ask(there.z + step * p @ ellipse.L.T, True)
        p = p + 0.5 * step * force(there, ellipse, beta)
    rise = energy(there, beta) - energy(here, beta)
    rise = rise + 0.5 * (p.square() - momentum.square()).sum(1)
    rate = torch.exp(-rise.nan_to_num(math.inf, math.inf, math.inf).clamp(min=0))
    return there.where(uniform < rate, here), rate


def energy(at: Values, beta: float) -> Tensor:
    """-log of the tempered posterior up to a constant, [n]."""
    return 0.5 * at.z.square().sum(1) - beta * at.log_like


def force(at: Values, ellipse: Ellipse, beta: float) -> Tensor:
    """Minus the gradient of the energy in the ellipse's units, [n, d]."""
    assert at.slope is not None
    return (beta * at.slope - at.z) @ ellipse.L
