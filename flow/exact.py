r"""Exact fields: Gaussian mixtures, and the data points themselves as one.

A mixture sum_k w_k N(m_k, C_k) stays a mixture under the flow's noise, so its score, denoiser
and field are known in closed form. With covariances of zero the mixture is the data set itself,
which is the `discrete` mode of toy_pfODE_int.py; with others it is the truth that tests and
benchmarks compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from training.basis import Basis
from training.precond import FieldModel
from training.schedule import Schedule

MEMORY_BOUND = 256 * 2**20  # bytes that one chunk's pairwise tables may take


class MixtureField(FieldModel):
    """The exact vector field of data distributed as a Gaussian mixture.

    Args:
        schedule: noise schedule.
        basis: eigenbasis that the schedule's xi belong to.
        means: component means in raw data coordinates, [K, d].
        covariance: of the components in raw coordinates: a float (isotropic), [d, d] shared, or
            [K, d, d].
        weights: component weights, [K]; None for equal ones.
        memory_bound: bytes that the pairwise tables of one chunk of states may take.
    """

    means: Tensor
    covariance: Tensor
    log_weights: Tensor

    def __init__(
        self,
        schedule: Schedule,
        basis: Basis,
        means: Tensor,
        covariance: float | Tensor = 0.0,
        weights: Tensor | None = None,
        memory_bound: int = MEMORY_BOUND,
    ):
        super().__init__(schedule, basis)
        d = schedule.data_dim
        C = torch.as_tensor(covariance, dtype=torch.float64)
        if C.dim() == 0:
            C = C * torch.eye(d, dtype=torch.float64)
        C = C / torch.outer(self.scale, self.scale)
        C = self.W.T @ C @ self.W
        w = torch.ones(len(means), dtype=torch.float64) if weights is None else weights.double()
        self.register_buffer("means", self.encode(means))
        self.register_buffer("covariance", C)
        self.register_buffer("log_weights", torch.log(w / w.sum()))
        per_pair = 8 * (3 if C.dim() == 2 else 4 * d)
        self.chunk = max(1, memory_bound // (per_pair * len(means)))

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """F*(u, t) = E[F | u], [n, d]; all times t, [n] or [1], must be equal."""
        return torch.cat([self._field(c, t[:1]) for c in u.split(self.chunk)])

    def log_density(self, y: Tensor, t: float) -> Tensor:
        """Log density of the noisy data at unscaled eigenbasis points y [n, d], [n]."""
        gamma = self.schedule.gamma(t)[0]
        parts = [self._components(c, gamma)[0] for c in y.split(self.chunk)]
        return torch.cat([torch.logsumexp(p, dim=1) for p in parts])

    def _field(self, u: Tensor, t: Tensor) -> Tensor:
        gamma, S = self.schedule.gamma(t)[0][0], self.schedule.total(t)[0]
        cos, sin = (c[0] for c in self.schedule.cos_sin(t))
        v = u.to(S.dtype)
        log_joint, posterior_means = self._components(v * S.sqrt(), gamma)
        score, y = posterior_means(torch.softmax(log_joint, dim=1))
        # Two equal expressions; each loses digits where the other is taken.
        from_score = sin / cos * (S.sqrt() * score + v)
        from_denoiser = (y / self.schedule.xi.sqrt() - cos * v) / sin
        return torch.where(sin < cos, from_score, from_denoiser).to(u.dtype)

    def _components(self, x: Tensor, gamma: Tensor) -> tuple[Tensor, Callable]:
        """log w_k + log N(x; m_k, C_k + gamma), [n, K], and posterior -> (score, E[y | x])."""
        L = torch.linalg.cholesky(self.covariance + torch.diag(gamma))  # [d, d] or [K, d, d]
        log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.log_weights - log_det - x.shape[1] / 2 * math.log(2 * math.pi)
        if L.dim() == 2:
            white_x = torch.linalg.solve_triangular(L, x.T, upper=False).T
            white_m = torch.linalg.solve_triangular(L, self.means.T, upper=False).T
            square = torch.cdist(
                white_x, white_m, compute_mode="donot_use_mm_for_euclid_dist"
            ).square()

            def shared(p: Tensor) -> tuple[Tensor, Tensor]:
                centre = p @ self.means
                score = torch.cholesky_solve((centre - x).T, L).T
                return score, centre - score @ self.covariance

            return constant - 0.5 * square, shared
        delta = (x[:, None] - self.means)[..., None]  # [n, K, d, 1]
        white = torch.linalg.solve_triangular(L, delta, upper=False)
        pull = torch.linalg.solve_triangular(L.mT, white, upper=True)

        def separate(p: Tensor) -> tuple[Tensor, Tensor]:
            y = self.means + (self.covariance @ pull)[..., 0]  # [n, K, d]
            p = p[..., None]
            return -(p * pull[..., 0]).sum(1), (p * y).sum(1)

        return constant - 0.5 * white.square().sum((-1, -2)), separate
