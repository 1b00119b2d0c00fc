"""Hamiltonian transitions of many independent targets at once, each with its own acceptance and
a step size of its own that adapts to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.posterior.energy import LatentTarget

LENGTH = math.pi / 2  # of a trajectory in whitened units: a quarter turn forgets a Gaussian's start
DIVERGED = 1000.0  # rise of the energy along a trajectory that counts as a divergence


class Point(NamedTuple):
    """Latents in whitened units with their likelihood, which does not depend on the weights.

    Attributes:
        q: [n, d].
        misfit: -log N(x_i; f(z_i), noise_var I), [n].
        slope: its gradient, [n, d].
    """

    q: Tensor
    misfit: Tensor
    slope: Tensor


class Moved(NamedTuple):
    """What a transition did.

    Attributes:
        point: where the chain is now.
        probability: of acceptance, [n]; 0 where the trajectory's energy is not finite.
        accepted: [n].
        diverged: whose energy rose by more than `DIVERGED` or is not finite, [n].
    """

    point: Point
    probability: Tensor
    accepted: Tensor
    diverged: Tensor


def leapfrog_counts(step: Tensor, most: int) -> Tensor:
    """Leapfrog steps of trajectories of `LENGTH` for step sizes [n], between 1 and `most`."""
    return (LENGTH / step).round().clamp(1, most).long()


def transition(
    target: LatentTarget,
    here: Point,
    log_weights: Tensor,
    step: Tensor,
    counts: Tensor,
    momentum: Tensor,
    uniform: Tensor,
    path: list[Tensor] | None = None,
) -> Moved:
    """One Hamiltonian transition of every latent, each with its own acceptance.

    Args:
        target: the latents' posterior given weights.
        here: where they are.
        log_weights: [K].
        step: step sizes, [n].
        counts: leapfrog steps, [n]; they may depend on nothing that the trajectory changes.
        momentum: standard normal, [n, d].
        uniform: in (0, 1), [n]: accept where below the probability.
        path: gets the positions after each leapfrog step, [n, d].
    """
    pull, fall = target.prior(here.q, log_weights)
    begin = here.misfit + pull + 0.5 * momentum.square().sum(1)
    q, misfit, slope, pull = here.q.clone(), here.misfit.clone(), here.slope.clone(), pull.clone()
    p = momentum - 0.5 * step[:, None] * (here.slope + fall)
    for k in range(int(counts.max())):
        rows = torch.nonzero(counts > k).flatten()
        h = step[rows, None]
        q[rows] += h * p[rows]
        misfit[rows], slope[rows] = target.misfit(q[rows], rows)
        pull[rows], fall = target.prior(q[rows], log_weights, rows)
        half = torch.where(counts[rows] == k + 1, 0.5, 1.0).to(h)[:, None]
        p[rows] -= half * h * (slope[rows] + fall)
        if path is not None:
            path.append(q.clone())
    rise = misfit + pull + 0.5 * p.square().sum(1) - begin
    rise = torch.where(torch.isfinite(rise), rise, math.inf)  # no energy: never accepted
    probability = torch.exp(-rise.clamp(min=0))
    accepted = uniform < probability
    take = accepted[:, None]
    there = Point(
        torch.where(take, q, here.q),
        torch.where(accepted, misfit, here.misfit),
        torch.where(take, slope, here.slope),
    )
    return Moved(there, probability, accepted, rise > DIVERGED)
