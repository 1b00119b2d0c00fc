r"""Where the sampler `flow` looks for the latent of a datum: where its posterior is.

`flow.Posteriors` draws from the posterior of a datum's latent under the flow's own prior, N(0, I)
in whitened latents. With mean m and covariance C of these draws the likelihood is about a Gaussian
of precision C^-1 - I, and under a component N_k = N(mean_k, S_k) the posterior is about

    N(m_k, C_k),    C_k^-1 = C^-1 - I + S_k^-1,    m_k = C_k (C^-1 m + S_k^-1 mean_k).

Candidates z come from these, in proportion to the likelihood that each gives the datum, and some
from the components themselves, which reach what is not Gaussian. With q the density of all, their
weights are exact whatever q is, and of bounded variance:

    g_k(z) = N(x_i; f(z), noise_var I) N_k(z) / q(z).

References: Hogg, Myers and Bovy 2010, "Inferring the eccentricity distribution" (populations from
posteriors one by one); Owen and Zhou 2000, "Safe and effective importance sampling".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from experiments.posterior.posterior import Problem
from experiments.posterior.quadrature import most_likely
from flow.inference.posterior import Posteriors
from flow.likelihood import log_normal
from torch_utils.work import Parts, shared_rows

PARTICLES, ROUNDS = 256, 6  # of importance sampling: for the moments of a datum's posterior
TOGETHER = 64  # data
DEFENCE = 0.1  # share of candidates from the components themselves
LEAST_SHARE = 0.1  # of the others, dealt to all components alike
SPREAD = 1.1  # sds of the Gaussians in those of the guess: f is not linear


class Moments(NamedTuple):
    """Of the posterior of each datum's latent under the flow's own prior, whitened.

    Attributes:
        mean: [n, d].
        covariance: [n, d, d].
        evaluations: of the network, each of one sample, that they took.
    """

    mean: Tensor
    covariance: Tensor
    evaluations: int


def moments(problem: Problem, seed: int, folder: Path | None = None) -> Moments:
    """Moments of the posteriors of the problem's data; every rank must call this.

    Covariances are shrunk towards their diagonals as far as draws are few.

    Args:
        problem: with data x [n, d].
        seed: of the draws.
        folder: keeps what is needed to go on after a kill.

    Raises:
        ValueError: naming a datum that is not finite, or if the flow is nowhere finite.
    """
    bad = torch.nonzero(~torch.isfinite(problem.x).all(1)).flatten().tolist()
    if bad:
        raise ValueError(
            f"datum {bad[0]}, {problem.x[bad[0]].tolist()}, is not finite: this flow does not "
            "generate finite data from all latents; train it longer"
        )
    n, d = problem.x.shape
    identity = {"posteriors of": problem.x.cpu().numpy().round(4) + 0.0, "seed": seed,
                "noise_var": problem.noise_var, "flow": problem.flow.model}  # fmt: skip
    found = shared_rows(
        lambda rows: _moments(problem, rows, seed), n, TOGETHER, "posteriors of the data",
        Parts(folder, identity),
    )  # fmt: skip
    mean, covariance, evaluations = found.to(problem.x).split([d, d * d, 1], 1)
    return Moments(mean, covariance.reshape(n, d, d), round(float(evaluations.sum())))


def _moments(problem: Problem, rows: range, seed: int) -> Tensor:
    """Of some data: means, covariances and evaluations in a row each, [m, d + d^2 + 1]."""
    data = Posteriors(problem.flow, [_observed(problem, i) for i in rows])
    found = data.sample(PARTICLES, seed, "importance", first=rows.start,
                        particles=PARTICLES, rounds=ROUNDS)  # fmt: skip
    z = torch.stack([draws.z for draws in found])  # [m, P, d]
    mean, effective = z.mean(1), z.new_tensor([draws.effective for draws in found])
    away = z - mean[:, None]
    covariance = away.mT @ away / PARTICLES
    shrink = (z.shape[2] / effective).clamp(max=1.0)[:, None, None]
    diagonal = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2) + 1e-9)
    covariance = (1 - shrink) * covariance + shrink * diagonal
    evaluations = z.new_tensor([[draws.facts["evaluations"]] for draws in found])
    return torch.cat([mean, covariance.flatten(1), evaluations], 1)


def _observed(problem: Problem, i: int) -> Callable[[Tensor], Tensor]:
    """The log likelihood of datum i, of data in their own units [n, d], [n]."""
    flow = problem.flow

    def log_like(x: Tensor) -> Tensor:
        own = flow.from_whitened(flow.to_whitened(x, 0.0, "unscaled"), 0.0, "scaled_es")
        return problem.log_likelihood(problem.x[i], own)

    return log_like


@dataclass(frozen=True)
class Proposals:
    """A mixture of Gaussians that the candidates of each datum are drawn from.

    Attributes:
        problem: with data x [n, d].
        mean: of the Gaussians in the latent, scaled_es, [n, G, d].
        root: lower triangular roots of their covariances, [n, G, d, d].
        share: their probabilities, [n, G].
        evaluations: of the network, each of one sample, that finding them took.
    """

    problem: Problem
    mean: Tensor
    root: Tensor
    share: Tensor
    evaluations: int = 0

    def draw(self, rows: np.ndarray, uniform: np.ndarray, normal: np.ndarray) -> Tensor:
        """Candidates in the latent, scaled_es, [m, M, d].

        Args:
            rows: numbers of the data, [m].
            uniform: in (0, 1), which choose where candidates come from, [m, M].
            normal: standard normals, [m, M, d].
        """
        u, v = (torch.from_numpy(a).to(self.mean) for a in (uniform, normal))
        edges = self.share[rows].cumsum(1)[:, :-1].contiguous()
        g = torch.searchsorted(edges, u.contiguous(), right=True)
        which = torch.arange(len(rows), device=u.device)[:, None].expand_as(g)
        mean, root = self.mean[rows][which, g], self.root[rows][which, g]
        return mean + (root @ v[..., None])[..., 0]

    def weigh(self, rows: np.ndarray, z: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Candidates z [m, M, d], and log g_k of them.

        Returns:
            z [m, M, d] and log g [m, M, K]; a candidate that the flow cannot carry gets z = 0 and
            log g = -inf.
        """
        (m, M, d), problem = z.shape, self.problem
        flat = z.reshape(-1, d)
        fz = problem.generate(flat)
        like = problem.log_likelihood(problem.x[rows].repeat_interleave(M, 0), fz)
        log_g = problem.mixture.log_components(flat) + like[:, None]
        log_g = log_g.reshape(m, M, -1) - self.log_density(rows, z)[..., None]
        lost = ~torch.isfinite(log_g).all(2)[..., None]
        z, log_g = z.masked_fill(lost, 0.0), log_g.masked_fill(lost, -math.inf)
        return z.cpu().numpy(), log_g.cpu().numpy()

    def log_density(self, rows: np.ndarray, z: Tensor) -> Tensor:
        """log q of candidates z [m, M, d], [m, M]."""
        mean, root = self.mean[rows], self.root[rows]  # [m, G, ...]
        gap = (z[:, None] - mean[:, :, None]).mT  # [m, G, d, M]
        white = torch.linalg.solve_triangular(root, gap, upper=False).mT  # [m, G, M, d]
        log_n = log_normal(white.reshape(-1, z.shape[2])).reshape(white.shape[:3])
        log_n = log_n - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None]
        return torch.logsumexp(log_n + self.share[rows].log()[..., None], 1)


def proposals(problem: Problem, seed: int = 0, folder: Path | None = None) -> Proposals:
    """What candidates of the problem's data are drawn from; every rank must call this.

    Args:
        problem, seed, folder: see `moments`.
    """
    found, flow = moments(problem, seed, folder), problem.flow
    stretch = flow.stretch(flow.schedule.tmax, "scaled_es")
    centre, sds = problem.mixture.means / stretch, problem.mixture.sds / stretch  # [K, d], whitened
    n, (K, d) = len(found.mean), centre.shape
    inverse = torch.linalg.inv(found.covariance)
    values, vectors = torch.linalg.eigh(inverse - torch.eye(d).to(inverse))
    pull = (vectors * values.clamp(min=0.0)[:, None]) @ vectors.mT  # precision of the likelihood
    push = (inverse @ found.mean[..., None])[:, None, :, 0] + centre / sds.square()  # [n, K, d]
    covariance = torch.linalg.inv(pull[:, None] + torch.diag_embed(sds**-2))  # [n, K, d, d]
    mean = (covariance @ push[..., None])[..., 0]
    root = torch.linalg.cholesky(covariance)
    evidence = 0.5 * ((mean * push).sum(2) - (centre / sds).square().sum(1))
    evidence = evidence + (root.diagonal(dim1=-2, dim2=-1).log() - sds.log()).sum(2)
    share = (1 - LEAST_SHARE) * torch.softmax(evidence, 1) + LEAST_SHARE / K
    wide = torch.diag_embed(problem.mixture.sds).expand(n, K, d, d)
    return Proposals(
        problem,
        torch.cat([mean * stretch, problem.mixture.means.expand(n, K, d)], 1),
        torch.cat([SPREAD * stretch[:, None] * root, wide], 1),
        torch.cat([(1 - DEFENCE) * share, torch.full_like(share, DEFENCE / K)], 1),
        found.evaluations,
    )


def proposal_error(log_g: np.ndarray, w: np.ndarray, concentration: Tensor) -> np.ndarray:
    """Standard error of the posterior means from one set of candidates that is never renewed, [K].

    In posterior sds, to first order, as if candidates were independent: for Sobol sets it is an
    upper bound. The bias of order 1/M is not in it.

    Args:
        log_g: [n, M, K].
        w: posterior means, [K].
        concentration: of the prior, [K].
    """
    g = np.exp(log_g - log_g.max((1, 2), keepdims=True))  # [n, M, K]
    M, K = g.shape[1:]
    mean = g.mean(1)
    total = mean @ w  # [n]
    share = mean / total[:, None]
    # To first order a candidate pulls the score g_k / sum_j w_j g_j of its datum by this.
    pull = (g - share[:, None] * (g @ w)[..., None]) / total[:, None, None]
    flat = pull.reshape(-1, K)
    noise = flat.T @ flat / (M * max(1, M - 1))
    _, covariance = most_likely(torch.from_numpy(logsumexp(log_g, axis=1)), concentration)
    shift = covariance @ noise @ covariance
    return np.sqrt(shift.diagonal() / np.maximum(covariance.diagonal(), 1e-300))
