r"""The posterior that gradient samplers climb: its density, its gradient, its natural units.

Of the joint posterior of weights and latents (see `posterior.posterior`), in terms of logits,

    log p(logits, z | x) = sum_k a_k log w_k + sum_i log sum_k w_k N_k(z_i)
                           + sum_i log N(x_i; f(z_i), noise_var I) + constant,

w being the softmax of the logits and a the Dirichlet concentration (zero: flat in the logits). The
density does not change if all logits are shifted together, so one of them may be held at zero.

Given w the latents are independent of each other, but the posterior of each has a scale and a
shape of its own: f is steep between the data's structures and flat on them. `LatentTarget` states
it in whitened units q_i, in which it is about as wide in every direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.posterior import Problem
from flow.arguments import How
from torch_utils import seeding

MOST_EVALUATIONS = 32  # of the network, for one gradient
GRADIENT_HOW: How = {"solver": "rk4", "steps": 8}  # 32 evaluations
PILOTS = 24  # points a datum from which the shape of its posterior is guessed
JACOBIAN_COUNTS_AS = 3.0  # pilots, when their covariance and the Jacobian's are averaged


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
    """The posterior of each latent given the weights, in whitened units: z_i = c_i + R_i q_i.

    c_i and R_i R_i^T are mean and covariance of z_i | x_i under equal weights, guessed from pilots:
    x' ~ N(x_i, noise_var I) carried to z' = f^-1(x') has the posterior's density but for the
    factor p(z') |det df^-1/dx'|, its importance weight. Where these are so uneven that few pilots
    count, the covariance leans on the Laplace guess at f^-1(x_i), the inverse of
    J^T J / noise_var + (prior variance)^-1 with J the Jacobian of f. Any c and R give the same
    posterior; these make one step size fit all directions.

    Args:
        problem: with data.
        seed: of the pilots.
        pilots: for each datum; 0 for the Laplace guess alone.

    Attributes:
        start: f^-1(x) in whitened units, [n, d].
        cost: evaluations of the network for one energy or gradient of one latent.
        setup_evaluations: of the network, each of one sample, for c, R and the start.

    Raises:
        ValueError: if f^-1 of a datum is not finite, naming it.
    """

    def __init__(self, problem: Problem, seed: int = 0, pilots: int = PILOTS):
        self.problem, self.cost = affordable(problem)
        x = self.problem.x
        origin, volume = self.problem.inflate(x)  # [n, d], [n]
        bad = torch.nonzero(~torch.isfinite(origin).all(1)).flatten().tolist()
        if bad:
            raise ValueError(
                f"the latent of datum {bad[0]}, {x[bad[0]].tolist()}, is not finite: it lies "
                "where this flow was not trained; leave it out, or train longer"
            )
        covariance = self._laplace(origin)
        self.centre = origin
        if pilots:
            self.centre, covariance = self._moments(origin, volume, covariance, seed, pilots)
        self.root = torch.linalg.cholesky(covariance)  # [n, d, d]
        self.start = torch.linalg.solve(self.root, origin - self.centre)
        self.setup_evaluations = self.cost * len(x) * (pilots + 2)

    def begin(self, rng: np.random.Generator) -> Tensor:
        """Where a chain begins: f^-1(x) moved at random by about a posterior sd, [n, d].

        Raises:
            ValueError: if the flow cannot carry the latent of a datum back.
        """
        moved = torch.from_numpy(rng.standard_normal(tuple(self.start.shape))).to(self.start)
        q = self.start + moved
        q = torch.where(torch.isfinite(self.misfit(q)[0])[:, None], q, self.start)
        if not bool(torch.isfinite(self.misfit(q)[0]).all()):
            raise ValueError(
                "this flow does not generate finite data from f^-1(x): train it longer"
            )
        return q

    def latents(self, q: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """z for whitened q [m, d] of the data `rows`, [m, d]."""
        return self.centre[rows] + (self.root[rows] @ q[..., None])[..., 0]

    def misfit(self, q: Tensor, rows: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """-log N(x_i; f(z_i), noise_var I), [m], and its gradient with respect to q, [m, d]."""
        x = self.problem.x[rows]
        places = torch.arange(len(self.centre), device=q.device)[rows]
        parts = []
        for some in torch.arange(len(q), device=q.device).split(self.problem.flow.block):

            def energy(z: Tensor, some: Tensor = some) -> Tensor:
                fz = self.problem.generate(z, differentiable=True)
                return -self.problem.log_likelihood(x[some], fz)

            parts.append(self._with_gradient(energy, q[some], places[some]))
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def prior(
        self, q: Tensor, log_weights: Tensor, rows: Tensor | slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """-log sum_k w_k N_k(z_i), [m], and its gradient with respect to q, [m, d]."""
        return self._with_gradient(
            lambda z: -self.problem.mixture.log_prob(z, log_weights), q, rows
        )

    def _with_gradient(
        self, energy: Callable[[Tensor], Tensor], q: Tensor, rows: Tensor | slice
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            v = q.detach().requires_grad_()
            value = energy(self.latents(v, rows))
            (gradient,) = torch.autograd.grad(value.sum(), v)
        return value.detach(), gradient

    def _laplace(self, z: Tensor) -> Tensor:
        """(J^T J / noise_var + prior precision)^-1 at latents z [n, d], [n, d, d]."""
        J = self.problem.jacobian(z)
        precision = J.mT @ J / self.problem.noise_var
        return torch.linalg.inv(precision + torch.diag(1 / self.problem.mixture.moments()[1]))

    def _moments(
        self, origin: Tensor, volume: Tensor, laplace: Tensor, seed: int, pilots: int
    ) -> tuple[Tensor, Tensor]:
        """Means [n, d] and covariances [n, d, d] of weighted pilots, the first at f^-1(x)."""
        problem = self.problem
        n, d = origin.shape
        noise = torch.from_numpy(seeding.normals(seed, "pilots", 0, n * pilots, d)).to(problem.x)
        points = problem.x.repeat_interleave(pilots, 0) + problem.noise_var**0.5 * noise
        z, log_det = problem.inflate(points)
        z = torch.cat([origin[:, None], z.reshape(n, pilots, d)], 1)  # [n, 1 + pilots, d]
        log_det = torch.cat([volume[:, None], log_det.reshape(n, pilots)], 1)
        equal = -math.log(len(problem.mixture.means)) * torch.ones_like(problem.mixture.means[:, 0])
        log_p = problem.mixture.log_prob(z.reshape(-1, d), equal).reshape(n, -1) + log_det
        usable = torch.isfinite(log_p) & torch.isfinite(z).all(2)
        weight = torch.softmax(log_p.masked_fill(~usable, -math.inf), 1)[..., None]  # [n, 1+m, 1]
        z = z.masked_fill(~usable[..., None], 0.0)
        mean = (weight * z).sum(1)
        spread = z - mean[:, None]
        covariance = (weight * spread).mT @ spread
        effective = 1 / weight.square().sum(1)[..., None]  # [n, 1, 1], between 1 and 1 + pilots
        total = effective - 1 + JACOBIAN_COUNTS_AS
        return mean, (effective * covariance + JACOBIAN_COUNTS_AS * laplace) / total
