r"""Non-leaking augmentation: images are changed, and nine labels tell the network what was done.

At generation all labels are zero, so that nothing of the changes leaks into samples. The draws come
in from outside, by seed and position, as all random numbers of training do.

Reference: Karras et al. 2022, appendix F.2; order of the labels as in published networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from training import seeding

LABELS = 9  # flip x, flip y, scale, rotation (2), anisotropy (2), translation (2)
_OPERATIONS = 6
_VALUES = 9


@dataclass(frozen=True)
class AugmentPipe:
    """Random flips, scale, rotation, anisotropy and translation.

    Attributes:
        p: probability of each operation but the x flip, which happens to half of the images.
        scale_sd: sd of log2 of the isotropic scale.
        aniso_sd: sd of log2 of the anisotropic scale.
        translate_sd: sd of the translation, in image sides.
    """

    p: float = 0.12
    scale_sd: float = 0.2
    aniso_sd: float = 0.2
    translate_sd: float = 0.125

    def draws(self, seed: int, start: int, stop: int) -> Tensor:
        """Random numbers for images start..stop of a seed's stream, [stop - start, 15]."""

        def draw(n: int, rng: np.random.Generator) -> np.ndarray:
            uniform = rng.random((n, _OPERATIONS + 5))
            normal = rng.standard_normal((n, _VALUES - 5))
            return np.concatenate([uniform, normal], axis=1)

        return torch.from_numpy(seeding.rows(draw, seed, "augment", start, stop))

    def __call__(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: [n, c, h, w].
            draws: from `draws`, [n, 15].

        Returns:
            images of the same shape and dtype, and labels [n, 9].
        """
        draws = draws.to(images.device, torch.float64)
        gates = draws[:, :_OPERATIONS] < self.p  # [n, 6]
        u, normal = draws[:, _OPERATIONS : _OPERATIONS + 5], draws[:, _OPERATIONS + 5 :]
        flip_x = u[:, 0] < 0.5
        flip_y = gates[:, 1] & (u[:, 1] < 0.5)
        grow = torch.where(gates[:, 2], normal[:, 0], 0.0)
        turn = torch.where(gates[:, 3], (2 * u[:, 2] - 1) * math.pi, 0.0)
        stretch = torch.where(gates[:, 4], normal[:, 1], 0.0)
        axis = torch.where(u[:, 4] < 0.5, 0.0, (2 * u[:, 3] - 1) * math.pi)
        shift = torch.where(gates[:, 5:6], normal[:, 2:4], 0.0)  # [n, 2]
        labels = torch.stack(
            [
                flip_x.double(), flip_y.double(), grow, turn.cos() - 1, turn.sin(),
                stretch * axis.cos(), stretch * axis.sin(), shift[:, 0], shift[:, 1],
            ],
            dim=1,
        )  # fmt: skip
        images = _flip(_flip(images, flip_x, -1), flip_y, -2)
        moved = gates[:, 2:].any(dim=1)
        if bool(moved.any()):
            scale = _diagonal(2 ** (self.scale_sd * grow), 2 ** (self.scale_sd * grow))
            squeeze = 2 ** (self.aniso_sd * stretch)
            aniso = _rotation(axis) @ _diagonal(squeeze, 1 / squeeze) @ _rotation(-axis)
            forward = aniso @ _rotation(turn) @ scale  # of positions, [n, 2, 2]
            changed = _warp(images[moved], forward[moved], 2 * self.translate_sd * shift[moved])
            images = images.clone()
            images[moved] = changed
        return images, labels.to(images.dtype)


def _flip(images: Tensor, which: Tensor, dim: int) -> Tensor:
    return torch.where(which[:, None, None, None], images.flip(dim), images)


def _rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y], -1))


def _warp(images: Tensor, forward: Tensor, shift: Tensor) -> Tensor:
    """Move images by an affine map of positions in [-1, 1]^2, reflecting at the border.

    Sampled at twice the resolution and averaged down, so that fine structure does not alias.
    """
    _, _, h, w = images.shape
    aspect = torch.tensor([w, h], dtype=forward.dtype, device=forward.device)
    inverse = torch.linalg.inv(forward)
    # grid_sample asks where each output pixel comes from: y = M (x - shift), in pixel units
    pixels = inverse * aspect[None, None, :] / aspect[None, :, None]
    offset = -(pixels @ shift[..., None])
    theta = torch.cat([pixels, offset], dim=2).to(torch.float32)
    fine = nnf.interpolate(images.float(), scale_factor=2, mode="bicubic", align_corners=False)
    grid = nnf.affine_grid(theta, list(fine.shape), align_corners=False)
    warped = nnf.grid_sample(fine, grid, padding_mode="reflection", align_corners=False)
    return nnf.avg_pool2d(warped, 2).to(images.dtype)
