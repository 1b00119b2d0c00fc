r"""Coordinates of a flow's states: whitened ones, in which it is integrated, and the paper's.

name           what                                   in the files
whitened       u, unit variance in every dimension
scaled_es      x~ = s(t) sqrt(S) u, eigenbasis        xs_es
scaled         W x~, the data's own axes              xs
unscaled_es    x = x~ / s(t), eigenbasis              tilde_xs_es
unscaled       mean + W x: the data at t = 0          tilde_xs
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from training.precond import FieldModel

Coordinates = Literal["whitened", "scaled_es", "scaled", "unscaled_es", "unscaled"]


class CoordinateMaps:
    """The affine maps between whitened states and the paper's coordinates.

    Args:
        model: its schedule and basis define the maps.
        dtype: of the states.
    """

    def __init__(self, model: FieldModel, dtype: torch.dtype):
        self.model = model
        self.schedule = model.schedule
        self.dtype = dtype
        self.device = model.W.device

    def to_whitened(self, x: Tensor | np.ndarray, t: float, coords: Coordinates) -> Tensor:
        """States x [n, d] of the named coordinates at time t to whitened ones."""
        x = torch.as_tensor(x)
        if x.dim() != 2 or x.shape[1] != self.schedule.data_dim:
            raise ValueError(
                f"this flow has {self.schedule.data_dim} dimensions; got an array of shape "
                f"{tuple(x.shape)}, not [n, {self.schedule.data_dim}]"
            )
        x = x.to(self.dtype).to(self.device)  # which may have no float64
        if coords == "whitened":
            return x
        if coords == "unscaled":
            x = self.model.encode(x).to(self.dtype)
        elif coords == "scaled":
            x = x @ self.model.W.to(self.dtype)
        return x / self.stretch(t, coords)

    def from_whitened(self, u: Tensor, t: float, coords: Coordinates) -> Tensor:
        """Inverse of `to_whitened`."""
        if coords == "whitened":
            return u
        x = u * self.stretch(t, coords)
        if coords == "unscaled":
            return self.model.decode(x)
        return x @ self.model.W.T.to(x) if coords == "scaled" else x

    def paper_rate(self, t: float, x: Tensor, F: Tensor) -> Tensor:
        """dx~/dt for scaled_es states x and the field F at them, [n, d].

        x~ = s sqrt(S) u, so dx~/dt = (s'/s + S'/2S) x~ - s sqrt(S) F dphi/dt: no division by gamma.
        """
        s, ds = self.schedule.scale(t)
        dS, S = self.schedule.gamma(t)[1], self.schedule.total(t)
        growth, turn = ds / s + dS / (2 * S), s * S.sqrt() * self.schedule.angle(t)[1]
        return growth.to(x) * x - turn.to(x) * F

    def log_volume(self, t: float, coords: Coordinates) -> float:
        """log |det| of `from_whitened` at time t: densities in `coords` are smaller by it."""
        if coords == "whitened":
            return 0.0
        volume = self.stretch(t, coords).cpu().double().log().sum()
        if coords == "unscaled":
            volume = volume + self.model.scale.to(self.dtype).log().sum().cpu()
        return float(volume)

    def stretch(self, t: float, coords: Coordinates) -> Tensor:
        """Factor from whitened to eigenbasis coordinates at time t, [d]; not for "whitened"."""
        stretch = self.schedule.total(t).sqrt()
        if coords in ("scaled_es", "scaled"):
            stretch = stretch * self.schedule.scale(t)[0]
        elif coords not in ("unscaled_es", "unscaled"):
            raise ValueError(f"coords={coords!r} is none of whitened, [un]scaled, [un]scaled_es")
        return stretch.to(self.dtype)
