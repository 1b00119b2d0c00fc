r"""Where the sampler `flow` looks for the latent of a datum: around it, and in the latent.

Some candidates come from Gaussians in the latent: the posterior of each component N_k if f were
linear around its most likely latent z*,

    f(z) ~ f(z*) + J (z - z*),    C_k = (J^T J / noise_var + S_k^-1)^-1,    k in proportion to the
    likelihood that this gives it.

They are as narrow as the posterior in directions in which the data are thinner than the noise,
where noise around the datum hardly ever meets them. The others are y ~ N(x_i, noise_var I), which
need no such guess and find what is not Gaussian. With q the density of both together, in data
space, the importance weight of a candidate y = f(z) is exact wherever it came from:

    g_k(y) = N(x_i; y, noise_var I) N_k(z) |det df^-1/dy| / q(y).

Which part of a datum's candidates comes from around it is chosen, among `SHARES`, by the variance
of these weights in a few pilots.

Reference: Owen and Zhou 2000, "Safe and effective importance sampling".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from experiments.posterior.posterior import Problem
from experiments.posterior.quadrature import most_likely
from flow.likelihood import log_normal
from torch_utils import seeding

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of candidates from around the datum
PILOTS = 32  # a datum, from which its share is chosen
LEAST_SHARE = 0.1  # of the others, dealt to all components alike
SPREAD = 1.1  # sds of the Gaussians in those of the guess: f is not linear
STEPS = 8  # Gauss-Newton, at most
LENGTHS = (1.0, 0.5, 0.2, 0.05)  # of a step that are tried
SETTLED = 0.01  # nats that no datum gains any more
FARTHEST = 3.0  # prior sds at which a search begins


@dataclass(frozen=True)
class Proposals:
    """Densities that candidates of each datum are drawn from.

    Attributes:
        problem: with data x [n, d].
        mean: of the Gaussians in the latent, scaled_es, [n, K, d].
        root: lower triangular roots of their covariances, [n, K, d, d].
        share: probabilities of the Gaussians of a datum, [n, K].
        around: share of its candidates that come from around a datum, [n].
        evaluations: of the network, each of one sample, that finding them took.
    """

    problem: Problem
    mean: Tensor
    root: Tensor
    share: Tensor
    around: Tensor
    evaluations: int = 0

    def draw(self, rows: np.ndarray, uniform: np.ndarray, normal: np.ndarray) -> Tensor:
        """Candidates in data space, scaled_es, [m, M, d].

        Args:
            rows: numbers of the data, [m].
            uniform: in (0, 1), which choose where candidates come from, [m, M].
            normal: standard normals, [m, M, d].
        """
        x = self.problem.x[rows, None]
        u, v = torch.from_numpy(uniform).to(x), torch.from_numpy(normal).to(x)
        y = x + self.problem.noise_var**0.5 * v
        around = self.around[rows, None]
        edges = around + (1 - around) * self.share[rows].cumsum(1)
        edges = torch.cat([around, edges[:, :-1]], 1)
        place = torch.searchsorted(edges.contiguous(), u.contiguous(), right=True) - 1
        inner = place >= 0
        k = place.clamp_min(0)
        which = torch.arange(len(rows), device=x.device)[:, None].expand_as(k)
        mean, root = self.mean[rows][which, k], self.root[rows][which, k]
        z = mean + (root @ v[..., None])[..., 0]
        y[inner] = self.problem.generate(z[inner])
        return y

    def weigh(self, rows: np.ndarray, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Latents of candidates y [m, M, d] and log g_k(y).

        Returns:
            z [m, M, d] and log g [m, M, K]; a candidate that the flow cannot carry gets z = 0 and
            log g = -inf.
        """
        z, log_p, near, inner = self._densities(rows, y)
        around = self.around[rows, None]
        log_q = torch.logaddexp(near + around.log(), inner + (-around).log1p())
        log_g = log_p + (near - log_q)[..., None]
        lost = ~(torch.isfinite(z).all(2) & torch.isfinite(log_g).all(2))[..., None]
        z, log_g = z.masked_fill(lost, 0.0), log_g.masked_fill(lost, -math.inf)
        return z.cpu().numpy(), log_g.cpu().numpy()

    def _densities(self, rows: np.ndarray, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of candidates y: z [m, M, d], and in data space log p_k [m, M, K], log densities of the
        candidates from around the datum and of those from the Gaussians, [m, M] each."""
        (m, M, d), problem = y.shape, self.problem
        flat = y.reshape(-1, d)
        z, log_det = problem.inflate(flat)
        log_p = (problem.mixture.log_components(z) + log_det[:, None]).reshape(m, M, -1)
        near = problem.log_likelihood(problem.x[rows].repeat_interleave(M, 0), flat)
        z = z.reshape(m, M, d)
        return z, log_p, near.reshape(m, M), self._log_inner(rows, z) + log_det.reshape(m, M)

    def with_best_shares(self) -> Proposals:
        """The same with `around` such that importance weights vary least, judged by pilots."""
        n, d = self.problem.x.shape
        normal = seeding.normals(0, "proposals", 0, n * PILOTS, d).reshape(n, PILOTS, d)
        uniform = np.tile((np.arange(PILOTS) + 0.5) / PILOTS, (n, 1))
        best = []
        for rows in np.array_split(np.arange(n), -(-n * PILOTS // self.problem.flow.block)):
            y = self.draw(rows, uniform[rows], normal[rows])
            _, log_p, near, inner = self._densities(rows, y)
            log_target = torch.logsumexp(log_p, 2) + near
            log_q = [torch.logaddexp(near + math.log(a), inner + math.log1p(-a)) for a in SHARES]
            drawn = torch.logaddexp(near, inner) - math.log(2)
            square = torch.stack([2 * log_target - q - drawn for q in log_q])  # [shares, m, M]
            square = torch.nan_to_num(square, nan=-math.inf, posinf=-math.inf)
            best.append(torch.logsumexp(square, 2).argmin(0))
        around = self.around.new_tensor(SHARES)[torch.cat(best)]
        return replace(self, around=around)

    def _log_inner(self, rows: np.ndarray, z: Tensor) -> Tensor:
        """Log density of the Gaussians in the latent at z [m, M, d], [m, M]."""
        mean, root = self.mean[rows], self.root[rows]  # [m, K, ...]
        gap = (z[:, None] - mean[:, :, None]).mT  # [m, K, d, M]
        white = torch.linalg.solve_triangular(root, gap, upper=False).mT  # [m, K, M, d]
        log_n = log_normal(white.reshape(-1, z.shape[2])).reshape(white.shape[:3])
        log_n = log_n - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None]
        return torch.logsumexp(log_n + self.share[rows].log()[..., None], 1)


def proposals(problem: Problem) -> Proposals:
    """What candidates of the problem's data are drawn from; the same on every rank."""
    flow, before = problem.flow, problem.flow.evaluations
    z = most_likely_latents(problem)
    residual, J = problem.x - problem.generate(z), _jacobian(problem, z)
    residual = torch.where(torch.isfinite(residual), residual, 0.0)
    means, sds = problem.mixture.means, problem.mixture.sds  # [K, d]
    eye = torch.eye(problem.dim).to(z)
    pull = J.mT @ J / problem.noise_var  # [n, d, d]
    covariance = torch.linalg.inv(pull[:, None] + torch.diag_embed(sds**-2))  # [n, K, d, d]
    target = residual + (J @ z[..., None])[..., 0]  # of J z, [n, d]
    gap = target[:, None] - means @ J.mT  # [n, K, d]
    push = (gap @ J / problem.noise_var)[..., None]
    mean = means + (covariance @ push)[..., 0]
    total = (J[:, None] * sds[:, None].square()) @ J[:, None].mT + problem.noise_var * eye
    L = torch.linalg.cholesky(total)
    white = torch.linalg.solve_triangular(L, gap[..., None], upper=False)
    evidence = -0.5 * white.square().sum((2, 3)) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    K = len(means)
    share = (1 - LEAST_SHARE) * torch.softmax(evidence, 1) + LEAST_SHARE / K
    calls = (flow.evaluations - before) / -(-len(z) // flow.block)
    root = SPREAD * torch.linalg.cholesky(covariance)
    half = torch.full_like(share[:, 0], 0.5)
    found = Proposals(problem, mean, root, share, half, round(calls * len(z)))
    return found.with_best_shares()


def most_likely_latents(problem: Problem) -> Tensor:
    """Latents of the highest posterior density under the mixture's own moments, about, [n, d].

    By Gauss-Newton steps from f^-1(x), brought back to where the prior is.
    """
    centre, variance = problem.mixture.moments()
    start = torch.nan_to_num(problem.inflate(problem.x)[0] - centre, posinf=0.0, neginf=0.0)
    reach = FARTHEST * variance.sqrt()
    z = centre + start.clamp(-reach, reach)
    energy = _energy(problem, z, centre, variance)
    for _ in range(STEPS):
        J = _jacobian(problem, z)
        curvature = J.mT @ J / problem.noise_var + torch.diag(1 / variance)
        residual = problem.x - problem.generate(z)
        slope = (residual[:, None] @ J)[:, 0] / problem.noise_var - (z - centre) / variance
        move = torch.linalg.solve(curvature, torch.nan_to_num(slope))
        tried = torch.stack([z] + [z + step * move for step in LENGTHS])  # [1 + s, n, d]
        values = torch.stack(
            [energy] + [_energy(problem, t, centre, variance) for t in tried[1:]]
        )  # [1 + s, n]
        best = values.argmin(0)
        n = torch.arange(len(z), device=z.device)
        gain = energy - values[best, n]
        z, energy = tried[best, n], values[best, n]
        if not bool((gain > SETTLED).any()):
            break
    return z


def _energy(problem: Problem, z: Tensor, centre: Tensor, variance: Tensor) -> Tensor:
    """-log posterior density under a Gaussian prior, up to a constant, [n]; large if not finite."""
    misfit = (problem.x - problem.generate(z)).square().sum(1) / problem.noise_var
    value = 0.5 * (misfit + ((z - centre).square() / variance).sum(1))
    return torch.nan_to_num(value, nan=1e300, posinf=1e300)


def _jacobian(problem: Problem, z: Tensor) -> Tensor:
    """df/dz, [n, d, d]; zero where it is not finite: the Gaussians there are the prior's own."""
    J = problem.jacobian(z)
    good = torch.isfinite(J).all(2).all(1)[:, None, None]
    return torch.where(good, J, 0.0)


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
