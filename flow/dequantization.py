r"""From densities to probabilities of 8-bit levels: dequantization.

A stored value k of 0..255 stands for a cell of half-width h around its level, h = 1/255 under
k/127.5 - 1. The probability of the levels is the integral of the model's density over their cell;
for any density q(e) within the cell,

    log P(levels) >= E_q log (1/K) sum_k p(x + e_k) / q(e_k),

which tightens as K grows. q is uniform, or, for data that was given the noise N(0, gamma0) in
training, that noise truncated to the cell.

Reference: Zheng et al. 2023, "Improved techniques for maximum likelihood estimation for diffusion
ODEs", section 4; Burda et al. 2016 for K > 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flow.flow import Flow
from torch_utils import seeding

KINDS = ("uniform", "tn", "none")
LEVELS = 256
IMAGE_HALF_WIDTH = 1 / 255  # of x/127.5 - 1, the units of `image_data.ImageSource`
LEAST_TAU = 3.0  # sds of the noise that the cell must hold: 99.7 % of its mass


@dataclass(frozen=True)
class Dequantization:
    """A density q(e) of noise within a cell.

    Attributes:
        kind: "uniform" or "tn" (truncated normal).
        half_width: of the cell, in each dimension, [d].
        sd: of the normal that is truncated, [d]; not used by "uniform".
    """

    kind: str
    half_width: Tensor
    sd: Tensor

    @property
    def tau(self) -> Tensor:
        """Half-width in sds, [d]."""
        return self.half_width / self.sd

    @property
    def mass(self) -> Tensor:
        """Share Z of the normal that lies in the cell, [d]."""
        return torch.erf(self.tau / math.sqrt(2))

    def draw(self, seed: int, start: int, stop: int, number: int = 0) -> Tensor:
        """Noise of samples start..stop, [stop - start, d], float64.

        Args:
            seed: of the stream.
            start, stop: range of samples.
            number: of the importance draw; each has a stream of its own.
        """
        d = len(self.half_width)
        uniform = seeding.rows(
            lambda n, rng: rng.random((n, d)), seed, f"dequantization {number}", start, stop
        )
        centred = torch.from_numpy(uniform).to(self.half_width) - 0.5
        if self.kind == "uniform":
            return 2 * self.half_width * centred
        e = self.sd * torch.special.ndtri(0.5 + self.mass * centred)
        return torch.maximum(torch.minimum(e, self.half_width), -self.half_width)

    def log_prob(self, e: Tensor) -> Tensor:
        """log q(e), [n], for noise e [n, d] within the cell."""
        if self.kind == "uniform":
            return (-(2 * self.half_width).log().sum()).expand(len(e))
        constant = (self.mass * self.sd).log() + 0.5 * math.log(2 * math.pi)
        return -(0.5 * (e / self.sd).square() + constant).sum(1)

    def entropy(self) -> float:
        """-E log q, nats, in closed form."""
        if self.kind == "uniform":
            return float((2 * self.half_width).log().sum())
        tau, Z = self.tau, self.mass
        spread = 0.5 + 0.5 * math.log(2 * math.pi) + self.sd.log() + Z.log()
        return float((spread - tau * _normal_density(tau) / Z).sum())

    def variance(self) -> Tensor:
        """Variance of the noise in each dimension, [d]."""
        if self.kind == "uniform":
            return self.half_width.square() / 3
        return self.sd.square() * (1 - 2 * self.tau * _normal_density(self.tau) / self.mass)


def dequantization(
    flow: Flow, kind: str, half_width: float = IMAGE_HALF_WIDTH, least_tau: float = LEAST_TAU
) -> Dequantization:
    """The dequantization of a flow's data.

    Args:
        flow: its gamma0, in the data's units, is the variance that "tn" truncates.
        kind: "uniform" or "tn".
        half_width: of a level, in the data's units.
        least_tau: least half-width over noise sd that "tn" accepts.

    Raises:
        ValueError: if the flow's noise does not fit into the cells, saying which gamma0 does.
    """
    if kind not in ("uniform", "tn"):
        raise ValueError(f"dequantization={kind!r} is neither uniform nor tn")
    s = flow.schedule
    scale = flow.model.scale.to(flow.dtype)
    gamma0 = 0.0 if s.proportional else float(s.gamma0)
    sd = scale * math.sqrt(gamma0)
    if kind == "tn":
        if gamma0 == 0:
            raise ValueError(
                "tn truncates the noise that data has at t = 0, and g_type=proportional has none: "
                "use uniform"
            )
        needed = (half_width / least_tau / float(scale.max())) ** 2
        if gamma0 > needed * (1 + 1e-6):
            raise ValueError(
                f"tn needs the noise within the cells of the {LEVELS} levels, half-width "
                f"{half_width:.6g}: gamma0 at most {needed:.2g}, and this network has "
                f"gamma0={gamma0:.3g}; train with --gamma0={_rounded_down(needed):.1e}, or use "
                "uniform"
            )
    return Dequantization(kind, torch.full_like(scale, half_width), sd)


def check_levels(x: Tensor, half_width: float = IMAGE_HALF_WIDTH, first: int = 0) -> None:
    """Check that data [n, d] are levels -1, -1 + 2 h, ..., -1 + 2 h (LEVELS - 1).

    Args:
        x: data.
        half_width: h.
        first: number of the first sample, for messages.

    Raises:
        ValueError: naming the first value that is none.
    """
    number = (x.double() + 1) / (2 * half_width)
    nearest = number.round().clamp(0, LEVELS - 1)
    wrong = ~((number - nearest).abs() < 1e-3)  # NaN is wrong too
    if not bool(wrong.any()):
        return
    row, column = wrong.nonzero()[0].tolist()
    raise ValueError(
        f"sample {first + row} holds {float(x[row, column]):.6g} in dimension {column}, which is "
        f"none of the {LEVELS} levels -1, {-1 + 2 * half_width:.4f}, ..., "
        f"{-1 + 2 * half_width * (LEVELS - 1):.4g} that dequantization is for"
    )


def log_prob_of_levels(x: Tensor, noisy: Tensor, sd: Tensor, half_width: float) -> Tensor:
    """log P(level x | level + N(0, sd^2) = noisy) under a flat prior on the levels, [n].

    Args:
        x: levels, [n, d].
        noisy: observed, [n, d].
        sd: of the noise, [d].
        half_width: of a level.
    """
    width = 2 * half_width
    nearest = ((noisy + 1) / width).round().clamp(0, LEVELS - 1)
    reach = min(LEVELS, 2 + int(float((12 * sd / width).max())))
    least = (noisy - nearest * width + 1).square()
    total = torch.zeros_like(noisy)
    for step in range(-reach, reach + 1):
        number = nearest + step
        inside = (number >= 0) & (number < LEVELS)
        exponent = (least - (noisy - number * width + 1).square()) / (2 * sd.square())
        total += torch.where(inside, exponent.exp(), 0.0)
    own = (least - (noisy - x).square()) / (2 * sd.square())
    return (own - total.log()).sum(1)


def _normal_density(tau: Tensor) -> Tensor:
    return (-0.5 * tau.square()).exp() / math.sqrt(2 * math.pi)


def _rounded_down(value: float) -> float:
    """To two digits, never more than the value."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / digit) * digit
