r"""The preconditioners of Karras et al. 2022, table 1, and the noise levels that go with them.

A denoiser D(x, sigma) = c_skip x + c_out F(c_in x, c_noise) of noisy data x = y + sigma n, with one
noise level for all dimensions. They stand beside the inflationary preconditioner
(`training.precond`), whose noise differs from dimension to dimension.

    losses   sigma ~ a distribution, given by its quantiles; |D - y|^2 with a weight

Training (`RECIPES`) needs no second loop for them. With one variance xi for all dimensions and
tan(phi) = sigma / sqrt(xi), D - y = sqrt(xi) sin(phi) (F - F*), whatever network D is made of. So
the published losses are losses of the field F: EDM's is |F - F*|^2, and those of VP and VE, of
weight 1/sigma^2, are cos(phi)^2 |F - F*|^2. What is left of each method is how it draws sigma and
how it tells the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SIGMA_DATA = 0.5
VP_BETA_D, VP_BETA_MIN, VP_FIRST_TIME = 19.9, 0.1, 1e-5
VP_STEPS = 1000
VE_SIGMA_MIN, VE_SIGMA_MAX = 0.02, 100.0
EDM_SIGMA_MIN, EDM_SIGMA_MAX = 0.002, 80.0  # where EDM's sampler starts and ends

Scalings = tuple[Tensor | float, Tensor | float, Tensor | float, Tensor]


def edm_scalings(sigma: Tensor, sigma_data: float = SIGMA_DATA) -> Scalings:
    """(c_skip, c_out, c_in, c_noise) of EDM: network inputs and targets of unit variance.

    Args:
        sigma: noise levels.
        sigma_data: standard deviation of the data.

    Returns:
        each of sigma's shape, or a constant.
    """
    S = sigma.square() + sigma_data**2
    c_out = sigma * sigma_data * S.rsqrt()
    return sigma_data**2 / S, c_out, S.rsqrt(), NOISE_LABELS["edm"](sigma)


def vp_scalings(
    sigma: Tensor, beta_d: float = VP_BETA_D, beta_min: float = VP_BETA_MIN, M: int = VP_STEPS
) -> Scalings:
    """The same of the variance preserving (VP) diffusion, whose network predicts noise.

    Args:
        sigma: noise levels.
        beta_d: extent of the noise schedule.
        beta_min: its first slope.
        M: time steps of the original discrete training.
    """
    t = vp_time(sigma, beta_d, beta_min)
    return 1.0, -sigma, (sigma.square() + 1).rsqrt(), (M - 1) * t


def ve_scalings(sigma: Tensor) -> Scalings:
    """The same of the variance exploding (VE) diffusion."""
    return 1.0, sigma, 1.0, NOISE_LABELS["ve"](sigma)


def vp_sigma(t: Tensor, beta_d: float = VP_BETA_D, beta_min: float = VP_BETA_MIN) -> Tensor:
    """Noise level sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1) of the VP diffusion at times t."""
    return torch.expm1(t * (beta_d / 2 * t + beta_min)).sqrt()


def vp_time(sigma: Tensor, beta_d: float = VP_BETA_D, beta_min: float = VP_BETA_MIN) -> Tensor:
    """Inverse of `vp_sigma`, in the form of the quadratic's root that does not cancel."""
    twice_log = 2 * torch.log1p(sigma.square())
    return twice_log / (beta_min + (beta_min**2 + beta_d * twice_log).sqrt())


def edm_levels(
    q: Tensor, mean: float = -1.2, std: float = 1.2, sigma_data: float = SIGMA_DATA
) -> tuple[Tensor, Tensor]:
    """EDM's log-normal noise levels from uniform q in (0, 1), and their loss weights.

    Args:
        q: quantiles, [n].
        mean: mean of log sigma.
        std: standard deviation of log sigma.
        sigma_data: standard deviation of the data.

    Returns:
        sigma and weight 1/c_out^2, each [n].
    """
    tiny = torch.finfo(q.dtype).eps
    sigma = (mean + std * torch.special.ndtri(q.clamp(tiny, 1 - tiny))).exp()
    return sigma, sigma.pow(-2) + sigma_data**-2


def vp_levels(q: Tensor) -> tuple[Tensor, Tensor]:
    """VP's noise levels, uniform in time, and loss weights 1/sigma^2; see `edm_levels`."""
    sigma = vp_sigma(VP_FIRST_TIME + (1 - VP_FIRST_TIME) * q)
    return sigma, sigma.pow(-2)


def ve_levels(q: Tensor) -> tuple[Tensor, Tensor]:
    """VE's log-uniform noise levels and loss weights 1/sigma^2; see `edm_levels`."""
    sigma = VE_SIGMA_MIN * (q * math.log(VE_SIGMA_MAX / VE_SIGMA_MIN)).exp()
    return sigma, sigma.pow(-2)


# Preconditioners by their published names -> scalings; `METHODS` are they as --precond names them.
DENOISERS: dict[str, Callable[..., Scalings]] = {
    "EDMPrecond": edm_scalings,
    "VPPrecond": vp_scalings,
    "VEPrecond": ve_scalings,
}
METHODS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}

# How a network is told the noise level sigma.
NOISE_LABELS: dict[str, Callable[[Tensor], Tensor]] = {
    "edm": lambda sigma: sigma.log() / 4,
    "vp": lambda sigma: (VP_STEPS - 1) * vp_time(sigma),
    "ve": lambda sigma: (sigma / 2).log(),
}

# How noise levels may be drawn, named for what it does: quantiles -> levels and weights.
LEVELS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "lognormal": edm_levels,
    "vp_time": vp_levels,
    "log_uniform": ve_levels,
}


class Recipe(NamedTuple):
    """How a flow is trained.

    Attributes:
        t_sampling: "uniform" in the schedule's time, "arc" in arc length, "likelihood" (see
            `training.times`), or a key of `LEVELS`.
        weighting: of the error of the field, see `training.loss.flow_loss`.
        levels: smallest and largest noise level of the flow; None for those of its schedule.
        variance: that the flow takes all dimensions to have; None for the mean of the data's.
        output: what the network predicts, see `InflationPrecond`.
        importance: whether times are drawn in proportion to the likelihood weight.
    """

    t_sampling: str = "uniform"
    weighting: str = "edm"
    levels: tuple[float, float] | None = None
    variance: float | None = None
    output: str = "velocity"
    importance: bool = False


def _vp_range() -> tuple[float, float]:
    first, last = vp_sigma(torch.tensor([VP_FIRST_TIME, 1.0], dtype=torch.float64)).tolist()
    return first, last


# sigma/alpha at both ends of the diffusion ODEs of maximum likelihood (VDM, i-DODE).
_VELOCITY_LEVELS = (math.exp(-13.3 / 2), math.exp(5.0 / 2))

# What --precond names; all but "ifs" have one variance for all dimensions and no rotation.
RECIPES = {
    "ifs": Recipe(),
    "edm": Recipe("lognormal", "edm", (EDM_SIGMA_MIN, EDM_SIGMA_MAX)),
    "vp": Recipe("vp_time", "noise", _vp_range()),
    "ve": Recipe("log_uniform", "noise", (VE_SIGMA_MIN, VE_SIGMA_MAX)),
    "vp_velocity": Recipe("likelihood", "likelihood", _VELOCITY_LEVELS, 1.0, importance=True),
    "sp_velocity": Recipe(
        "likelihood", "likelihood", _VELOCITY_LEVELS, 1.0, "straight", importance=True
    ),
}
