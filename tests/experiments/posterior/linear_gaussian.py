"""A problem whose posterior is known: the flow of Gaussian data is linear, f(z) = A z."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.posterior import (
    Draws,
    Problem,
    Truth,
    gibbs_weights,
    paper_mixture,
    simulate_data,
)
from tests.helpers import gaussian_flow


@dataclass(frozen=True)
class Linear(Problem):
    """A problem with the flow's matrix in place of the flow: the same f, hundreds of times faster.

    Attributes:
        matrix: A, [d, d].
        wall: f gives NaN for latents whose first coordinate exceeds it.
    """

    matrix: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    wall: float = math.inf

    def generate(self, z: Tensor, differentiable: bool = False) -> Tensor:
        """A z, or NaN beyond the wall."""
        return torch.where(z[:, :1] > self.wall, torch.nan, z @ self.matrix.T)

    def inflate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A^-1 x and log |det A^-1|."""
        log_det = -torch.linalg.slogdet(self.matrix)[1]
        return x @ torch.linalg.inv(self.matrix).T, log_det.expand(len(x))


def linear_problem(n: int, seed: int = 0) -> tuple[Problem, Truth]:
    """A few data; f is linear however roughly it is integrated."""
    flow = gaussian_flow([1.0, 0.5], [0.6, 0.9], 2)
    mixture = paper_mixture(flow.schedule.latent_variance())
    how = {"solver": "angle_heun", "steps": 2}
    problem = Problem(flow, mixture, 0.04, torch.ones(3).double(), how=how)
    return simulate_data(problem, n, seed)


def matrix_problem(n: int, seed: int = 0, wall: float = math.inf) -> tuple[Linear, Truth]:
    """`linear_problem`, with its matrix, and data whose f^-1(x) lies well before the wall."""
    problem, truth = linear_problem(n if wall == math.inf else 4 * n, seed)
    matrix = problem.generate(torch.eye(2).double()).T
    good = torch.arange(len(problem.x))
    if wall < math.inf:
        before = problem.inflate(problem.x)[0][:, 0] < wall - 0.1
        good = torch.nonzero(before).flatten()[:n]
    parts = problem.flow, problem.mixture, problem.noise_var, problem.concentration
    linear = Linear(*parts, problem.x[good], problem.how, matrix, wall)
    return linear, Truth(truth.weights, truth.components[good], truth.z[good])


@dataclass
class Exact:
    """Posterior of a linear problem.

    Attributes:
        weights: draws [s, K].
        mean, sd: of each latent, weights averaged out, [n, d].
    """

    weights: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def exact_posterior(problem: Problem) -> Exact:
    """By linear algebra for each component; weights by Gibbs given the exact likelihoods."""
    A = problem.generate(torch.eye(problem.dim).double()).T
    noise = problem.noise_var * torch.eye(problem.dim).double()
    likes, means, covariances = [], [], []
    for m, sd in zip(problem.mixture.means, problem.mixture.sds, strict=True):
        S = torch.diag(sd.square())
        total = torch.distributions.MultivariateNormal(A @ m, A @ S @ A.T + noise)
        likes.append(total.log_prob(problem.x))
        V = torch.linalg.inv(torch.linalg.inv(S) + A.T @ A / problem.noise_var)
        pulls = torch.linalg.inv(S) @ m + problem.x @ A / problem.noise_var
        means.append(pulls @ V)
        covariances.append(V.diagonal().expand(len(problem.x), -1))
    log_like = torch.stack(likes, 1)
    rng = np.random.default_rng(0)
    w = gibbs_weights(log_like, problem.concentration, 20_000, 200, rng)
    joint = log_like[None] + torch.from_numpy(w[::100]).log()[:, None]
    share = torch.softmax(joint, 2).mean(0)[:, :, None]  # [n, K, 1]
    by_k, var_k = torch.stack(means, 1), torch.stack(covariances, 1)  # [n, K, d]
    mean = (share * by_k).sum(1)
    variance = (share * (var_k + by_k.square())).sum(1) - mean.square()
    return Exact(w, mean.numpy(), variance.sqrt().numpy())


def check_draws(draws: Draws, exact: Exact, latents: float = 0.15) -> None:
    """Weights within a quarter of a posterior sd, latents on average within `latents` sds."""
    w = draws.weights.reshape(-1, draws.weights.shape[-1])
    sd = exact.weights.std(0)
    assert (np.abs(w.mean(0) - exact.weights.mean(0)) < 0.25 * sd).all()
    np.testing.assert_allclose(w.std(0), sd, rtol=0.25)
    assert draws.z is not None
    z = draws.z.reshape(-1, *exact.mean.shape)
    off = (z.mean(0) - exact.mean) / exact.sd
    assert np.sqrt((off**2).mean()) < latents
    assert np.mean(z.std(0) / exact.sd) - 1 < 0.1
    assert np.mean(z.std(0) / exact.sd) - 1 > -0.1
