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
    of: str = "field",
    net: Callable[..., Tensor] | None = None,
    **labels: Tensor | None,
) -> Tensor:
    """Squared error of the field at random times, every dimension and sample apart.

    Of the field, this is the paper's weighted denoising loss, rewritten: no weight is left to
    compute, and no terms cancel. EDM's weight gives the same. Of the noise that the field implies,
    n = sin(phi) u - cos(phi) F, it is |D - y|^2 / gamma, the loss of VP and VE.

    Args:
        precond: schedule, basis and network.
        x: raw data, [n, d].
        t: times, [n].
        noise: standard normal, [n, d].
        of: whose error, "field" or "noise".
        net: module to call for F instead of `precond.field` (its DDP wrapper).
        labels: class and augmentation labels of `InflationPrecond.field`.

    Returns:
        |F - F*|^2, or cos(phi)^2 |F - F*|^2, [n, d].

    Reference: Inflationary Flows, eq. 13 and appendix B.2; Salimans and Ho 2022 (v-prediction).
    """
    cos, sin = precond.schedule.cos_sin(t)
    y = precond.encode(x) / precond.schedule.xi.sqrt()
    noise = noise.to(y)
    u = cos * y + sin * noise
    target = sin * y - cos * noise
    F = (net or precond.field)(u.float(), t, **labels)
    errors = (F - target).square()
    return errors if of == "field" else cos.square() * errors
