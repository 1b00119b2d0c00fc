r"""The preconditioner: where a network becomes the vector field of the flow.

With S = xi + gamma and phi = arctan sqrt(gamma/xi), the whitened noisy data is

    u  = W^T (x - mean) / sqrt(S) = cos(phi) y + sin(phi) n,      y whitened data, n ~ N(0, I),

and the network, given u, predicts F = sin(phi) y - cos(phi) n. The probability-flow ODE is then
du = -F dphi. The EDM form D = c_skip x + c_out F(c_in x) of the paper is the same thing in other
coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torch_utils.operations import Operations
from training.basis import Basis
from training.edm_precond import DENOISERS, NOISE_LABELS
from training.schedule import Schedule

OUTPUTS = ("velocity", "straight")


class FieldModel(nn.Module):
    """What a flow needs: schedule and eigenbasis as buffers, and the field F(u, t).

    Args:
        schedule: its xi belong to `basis`.
        basis: affine whitening of the data.
    """

    mean: Tensor
    scale: Tensor
    W: Tensor

    def __init__(self, schedule: Schedule, basis: Basis):
        super().__init__()
        self.schedule = schedule
        self.register_buffer("mean", basis.mean.double().clone())
        self.register_buffer("scale", basis.scale.double().clone())
        self.register_buffer("W", basis.W.double().clone())

    @property
    def basis(self) -> Basis:
        """The eigenbasis as plain tensors."""
        return Basis(self.mean, self.scale, self.schedule.xi, self.W)

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """F(u, t), [n, d], for whitened eigenbasis states u [n, d] at times t, [n] or [1]."""
        raise NotImplementedError

    def operations(self, samples: int) -> float:
        """Floating-point operations of the field of so many samples."""
        t = self.W.new_full((1,), self.schedule.tmax)
        with torch.no_grad(), Operations() as counter:
            self(self.W.new_zeros(1, len(self.W)), t)
        return float(counter.total * samples)

    def encode(self, x: Tensor) -> Tensor:
        """Raw data [n, d] to centred eigenbasis coordinates y_es [n, d], in the buffers' dtype."""
        return ((x.to(self.W.dtype) - self.mean) / self.scale) @ self.W

    def decode(self, y: Tensor) -> Tensor:
        """Inverse of `encode`."""
        return (y @ self.W.T.to(y.dtype)) * self.scale.to(y.dtype) + self.mean.to(y.dtype)


class InflationPrecond(FieldModel):
    """A network with the schedule and eigenbasis that make it an inflationary flow.

    Args:
        model: network called as model(u, noise_labels, class_labels, augment_labels).
        schedule: noise schedule in the eigenbasis.
        basis: eigenbasis of the data.
        space: coordinates of the network's input and output: "ES" the eigenbasis, "IS" the data's
            own. An IS network is rotated at its door and nowhere else.
        shape: shape that the network wants a sample in, e.g. (3, 32, 32); None for vectors.
        time_input: what noise_labels are: "published" (999 t, [n]), "edm", "vp" or "ve" (those of
            that preconditioner, for the first dimension's noise level, [n]) or "features"
            (`Schedule.features`, [n, 3]); None for the network's own `time_input`.
        output: what the network predicts: "velocity", F itself from u (the variance preserving
            path), or "straight", the velocity (n - y)/sqrt 2 of the straight path from data y to
            noise n, from its state (cos(phi) y + sin(phi) n)/(cos(phi) + sin(phi)).

    Reference: Inflationary Flows, appendix B.2; Karras et al. 2022, table 1; Zheng et al. 2023.
    """

    rotation: Tensor

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        basis: Basis,
        space: str = "ES",
        shape: tuple[int, ...] | None = None,
        time_input: str | None = None,
        output: str = "velocity",
    ):
        super().__init__(schedule, basis)
        if output not in OUTPUTS:
            raise ValueError(f"output={output!r} is none of {', '.join(OUTPUTS)}")
        self.output = output
        if space not in ("ES", "IS"):
            raise ValueError(f"space={space!r} is neither ES nor IS")
        self.model = model
        self.space = space
        self.shape = shape
        self.amp_dtype: torch.dtype | None = None  # of the network's inside, where not its own
        self.time_input = time_input or getattr(model, "time_input", "published")
        if space == "IS":  # W as a network in single precision takes it, rounded once
            self.register_buffer("rotation", self.W.float(), persistent=False)
            self.register_load_state_dict_post_hook(_round_again)

    def forward(
        self,
        u: Tensor,
        t: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        **keys: Tensor,
    ) -> Tensor:
        """The vector field F(u, t) in whitened eigenbasis coordinates.

        Args:
            u: states, [n, d], any float dtype.
            t: times, [n]; or [1], which costs less, where they are all equal.
            class_labels: one-hot labels [n, classes] or None.
            augment_labels: what augmentation did, [n, a], or None.
            keys: "dropout_keys" of the samples, [n], in the training of networks that drop.

        Returns:
            F in the dtype of u, [n, d].
        """
        dtype = next(self.model.parameters()).dtype
        v, noise_labels, field_of = self._question(u, t, dtype)
        v = v.to(dtype)
        if self.shape is not None:
            v = v.reshape(-1, *self.shape)
        with torch.autocast(v.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            answer = self.model(v, noise_labels, class_labels, augment_labels, **keys)
        answer = answer.to(dtype).reshape(u.shape)
        if self.space == "IS":
            answer = answer @ self._rotation(dtype)
        return field_of(answer).to(u.dtype)

    def _question(
        self, u: Tensor, t: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """What a network of this dtype is asked about states, and what its answers say of F.

        Returns:
            the network's input [n, d] in its own coordinates, its noise labels, and a function that
            turns its answer [n, d] in the eigenbasis into F.
        """
        v, labels = u.to(dtype), self._noise_labels(t, dtype)
        if self.output == "velocity":
            return self._seen(v), labels, lambda F: F
        cos, sin = (c.to(dtype) for c in self.schedule.cos_sin(t))
        both = cos + sin

        def of_straight(answer: Tensor) -> Tensor:  # from n - y and the state u/(cos + sin)
            return ((sin - cos) * u.to(dtype) - math.sqrt(2) * answer) / both

        return self._seen(v / both), labels, of_straight

    def _seen(self, v: Tensor) -> Tensor:
        """Eigenbasis coordinates in those of the network, [n, d]."""
        return v @ self._rotation(v.dtype).T if self.space == "IS" else v

    def _rotation(self, dtype: torch.dtype) -> Tensor:
        """W as a network of this dtype takes it."""
        return self.rotation if dtype == self.rotation.dtype != self.W.dtype else self.W.to(dtype)

    def _noise_labels(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        if self.time_input == "features":
            return self.schedule.features(t).to(dtype)
        dtype = torch.promote_types(dtype, torch.float32)  # 999 t would lose its digits in halves
        if self.time_input in NOISE_LABELS:
            sigma = self.schedule.gamma(t)[0][..., 0].sqrt()
            return NOISE_LABELS[self.time_input](sigma).to(dtype)
        return 999.0 * t.to(dtype)


def _round_again(model: nn.Module, _: object) -> None:
    """Round W to single precision once more, after another has been loaded."""
    assert isinstance(model, InflationPrecond)
    model.rotation.copy_(model.W)


class DenoiserField(InflationPrecond):
    r"""The field of a network that was trained as a denoiser with one noise level (EDM, VP, VE).

    With sigma = sqrt(gamma), D = c_skip' x + c_out' F'(c_in' x, c_noise') of
    `training.edm_precond` is also D = c_skip x + c_out F, whatever variance xi the latter takes for
    the data. So its field is

        F = ((c_skip' - c_skip) x + c_out' F') / c_out

    with c_skip = cos^2 phi and c_out = sqrt(xi) sin phi.

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
        self.scalings = partial(DENOISERS[denoiser["class"]], **denoiser["kwargs"])
        self.scalings(schedule.xi[:1])  # arguments that it does not have are noticed here

    def _question(
        self, u: Tensor, t: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        xi = self.schedule.xi[0]
        gamma = self.schedule.gamma(t)[0][..., :1]  # [n, 1]
        total = xi + gamma
        c_skip, c_out, c_in, c_noise = self.scalings(gamma.sqrt())
        x = u.to(total.dtype) * total.sqrt()
        labels = c_noise.flatten().expand(len(u)).to(torch.promote_types(dtype, torch.float32))

        def of_denoiser(answer: Tensor) -> Tensor:
            skip = c_skip - xi / total
            return (skip * x + c_out * answer.to(x.dtype)) / (xi * gamma / total).sqrt()

        return c_in * self._seen(x), labels, of_denoiser


class Conditioned(FieldModel):
    """A class-conditional network with the classes of its samples fixed.

    Args:
        model: the network.
        class_labels: one-hot classes of the samples that will pass through together, [n, classes].
    """

    def __init__(self, model: InflationPrecond, class_labels: Tensor):
        nn.Module.__init__(self)  # with the same tensors, of which W may have a gigabyte
        for name in ("mean", "scale", "W"):
            self.register_buffer(name, getattr(model, name))
        self.schedule, self.model = model.schedule, model
        self.space = model.space
        self.class_labels = class_labels.to(model.W.device)

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """See `FieldModel.forward`; u must have as many rows as there are labels."""
        return self.model(u, t, class_labels=self.class_labels)
