r"""Likelihood of a flow: the change of volume along the ODE, in whitened coordinates.

With du = -F dphi, the log density changes by the divergence of the field,

    log p(u(0)) = log N(u(T); 0, I) + log |det du(T)/du(0)|,
    d log |det| = -sum_i dF_i/du_i dphi_i,

and a density in other coordinates is smaller by the log volume of the affine map to them.

Reference: Song et al. 2021, "Score-based generative modeling through SDEs", appendix D.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor

from flow.arguments import VolumeHow, whole
from flow.coordinates import Coordinates
from flow.integration import Integrator, Rate
from torch_utils import philox

Trace = Literal["exact", "hutchinson"]
EXACT_UP_TO = 16  # dimensions for which the exact trace is the default


@dataclass
class Inflated:
    """Data carried to the latent with the change of volume on the way.

    Attributes:
        u: whitened latents, [n, d].
        log_det: log |det du(T)/du(0)|, the mean over probes, [n].
        standard_error: of log_det over probes, [n]; None for the exact trace or a single probe.
    """

    u: Tensor
    log_det: Tensor
    standard_error: Tensor | None = None


@dataclass
class Density:
    """Log densities of data.

    Attributes:
        value: log p, nats, [n].
        standard_error: of the trace estimate, [n]; None where it is exact or has a single probe.
        latents: whitened latents, [n, d].
    """

    value: Tensor
    standard_error: Tensor | None
    latents: Tensor


def log_normal(u: Tensor) -> Tensor:
    """Log density of the standard normal at u [n, d], [n]."""
    return -0.5 * u.square().sum(1) - u.shape[1] / 2 * math.log(2 * math.pi)


@torch.inference_mode(mode=False)
def inflate_with_volume(
    flow: Integrator,
    u: Tensor,
    trace: Trace | None = None,
    probes: int = 1,
    seed: int = 0,
    start: int = 0,
    progress: Callable[[int], Any] | None = None,
    **how: Any,
) -> Inflated:
    """Carry whitened data to whitened latents with log |det|.

    Args:
        flow: the flow.
        u: whitened data, [n, d].
        trace: "exact" takes d reverse passes an evaluation; "hutchinson" one for each probe. None
            for exact up to 16 dimensions.
        probes: Rademacher probes a sample, each fixed along the path.
        seed: of the probes; sample i has the same ones whatever n is.
        start: number of the first sample in the stream of probes.
        progress: called with the number of samples done.
        how: solver, steps, differentiable, ... of `Integrator.integrate`.

    Returns:
        float64 latents and log determinants, differentiable with differentiable=True.

    Raises:
        ValueError: naming the argument that cannot be.
    """
    if trace not in (None, *get_args(Trace)):
        raise ValueError(f"trace={trace!r} is none of {', '.join(get_args(Trace))}")
    whole("probes", probes, 1)
    u = u.clone() if u.is_inference() else u
    d, keep, (t0, T) = flow.schedule.data_dim, bool(how.get("differentiable")), flow.ends(**how)
    trace = trace or ("exact" if d <= EXACT_UP_TO else "hutchinson")
    latents, volumes = [], []
    for first in range(0, len(u), flow.block):
        block = u[first : first + flow.block]
        rate, columns = _exact(flow, keep), 1
        if trace == "hutchinson":
            v = _probes(seed, start + first, len(block), probes, d).to(block)
            rate, columns = _hutchinson(flow, v, keep), probes
        y = torch.cat([block, block.new_zeros(len(block), columns)], 1)
        y = flow.integrate(y, t0, T, rate=rate, **how)
        latents.append(y[:, :d])
        volumes.append(y[:, d:])
        if progress is not None:
            progress(len(block))
    volume = torch.cat(volumes)
    error = volume.std(1) / math.sqrt(probes) if volume.shape[1] > 1 else None
    return Inflated(torch.cat(latents), volume.mean(1), error)


def log_prob(
    flow: Integrator,
    x: Any,
    coords: Coordinates = "unscaled",
    **how: Unpack[VolumeHow],
) -> Density:
    """Log density of data under the flow.

    It is the density of what the flow generates: of the data with the noise N(0, gamma0) of t = 0.

    Args:
        flow: the flow.
        x: data [n, d] in the coordinates `coords`.
        coords: "unscaled" for the data's own units; the density is per unit volume of these.
        how: trace, probes, seed, solver, steps, ... of `inflate_with_volume`.
    """
    t0, _ = flow.ends(**how)
    inflated = inflate_with_volume(flow, flow.admit(x, t0, coords), **how)
    value = log_normal(inflated.u) + inflated.log_det - flow.log_volume(t0, coords)
    return Density(value, inflated.standard_error, inflated.u)


def _exact(flow: Integrator, keep: bool) -> Rate:
    """Rate of log |det|: one reverse pass for each dimension."""

    def rate(t: float, u: Tensor, turn: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            v = u if u.requires_grad else u.detach().requires_grad_()
            F = flow.field(v, t)
            total = torch.zeros_like(v[:, 0])
            for i in range(F.shape[1]):
                more = keep or i < F.shape[1] - 1
                (row,) = torch.autograd.grad(F[:, i].sum(), v, retain_graph=more, create_graph=keep)
                total = total + turn[i] * row[:, i]
        return (F if keep else F.detach()), [-total[:, None]]

    return rate


def _hutchinson(flow: Integrator, probes: Tensor, keep: bool) -> Rate:
    """Unbiased estimates of the same from fixed probes [n, m, d], one column each."""

    def rate(t: float, u: Tensor, turn: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            v = u if u.requires_grad else u.detach().requires_grad_()
            F = flow.field(v, t)
            columns = []
            for k in range(probes.shape[1]):
                p = probes[:, k]
                more = keep or k < probes.shape[1] - 1
                (pulled,) = torch.autograd.grad(
                    (F * (turn * p)).sum(), v, retain_graph=more, create_graph=keep
                )
                columns.append((pulled * p).sum(1))
        return (F if keep else F.detach()), [-torch.stack(columns, 1)]

    return rate


def _probes(seed: int, start: int, n: int, probes: int, d: int) -> Tensor:
    """Rademacher probes of samples start..start+n, [n, probes, d]."""
    signs = philox.signs(seed, "probes", start, start + n, probes * d)
    return signs.reshape(n, probes, d)
