"""The one training loss: E |F - F*|^2 in whitened coordinates, for toys and images, ES and IS."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from training.precond import InflationPrecond


def flow_loss(
    precond: InflationPrecond,
    x: Tensor,
    t: Tensor,
    noise: Tensor,
    net: Callable[..., Tensor] | None = None,
    **labels: Tensor | None,
) -> Tensor:
    """Squared error of the field at random times, every dimension and sample apart.

    This is the paper's weighted denoising loss, rewritten: no weight is left to compute, and no
    terms cancel.

    Args:
        precond: schedule, basis and network.
        x: raw data, [n, d].
        t: times, [n].
        noise: standard normal, [n, d].
        net: module to call for F instead of `precond.field` (its DDP wrapper).
        labels: class and augmentation labels of `InflationPrecond.field`.

    Returns:
        |F - F*|^2, [n, d].

    Reference: Inflationary Flows, eq. 13 and appendix B.2; Salimans and Ho 2022 (v-prediction).
    """
    cos, sin = precond.schedule.cos_sin(t)
    y = precond.encode(x) / precond.schedule.xi.sqrt()
    noise = noise.to(y)
    u = cos * y + sin * noise
    target = sin * y - cos * noise
    F = (net or precond.field)(u.float(), t, **labels)
    return (F - target).square()
