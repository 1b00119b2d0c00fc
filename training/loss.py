"""The one training loss: E |F - F*|^2 in whitened coordinates, for toys and images, ES and IS.

And how far a step goes: learning rate and decay of the weight average after so many samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.options import TrainOptions
from training.precond import InflationPrecond

EMA_RAMPUP = 0.05  # the half-life of the average is at most this share of the samples seen
SECOND_ORDER = 0.1  # weight of the second-order penalty


def flow_loss(
    field: nn.Module,
    x: Tensor,
    t: Tensor,
    noise: Tensor,
    weights: Tensor | None = None,
    probe: Tensor | None = None,
    **labels: Tensor | None,
) -> Tensor:
    """Weighted squared error of the field at random times, every dimension and sample apart.

    Args:
        field: the model, an `InflationPrecond`, or its DDP wrapper.
        x: raw data, [n, d].
        t: times, [n].
        noise: standard normal, [n, d].
        weights: of the errors, [n, d], see `training.times`; None for 1.
        probe: random signs [n, d], with which the second-order penalty is added; None for none.
        labels: class and augmentation labels of `InflationPrecond`.

    Returns:
        weights |F - F*|^2, [n, d].
    """
    precond = getattr(field, "module", field)
    assert isinstance(precond, InflationPrecond)
    cos, sin = precond.schedule.cos_sin(t)
    y = precond.encode(x) / precond.schedule.xi.sqrt()
    noise = noise.to(y)
    u = (cos * y + sin * noise).float()
    target = sin * y - cos * noise
    if probe is None:
        errors = (field(u, t, **labels) - target).square()
    else:
        u.requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
            F = field(u, t, **labels)
        errors = (F - target).square()
        errors = errors + second_order_penalty(u, F, errors, cos, sin, probe.to(F))[:, None]
    return errors if weights is None else weights * errors


def second_order_penalty(
    u: Tensor, F: Tensor, errors: Tensor, cos: Tensor, sin: Tensor, probe: Tensor
) -> Tensor:
    r"""How far the divergence of the field is from what the errors of its target imply.

    With f = -F, Tweedie's second-order formula says of each dimension, given u, that
    sin df/du = cos (1 - E(f* - f)^2), if f is exact. The penalty is 0.1 r^2 / d^2, r being the
    difference of the two sides, summed over dimensions; the mean over dimensions of the loss thus
    grows by 0.1 r^2 / d for each d of it.

    Args:
        u: whitened states that F was computed from, with a graph, [n, d].
        F: the field, [n, d].
        errors: |F - F*|^2, [n, d]; taken as constants.
        cos, sin: of the inflation angles, [n, d].
        probe: random signs, [n, d].

    Returns:
        the penalty, [n].

    Reference: Zheng et al. 2023, "Improved techniques for maximum likelihood estimation for
    diffusion ODEs", section 3.2, here with an angle for each dimension.
    """
    (pulled,) = torch.autograd.grad((-F * probe).sum(), u, create_graph=True)
    q = (pulled * sin * probe).sum(1)
    r = q - (cos * (1 - errors.detach())).sum(1)
    return SECOND_ORDER / F.shape[1] ** 2 * r.square()


def learning_rate(c: TrainOptions, nimg: int) -> float:
    """Learning rate after nimg samples: linear warm-up, then constant or cosine to zero."""
    warmup = min((nimg + c.batch) / max(c.warmup, c.batch), 1.0)
    decay = 1.0
    if c.lr_decay == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * min(nimg / c.total, 1.0)))
    return c.lr * warmup * decay


def average_decay(c: TrainOptions, nimg: int) -> float:
    """Weight of the old average of weights in the one after the step at nimg samples."""
    halflife = float(c.halflife)
    if c.transfer is None:  # as published
        halflife = min(halflife, nimg * EMA_RAMPUP)
    return 0.5 ** (c.batch / max(halflife, 1e-8))
