r"""Uncertainty carried through a flow: the exact push-forward beside its linearisation.

The map is deterministic, so what is known of data x as N(x, C) or as samples is known of its latent
z = f(x), and the other way: each sample is carried. To first order z is N(f(x), J C J^T) with the
Jacobian J at x. The two part where the map bends within the uncertainty; a Kolmogorov-Smirnov
distance says so for each dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from flow.arguments import How, whole
from flow.coordinates import Coordinates
from flow.integration import Integrator
from torch_utils import seeding

To = Literal["latent", "data"]
LEVEL = 0.01  # that an exact linearisation parts in any dimension
TOLERANCE = 0.02  # Kolmogorov-Smirnov distance beyond chance that is not worth a word


@dataclass
class Propagated:
    """What is known where the flow leads.

    Attributes:
        mean: of the push-forward, [d].
        covariance: of the push-forward, [d, d].
        draws: carried samples, [n, d].
        linear_mean: the image of the mean, [d].
        linear_covariance: J C J^T, [d, d].
        jacobian: J at the mean, [d, d].
        parting: Kolmogorov-Smirnov distance of the draws of each dimension from the linearisation's
            normal distribution, [d]: 0 if they agree, 1 if they have nothing in common.
        chance: that so many draws reach by chance in any dimension, once in a hundred.
    """

    mean: Tensor
    covariance: Tensor
    draws: Tensor
    linear_mean: Tensor
    linear_covariance: Tensor
    jacobian: Tensor
    parting: Tensor
    chance: float

    @property
    def parted(self) -> list[int]:
        """Dimensions, from 0, in which the linearisation is not what the flow does."""
        far = self.parting > self.chance + TOLERANCE
        return far.nonzero()[:, 0].tolist()

    def note(self) -> str:
        """In one line, where linearisation and push-forward part."""
        if not self.parted:
            return (
                f"The linearisation holds: KS distance at most {float(self.parting.max()):.3f} "
                f"(by chance up to {self.chance:.3f})"
            )
        worst = int(self.parting.argmax())
        shift = (self.mean - self.linear_mean)[worst]
        sds = (self.covariance[worst, worst] / self.linear_covariance[worst, worst]).sqrt()
        return (
            f"The linearisation fails in {len(self.parted)} of {len(self.parting)} dimensions, "
            f"most in {worst} (from 0): KS distance {float(self.parting[worst]):.3f}, mean off by "
            f"{float(shift):.2g}, sd {float(sds):.2g} times the linear one; use the draws"
        )


def propagate(
    flow: Integrator,
    x: Any = None,
    cov: Any = None,
    *,
    samples: Any = None,
    to: To = "latent",
    coords: Coordinates = "whitened",
    n: int = 4096,
    seed: int = 0,
    **how: Unpack[How],
) -> Propagated:
    """Carry an uncertain datum to its latent, or an uncertain latent to its datum.

    Args:
        flow: the flow.
        x: mean, [d]: data in their own units, or with to="data" a latent in `coords`.
        cov: its covariance, [d, d], or variances, [d].
        samples: instead of both, samples of what is uncertain, [n, d].
        to: "latent" or "data", where the uncertainty is carried.
        coords: coordinates of the latents.
        n: draws, where x and cov are given.
        seed: of the draws.
        how: solver, steps, ... of `Integrator.integrate`.

    Raises:
        ValueError: naming the argument that cannot be.
    """
    if to not in get_args(To):
        raise ValueError(f"to={to!r} is none of {', '.join(get_args(To))}")
    mean, C, draws = _given(flow, x, cov, samples, n, seed)
    start, stop = flow.ends(**how) if to == "latent" else flow.ends(**how)[::-1]
    data: Coordinates = "unscaled"
    here, there = (data, coords) if to == "latent" else (coords, data)
    flow.admit(mean[None], start, here)  # which refuses what it cannot be

    def carry(rows: Tensor, graph: bool = False) -> Tensor:
        u = flow.to_whitened(rows, start, here)
        u = flow.integrate(u, start, stop, differentiable=graph, **how)
        return flow.from_whitened(u, stop, there)

    carried = torch.cat([carry(block) for block in draws.split(flow.block)])
    _check_finite(carried)
    point = carry(mean[None])[0]
    J = _jacobian(flow, mean, carry)
    linear = J @ C @ J.T
    return Propagated(
        carried.mean(0), torch.cov(carried.T).reshape(linear.shape), carried, point, linear, J,
        *_parting(carried, point, linear),
    )  # fmt: skip


def _check_finite(carried: Tensor) -> None:
    lost = int((~torch.isfinite(carried).all(1)).sum())
    if lost:
        raise ValueError(f"{lost} of {len(carried)} samples do not stay finite; use more steps")


def _jacobian(flow: Integrator, x: Tensor, carry: Callable[..., Tensor]) -> Tensor:
    """d carry/dx at x [d], [d, d], by forward passes, whose memory does not grow with the steps.

    Where an operation has none, by reverse ones.
    """
    units = torch.eye(len(x), dtype=x.dtype, device=x.device).split(flow.block)

    def column(unit: Tensor) -> Tensor:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.expand_as(unit).clone(), unit)
            return forward_ad.unpack_dual(carry(dual)).tangent

    def row(unit: Tensor) -> Tensor:
        with torch.enable_grad():
            rows = x.expand_as(unit).clone().requires_grad_()
            return torch.autograd.grad((carry(rows, graph=True) * unit).sum(), rows)[0]

    try:
        return torch.cat([column(unit) for unit in units]).T
    except NotImplementedError:
        return torch.cat([row(unit) for unit in units])


def _given(
    flow: Integrator, x: Any, cov: Any, samples: Any, n: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [d], covariance [d, d] and draws [n, d] of what is uncertain."""
    d = flow.schedule.data_dim

    def tensor(name: str, value: Any) -> Tensor:
        found = torch.as_tensor(np.asarray(value), dtype=flow.dtype).to(flow.device)
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{name} holds NaN or infinite values")
        return found

    if samples is not None:
        if x is not None or cov is not None:
            raise ValueError("give samples, or x and cov, not both")
        draws = tensor("samples", samples)
        if draws.dim() != 2 or draws.shape[1] != d or len(draws) < 2:
            raise ValueError(f"samples: wanted is [n, {d}], n of 2 or more, {tuple(draws.shape)}")
        return draws.mean(0), torch.cov(draws.T).reshape(d, d), draws
    if x is None or cov is None:
        raise ValueError("give x and its covariance cov, or samples")
    whole("n", n, 2)
    mean, C = tensor("x", x), tensor("cov", cov)
    if mean.shape != (d,):
        raise ValueError(f"x has shape {tuple(mean.shape)}; it must be one datum, [{d}]")
    C = torch.diag(C.expand(d)) if C.dim() < 2 and C.numel() in (1, d) else C
    if C.shape != (d, d):
        raise ValueError(f"cov has shape {tuple(C.shape)}; it must be [{d}, {d}] or [{d}]")
    values, vectors = torch.linalg.eigh((C + C.T) / 2)
    if not torch.allclose(C, C.T) or float(values[0]) < -1e-9 * float(values[-1].abs()):
        raise ValueError("cov is no covariance: it must be symmetric, without negative variances")
    normal = torch.from_numpy(seeding.normals(seed, "propagate", 0, n, d)).to(mean)
    return mean, C, mean + (normal * values.clamp(min=0).sqrt()) @ vectors.T


def _parting(draws: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, float]:
    """KS distance of each dimension [d] from N(mean, covariance), and what chance gives."""
    from scipy.stats import kstest, norm  # slow to import, for a flow that may not need it

    sds = covariance.diagonal().clamp(min=0).sqrt()
    columns = zip(draws.T.cpu().numpy(), mean.tolist(), sds.tolist(), strict=True)
    found = [
        kstest(c, norm(m, sd).cdf).statistic if sd > 0 else float((c != m).any())
        for c, m, sd in columns
    ]
    chance = math.sqrt(math.log(2 * len(found) / LEVEL) / (2 * len(draws)))
    return torch.tensor(found, dtype=torch.float64), chance
