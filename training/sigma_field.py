r"""Networks trained as denoisers with one noise level for all dimensions, used as flows.

With sigma = sqrt(gamma), a denoiser D = c_skip' x + c_out' F'(c_in' x, c_noise') of EDM, VP or VE
(`training.edm_precond`) is also D = c_skip x + c_out F, whatever variance xi the latter takes for
the data. So its field is

    F = ((c_skip' - c_skip) x + c_out' F') / c_out,   c_skip = cos^2 phi, c_out = sqrt(xi) sin phi
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.basis import Basis
from training.edm_precond import EDM_FAMILY
from training.precond import InflationPrecond
from training.schedule import Schedule

DENOISERS = {cls.__name__: cls for cls, _ in EDM_FAMILY.values()}


class SigmaField(InflationPrecond):
    """The field of a network that was trained under EDMPrecond, VPPrecond or VEPrecond.

    Args:
        model, schedule, basis, space, shape: see `InflationPrecond`; the schedule must have one
            rate, and the basis one variance, for all dimensions.
        denoiser: {"class": a key of `DENOISERS`, "kwargs": its arguments}.

    Raises:
        ValueError: for another class, or if dimensions differ.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        basis: Basis,
        *,
        space: str,
        shape: tuple[int, ...] | None,
        denoiser: dict[str, Any],
    ):
        super().__init__(model, schedule, basis, space, shape, "published")
        if denoiser["class"] not in DENOISERS:
            raise ValueError(f"denoiser {denoiser['class']!r}: known are {', '.join(DENOISERS)}")
        if schedule.proportional or bool(
            (schedule.g != 0).any() | (schedule.xi[0] != schedule.xi).any()
        ):
            raise ValueError(f"a {denoiser['class']} has one noise level for all dimensions")
        self.denoiser = DENOISERS[denoiser["class"]](**denoiser["kwargs"])

    def field(
        self,
        u: Tensor,
        t: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """See `InflationPrecond.field`."""
        xi = self.schedule.xi[0]
        gamma = self.schedule.gamma(t)[0][..., :1]  # [n, 1]
        total = xi + gamma
        c_skip, c_out, c_in, c_noise = self.denoiser.scalings(gamma.sqrt())
        x = u.to(total.dtype) * total.sqrt()
        rotation = self.W if self.space == "IS" else None
        v = c_in * (x if rotation is None else x @ rotation.T)
        dtype = next(self.model.parameters()).dtype
        v = v.to(dtype).reshape(-1, *self.shape) if self.shape is not None else v.to(dtype)
        labels = c_noise.flatten().expand(len(u)).to(torch.promote_types(dtype, torch.float32))
        with torch.autocast(v.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            inner = self.model(v, labels, class_labels, augment_labels)
        inner = inner.to(dtype).reshape(u.shape)
        inner = inner if rotation is None else inner @ rotation.to(dtype)
        skip = c_skip - xi / total
        return ((skip * x + c_out * inner.to(x.dtype)) / (xi * gamma / total).sqrt()).to(u.dtype)
