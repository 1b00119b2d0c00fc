r"""The posterior that gradient samplers climb: its density, its gradient, its natural units.

Of the joint posterior of weights and latents (see `posterior.posterior`), in terms of logits,

    log p(logits, z | x) = sum_k a_k log w_k + sum_i log sum_k w_k N_k(z_i)
                           + sum_i log N(x_i; f(z_i), noise_var I) + constant,

w being the softmax of the logits and a the Dirichlet concentration (zero: flat in the logits). The
density does not change if all logits are shifted together, so one of them may be held at zero.

`LatentTarget` has the units q_i of latents, in which every posterior is about as wide in every
direction.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.posterior import Problem
from experiments.posterior.proposals import moments
from flow.arguments import How

MOST_EVALUATIONS = 32  # of the network, for one gradient
GRADIENT_HOW: How = {"solver": "rk4", "steps": 8}  # 32 evaluations


def affordable(problem: Problem) -> tuple[Problem, int]:
    """The problem with at most `MOST_EVALUATIONS` evaluations of the network for each f(z).

    A gradient sampler takes the same discretised f in energies and in gradients, so it needs no
    more accuracy than the noise asks for. An integration that is dearer than that, or whose cost
    depends on the batch (adaptive), is replaced by `GRADIENT_HOW`.

    Returns:
        the problem, and evaluations for each f(z).
    """
    if problem.how.get("solver") not in ("adaptive", "reversible"):
        cost = _cost(problem)
        if cost <= MOST_EVALUATIONS:
            return problem, cost
    problem = replace(problem, how=GRADIENT_HOW)
    return problem, _cost(problem)


def _cost(problem: Problem) -> int:
    before = problem.flow.evaluations
    problem.generate(problem.mixture.means[:1])
    return problem.flow.evaluations - before


def log_prior(problem: Problem, log_weights: Tensor) -> Tensor:
    """Log density of logits up to a constant, [...], for normalised log weights [..., K].

    It is the Dirichlet prior of the weights, with the volume that the softmax changes. Flat in the
    logits for a concentration of zero.
    """
    return (problem.concentration.to(log_weights) * log_weights).sum(-1)


def log_joint(problem: Problem, z: Tensor, log_weights: Tensor) -> Tensor:
    """Log density of logits and latents together, a scalar with a graph.

    Args:
        problem: with data x [n, d].
        z: latents, scaled_es, [n, d].
        log_weights: normalised, [K].

    Returns:
        the formula above; -inf where it cannot be computed, which samplers take as a rejection.
    """
    fz = problem.generate(z, differentiable=True)
    latents = problem.mixture.log_prob(z, log_weights) + problem.log_likelihood(problem.x, fz)
    value = log_prior(problem, log_weights) + latents.sum()
    return torch.where(torch.isfinite(value), value, -math.inf)


class LatentTarget:
    """The units of latents in which their posteriors are about alike: z_i = c_i + R_i q_i.

    c_i and R_i R_i^T are mean and covariance of z_i | x_i under the flow's own prior, of draws
    (`proposals.moments`). Any c and R give the same posterior.

    Args:
        problem: with data.
        seed: of the draws.
        folder: keeps what is needed to go on after a kill.

    Attributes:
        problem: as gradients take it, see `affordable`.
        cost: evaluations of the network for one energy or gradient of one latent.
        setup_evaluations: of the network, each of one sample, for c and R.
    """

    def __init__(self, problem: Problem, seed: int = 0, folder: Path | None = None):
        self.problem, self.cost = affordable(problem)
        found, flow = moments(self.problem, seed, folder), problem.flow
        stretch = flow.stretch(flow.schedule.tmax, "scaled_es")
        self.centre = found.mean * stretch  # [n, d]
        self.root = stretch[:, None] * torch.linalg.cholesky(found.covariance)  # [n, d, d]
        self.setup_evaluations = found.evaluations

    def begin(self, rng: np.random.Generator) -> Tensor:
        """Where a chain begins: a draw of these Gaussians, q [n, d].

        Raises:
            ValueError: if the flow generates nothing finite from them.
        """
        q = torch.from_numpy(rng.standard_normal(tuple(self.centre.shape))).to(self.centre)

        def sound(q: Tensor) -> Tensor:
            return torch.isfinite(self.problem.generate(self.latents(q))).all(1, keepdim=True)

        q = torch.where(sound(q), q, 0.0)
        if not bool(sound(q).all()):
            raise ValueError(
                "this flow does not generate finite data where the posteriors of these data are: "
                "train it longer"
            )
        return q

    def latents(self, q: Tensor) -> Tensor:
        """z, scaled_es, for q [n, d], [n, d]."""
        return self.centre + (self.root @ q[..., None])[..., 0]
