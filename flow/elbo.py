r"""Likelihood of the stochastic flow: the variational bound (ELBO), in whitened coordinates.

Read as a diffusion model, a flow bounds the likelihood without a divergence: with F* the regression
target of datum y at time t,

    -log p <= KL(q(u_T | y) || N(0, I)) + 1/2 int_0^T sum_i w_i E |F_i - F*_i|^2 dt + R,

w_i = r_i cos(phi_i)^2, r_i the growth rate of the noise of dimension i.

For levels R = -E log P(y | x_0); for real vectors, whose density exists only with the noise of
t = 0, R is the entropy of that noise, and the bound is one on -E log p(y + sqrt(gamma0) e).

Reference: Kingma et al. 2021, "Variational diffusion models"; its weight, one rate a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flow.dequantization import log_prob_of_levels
from flow.flow import Flow
from flow.integration import BLOCK, IMAGE_BLOCK
from torch_utils import seeding
from training.schedule import Schedule
from training.times import LikelihoodWeighting

NODES = 513  # of the cumulative weight by which times are chosen


@dataclass
class Bound:
    """Parts of the bound on -log p, nats, each [n]: estimates by one noise a time.

    Attributes:
        prior: KL divergence of the latent from N(0, I), exact.
        diffusion: error of the field, integrated over time.
        rest: R above: -log P(levels | x_0), or the entropy of the noise at t = 0.
    """

    prior: Tensor
    diffusion: Tensor
    rest: Tensor

    @property
    def value(self) -> Tensor:
        """The bound, [n]."""
        return self.prior + self.diffusion + self.rest


def check_rates(schedule: Schedule) -> None:
    """Check that the schedule is a diffusion: noise that never shrinks, and some at t = 0.

    Raises:
        ValueError: saying why there is no bound.
    """
    if schedule.proportional:
        raise ValueError(
            "g_type=proportional has no noise at t = 0, where the bound diverges: ODE values only"
        )
    lowest = float(schedule.rates.min())
    if lowest < 0:
        raise ValueError(
            f"the noise of compressed dimensions shrinks in this schedule (growth rate "
            f"{lowest:.3g} < 0), so it is no diffusion and has no variational bound: ODE values "
            "only; a schedule with a smaller --inflation_gap or --g_rescaling has one"
        )


def quadrature(schedule: Schedule, count: int) -> tuple[Tensor, Tensor]:
    """Times and weights of an integral over time: midpoints of equal parts of sum_i r_i cos_i^2.

    Args:
        schedule: the schedule.
        count: how many.

    Returns:
        times [count] and weights [count], float64.
    """
    weighting = LikelihoodWeighting(schedule, 0.0, nodes=NODES)
    times = weighting.times((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    cos = schedule.cos_sin(times.to(schedule.xi))[0]
    density = (schedule.rates * cos.square()).mean(1).cpu().double()
    return times, weighting.total / count / density


@torch.no_grad()
def elbo(
    flow: Flow,
    x: Tensor,
    times: int = 32,
    seed: int = 0,
    start: int = 0,
    half_width: float | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Bound:
    """The variational bound on -log p of data.

    All samples share the times; noise is drawn for each sample and time.

    Args:
        flow: the flow.
        x: data in its own units, [n, d], without noise.
        times: network evaluations a sample.
        seed: of the noise.
        start: number of the first sample in the stream of noise.
        half_width: of the data's levels, in its units; None for real vectors.
        progress: called with the number of samples done.

    Returns:
        float64 parts: of -log P(levels) per image, or of -log density of noisy data per vector.

    Raises:
        ValueError: for schedules without a bound, see `check_rates`.
    """
    check_rates(flow.schedule)
    when = quadrature(flow.schedule, times)
    parts = []
    for first in range(0, len(x), flow.block):
        block = x[first : first + flow.block].to(flow.device, flow.dtype)
        noise = _noise(flow, seed, start + first, len(block))
        parts.append(_block_bound(flow, block, when, noise, half_width))
        if progress is not None:
            progress(len(block))
    return Bound(*(torch.cat([p[i] for p in parts]) for i in range(3)))


def _noise(flow: Flow, seed: int, start: int, n: int) -> Iterator[Tensor]:
    """Endless draws of standard normals [n, d] for samples start..start+n of a stream.

    Each is drawn for a whole block of the stream, which is as long as a network's batch used to be,
    so that a sample's does not depend on the batch.
    """
    block = IMAGE_BLOCK if flow.images else BLOCK
    first, last = start // block, -(-(start + n) // block)
    rngs = [seeding.generator(seed, "elbo noise", b * block) for b in range(first, last)]
    while True:
        drawn = [rng.standard_normal((block, flow.schedule.data_dim)) for rng in rngs]
        yield torch.from_numpy(np.concatenate(drawn)[start - first * block :][:n])


def _block_bound(
    flow: Flow,
    x: Tensor,
    when: tuple[Tensor, Tensor],
    noise: Iterator[Tensor],
    half_width: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    s = flow.schedule
    xi, rates = s.xi.to(x), s.rates.to(x)
    y = flow.model.encode(x).to(x) / xi.sqrt()

    def angles(t: float) -> tuple[Tensor, Tensor]:
        cos, sin = s.cos_sin(t)
        return cos.to(x), sin.to(x)

    diffusion = torch.zeros_like(x[:, 0])
    for t, weight in zip(*when, strict=True):
        cos, sin = angles(float(t))
        n = next(noise).to(x)
        F = flow.field(cos * y + sin * n, float(t))
        error = (F - (sin * y - cos * n)).square()
        diffusion += 0.5 * float(weight) * (rates * cos.square() * error).sum(1)
    cos, sin = angles(s.tmax)
    prior = 0.5 * ((cos * y).square() + sin.square() - 1 - 2 * sin.log()).sum(1)
    sd = flow.model.scale.to(x) * float(s.gamma0) ** 0.5
    if half_width is None:
        entropy = float((sd.log() + 0.5 * math.log(2 * math.pi * math.e)).sum())
        return prior, diffusion, torch.full_like(prior, entropy)
    rest = -log_prob_of_levels(x, x + sd * next(noise).to(x), sd, half_width)
    return prior, diffusion, rest
