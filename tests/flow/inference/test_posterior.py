"""Posteriors against closed forms: linear-Gaussian flows, whose posteriors are Gaussian."""

import math

import numpy as np
import pytest
import torch

from flow import Posterior, observe
from tests.helpers import gaussian_flow

HOW = {"solver": "rk4", "steps": 4}


def linear_problem(d, keep, m, noise=0.1):
    """A Gaussian flow, a linear observation of a datum of it, and its exact posterior.

    Returns:
        flow, observation, posterior mean [d] and covariance [d, d], log evidence.
    """
    rng = np.random.default_rng(d)
    xi = np.sort(rng.uniform(0.1, 2.0, d))[::-1].tolist()
    variances = rng.uniform(0.05, 2.0, d).tolist()
    flow = gaussian_flow(xi, variances, keep, g_type="constant_inflation_gap")
    A = torch.from_numpy(rng.standard_normal((m, d))) / math.sqrt(d)
    unit = torch.cat([torch.zeros(1, d).double(), torch.eye(d).double()])
    points = flow.generate(unit, coords="whitened", **HOW)  # the flow is linear
    mean, J = points[0], (points[1:] - points[0]).T
    y = A @ flow.sample(1, seed=5, **HOW)[0] + noise * torch.from_numpy(rng.standard_normal(m))
    S = J @ J.T
    C = A @ S @ A.T + noise**2 * torch.eye(m).double()
    gain, away = S @ A.T @ torch.linalg.inv(C), y - A @ mean
    evidence = -0.5 * (away @ torch.linalg.solve(C, away) + torch.logdet(2 * math.pi * C))
    return flow, observe.linear(A, y, noise), mean + gain @ away, S - gain @ A @ S, float(evidence)


@pytest.mark.parametrize("method", ["smc"])
def test_linear_gaussian(method):
    flow, observation, mean, covariance, evidence = linear_problem(2, 2, 1)
    draws = Posterior(flow, observation, **HOW).sample(1000, seed=0, method=method, particles=256)
    error = (draws.x.mean(0) - mean) / (covariance.diagonal() / draws.effective).sqrt()
    assert float(error.abs().max()) < 3
    assert float(torch.linalg.norm(torch.cov(draws.x.T) - covariance)) < 0.1 * float(
        torch.linalg.norm(covariance)
    )
    assert abs(draws.log_evidence - evidence) < 0.1
