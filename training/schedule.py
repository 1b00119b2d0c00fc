r"""The noise schedule of inflationary flows, as one object.

Everything lives in the eigenbasis (ES) of the data covariance, where each dimension i has a data
variance xi_i and a noise variance gamma_i(t). All functions return a value together with its
derivative, so no caller ever differentiates by hand. The angle phi_i = arctan sqrt(gamma_i/xi_i)
is what the flow is integrated in (see `flow.flow`); gamma itself is never divided by.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

GType = Literal["constant_inflation_gap", "orig", "proportional"]
G_TYPES: tuple[str, ...] = get_args(GType)
GAUSSIAN_RATIO = 30.0  # below this gamma(T)/xi a kept dimension's latent is visibly not Gaussian


def inflation_exponents(
    data_dim: int,
    dims_to_keep: int,
    g_type: str = "constant_inflation_gap",
    inflation_gap: float = 1.0,
    g_rescaling: float = 1.0,
) -> Tensor:
    """Relative growth exponents g: the noise of dimension i grows at rho (1 + g_i).

    Args:
        data_dim: dimensions of the data, d.
        dims_to_keep: leading dimensions that inflate fully, k; k == d preserves the PR (PRP).
        g_type: "constant_inflation_gap" (+1, -inflation_gap), "orig" (+1, -k/(d-k)) or
            "proportional" (zero: noise variance proportional to the data's own).
        inflation_gap: the paper's effective gap minus 1.
        g_rescaling: factor on all of g.

    Returns:
        float64 tensor [d].

    Raises:
        ValueError: if the dimensions or the type are out of range.
    """
    if not 1 <= dims_to_keep <= data_dim:
        raise ValueError(f"dims_to_keep={dims_to_keep} is not between 1 and data_dim={data_dim}")
    if g_type not in G_TYPES:
        raise ValueError(f"g_type={g_type!r} is none of {', '.join(G_TYPES)}")
    g = torch.zeros(data_dim, dtype=torch.float64)
    if dims_to_keep == data_dim:
        return g
    if g_type == "proportional":
        raise ValueError("g_type=proportional preserves every dimension: dims_to_keep < data_dim")
    lost = data_dim - dims_to_keep
    g[:dims_to_keep] = 1.0
    g[dims_to_keep:] = -dims_to_keep / lost if g_type == "orig" else -inflation_gap
    return g * g_rescaling


def default_rho(g: Tensor) -> float:
    """The rho that gives the fastest dimension the paper's rate of 2: 2 for PRP, 1 for PRR."""
    return 2.0 / (1.0 + float(g.max()))


def participation_ratio(variances: Tensor) -> float:
    """Participation ratio (sum v)^2 / sum v^2 of variances [d]: the effective dimension."""
    v = variances.cpu().double()
    return float(v.sum() ** 2 / v.square().sum())


class Schedule(nn.Module):
    """Noise variances, scale and angles of an inflationary flow for data with variances xi.

    Times t are floats or tensors of shape [...]; per-dimension results have shape [..., d].

    Args:
        xi: eigenvalues of the data covariance, descending, positive, [d].
        dims_to_keep, g_type, inflation_gap, g_rescaling: see `inflation_exponents`.
        rho: exponential rate; None for `default_rho`.
        gamma0: noise variance at t = 0.
        A0: scale constant; the latent's largest variance is A0^2.
        tmax: end time T of the flow.

    Reference: Inflationary Flows, section 3 and appendix B.
    """

    g: Tensor
    xi: Tensor
    rho: Tensor
    gamma0: Tensor

    def __init__(
        self,
        xi: Tensor,
        dims_to_keep: int,
        *,
        g_type: str = "constant_inflation_gap",
        inflation_gap: float = 1.0,
        g_rescaling: float = 1.0,
        rho: float | None = None,
        gamma0: float = 5e-4,
        A0: float = 1.0,
        tmax: float = 7.01,
    ):
        super().__init__()
        xi = torch.as_tensor(xi, dtype=torch.float64)
        g = inflation_exponents(len(xi), dims_to_keep, g_type, inflation_gap, g_rescaling)
        rho = default_rho(g) if rho is None else rho
        if rho <= 0 or gamma0 <= 0 or tmax <= 0:
            raise ValueError(f"rho={rho}, gamma0={gamma0} and tmax={tmax} must all be positive")
        if not bool((xi > 0).all()):
            raise ValueError("data variances must be positive: floor them first")
        self.data_dim, self.dims_to_keep = len(xi), dims_to_keep
        self.g_type, self.A0, self.tmax = g_type, float(A0), float(tmax)
        self._settings = {
            "dims_to_keep": dims_to_keep,
            "g_type": g_type,
            "inflation_gap": float(inflation_gap),
            "g_rescaling": float(g_rescaling),
            "rho": float(rho),
            "gamma0": float(gamma0),
            "A0": float(A0),
            "tmax": float(tmax),
        }
        self._fast, self._slow = int(g.argmax()), int(g.argmin())
        self.register_buffer("g", g)
        self.register_buffer("xi", xi.clone())
        self.register_buffer("rho", torch.tensor(float(rho), dtype=torch.float64))
        self.register_buffer("gamma0", torch.tensor(float(gamma0), dtype=torch.float64))

    @property
    def name(self) -> str:
        """Name in files: "PRP", or "PRRto1D" for a flow that keeps one dimension."""
        return "PRP" if self.dims_to_keep == self.data_dim else f"PRRto{self.dims_to_keep}D"

    @property
    def proportional(self) -> bool:
        """Whether noise grows in proportion to each dimension's own variance (paper, eq. 9)."""
        return self.g_type == "proportional"

    @property
    def rates(self) -> Tensor:
        """Growth rates r = rho (1 + g) of the noise variances, [d]."""
        return self.rho * (1.0 + self.g)

    def settings(self) -> dict:
        """The constructor's keyword arguments, all but xi, as plain Python values."""
        return dict(self._settings)

    def gamma(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Noise variances gamma(t) and d gamma/dt, each [..., d]."""
        t = self._column(t)
        if self.proportional:
            return self.xi * torch.expm1(self.rho * t), self.rho * self.xi * torch.exp(self.rho * t)
        gamma = self.gamma0 * torch.exp(self.rates * t)
        return gamma, self.rates * gamma

    def total(self, t: float | Tensor) -> Tensor:
        """Variance S = xi + gamma of the noisy data, [..., d]."""
        return self.xi + self.gamma(t)[0]

    def scale(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Scale s(t) of the paper's x~ = s x, and ds/dt: [..., 1], or [..., d] (eq. 9)."""
        if self.proportional:
            s = self.A0 / self.xi.sqrt() * torch.exp(-self.rho / 2 * self._column(t))
            return s, -self.rho / 2 * s
        gamma = self.gamma0 * torch.exp(self.rates.max() * self._column(t))
        s = self.A0 / torch.sqrt(self.xi.max() + gamma)
        return s, -0.5 * s**3 / self.A0**2 * self.rates.max() * gamma

    def cos_sin(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the inflation angle phi(t), each [..., d]."""
        v = self._tangent(t)
        cos = torch.rsqrt(1 + v * v)
        return cos, v * cos

    def angle(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Inflation angle phi = arctan sqrt(gamma/xi) and dphi/dt, each [..., d].

        With g_type=proportional dphi/dt is infinite at t = 0, where only dphi/da is regular.
        """
        v = self._tangent(t)
        rate = self.rho / (2 * v) if self.proportional else self.rates / 2 * v / (1 + v * v)
        return torch.arctan(v), rate

    def features(self, t: Tensor) -> Tensor:
        """Three inputs in [0, 1] by which a network can tell the time, [n, 3].

        Angles of the fastest and of the slowest dimension over pi/2, and t/tmax.
        """
        t = t.to(self.xi.dtype)
        phi = torch.arctan(self._tangent(t)) / (np.pi / 2)
        return torch.stack([phi[..., self._fast], phi[..., self._slow], t / self.tmax], dim=-1)

    def latent_variance(self, t: float | None = None) -> Tensor:
        """Variances of the paper's latent x~(t), [d]: about A0^2 (kept), `eps` (compressed).

        Args:
            t: time of the latent; None for tmax.
        """
        t = self.tmax if t is None else t
        s = self.scale(t)[0]
        return s * s * self.total(t)

    def data_participation_ratio(self) -> float:
        """Participation ratio of the data."""
        return participation_ratio(self.xi)

    def participation_ratio(self, t: float) -> float:
        """Participation ratio of the scaled noisy data x~(t)."""
        return participation_ratio(self.latent_variance(t))

    def warnings(self) -> list[str]:
        """What a user should know before trusting latents of this schedule, a sentence each."""
        notes = []
        kept = slice(0, self.dims_to_keep)
        ratio = float((self.gamma(self.tmax)[0] / self.xi)[kept].min())
        if ratio < GAUSSIAN_RATIO:
            rate = float(self.rates[kept].min())
            needed = self.tmax + float(np.log(GAUSSIAN_RATIO / ratio)) / rate
            notes.append(
                f"under-inflated: noise/data variance at tmax={self.tmax:g} is {ratio:.3g} "
                f"(< {GAUSSIAN_RATIO:g}) in a kept dimension, whose latent is then not Gaussian; "
                f"use --tmax {needed:.4g} or a larger --rho"
            )
        rest = slice(self.dims_to_keep, None)
        ratios = (self.gamma(self.tmax)[0] / self.xi)[rest]
        if len(ratios) and float(ratios.min()) < GAUSSIAN_RATIO:
            notes.append(
                f"compressed latents keep some of the data's own shape (noise/data variance at "
                f"tmax={self.tmax:g} is {float(ratios.min()):.3g} < {GAUSSIAN_RATIO:g}): round "
                "trips are unaffected, samples generated from Gaussian latents are; a longer "
                "--tmax with a small --g_rescaling (the paper: 15.01 and 0.15) inflates these too"
            )
        born = int((self.xi < self.gamma0).sum())
        if born and not self.proportional:
            notes.append(
                f"{born} of {self.data_dim} dimensions have a variance below "
                f"gamma0={float(self.gamma0):g} and start compressed "
                "(unperturbed data has a latent sd < 1 there); lower --gamma0 for likelihood work"
            )
        return notes

    def summary(self, floored: int = 0) -> list[str]:
        """What a run says of its schedule before it starts: participation ratios and warnings.

        Args:
            floored: dimensions whose variance a floor has raised, see `training.basis`.
        """
        lines = [
            f"Schedule {self.name} ({self.g_type}): rho={float(self.rho):g}, "
            f"gamma0={float(self.gamma0):g}, tmax={self.tmax:g}, growth rates "
            f"{_spread(self.rates)}",
            f"Latent variances (the paper's eps): {_spread(self.latent_variance())}",
            f"Participation ratio: data {self.data_participation_ratio():.3f}, "
            f"latent {self.participation_ratio(self.tmax):.3f}",
        ]
        if floored:
            lines.append(
                f"Warning: {floored} of {self.data_dim} directions of the data are constant or "
                "nearly so; their variance is floored at 1e-6 of the largest"
            )
        return lines + [f"Warning: {w}" for w in self.warnings()]

    def _column(self, t: float | Tensor) -> Tensor:
        return torch.as_tensor(t, dtype=self.xi.dtype, device=self.xi.device)[..., None]

    def _tangent(self, t: float | Tensor) -> Tensor:
        if self.proportional:
            v = torch.sqrt(torch.expm1(self.rho * self._column(t)))
            return v.expand(*v.shape[:-1], self.data_dim)
        return torch.sqrt(self.gamma0 / self.xi) * torch.exp(self.rates / 2 * self._column(t))


def _spread(values: Tensor) -> str:
    """Numbers [d] in a few words."""
    distinct = np.unique(np.round(values.cpu().numpy(), 12))[::-1]
    if len(distinct) <= 4:
        return ", ".join(f"{v:.4g}" for v in distinct)
    return f"{distinct[0]:.4g} to {distinct[-1]:.4g}"
