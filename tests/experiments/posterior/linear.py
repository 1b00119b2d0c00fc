"""A linear flow of Gaussian data, for which posteriors are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import torch

from experiments.posterior.posterior import Problem, paper_problem, simulate_data
from tests.helpers import gaussian_flow

XI, VARIANCES = [1.0, 0.4], [0.7, 0.5]


def linear_problem(n: int, noise_var: float = 0.05, steps: int = 16, seed: int = 0) -> Problem:
    """Data (none for n = 0) seen through x = A z, A diagonal, with a Dirichlet(1) prior."""
    flow = gaussian_flow(XI, VARIANCES, 1)
    problem = paper_problem(flow, noise_var, proper=True, how={"solver": "rk4", "steps": steps})
    return simulate_data(problem, n, seed)[0] if n else problem


def slope(problem: Problem) -> torch.Tensor:
    """The diagonal of A, [d], in closed form."""
    s, c = problem.flow.schedule, torch.tensor(VARIANCES).double()
    growth = ((c + s.gamma(s.tmax)[0]) / (c + s.gamma(0.0)[0])).sqrt()
    growth = growth * (s.total(0.0) / s.total(s.tmax)).sqrt()
    stretch = [problem.flow.stretch(t, "scaled_es") for t in (0.0, s.tmax)]
    return stretch[0] / (stretch[1] * growth)


def exact_log_like(problem: Problem) -> torch.Tensor:
    """log L_ik in closed form, [n, K]."""
    A, m = slope(problem), problem.mixture
    variance = (A * m.sds) ** 2 + problem.noise_var  # [K, d]
    square = (problem.x[:, None] - A * m.means) ** 2 / variance
    return -0.5 * (square + variance.log() + math.log(2 * math.pi)).sum(2)


def exact_weights(problem: Problem, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of the weights under a flat prior, by a grid over the simplex, [K] each."""
    L = exact_log_like(problem).exp().numpy()
    a, b = np.meshgrid(*[(np.arange(points) + 0.5) / points] * 2, indexing="ij")
    inside = a + b < 1
    w = np.stack([a[inside], b[inside], 1 - a[inside] - b[inside]])  # [3, m]
    log_p = np.log(L @ w).sum(0)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = w @ p
    return mean, np.sqrt(np.maximum((w**2) @ p - mean**2, 0))
