r"""Non-leaking augmentation: images are changed, and nine labels tell the network what was done.

At generation all labels are zero, so that nothing of the changes leaks into samples. The draws come
in from outside, by seed and position, as all random numbers of training do.

Order and signs of the labels, probabilities and filters are those of published networks, so that
their weights can be trained on: a positive angle turns the picture anticlockwise as it is seen.

Reference: Karras et al. 2022, appendix F.2; Karras et al. 2020, "Training generative adversarial
networks with limited data", appendix B.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from torch_utils import philox, seeding
from torch_utils.seeding import PHILOX

LABELS = 9  # flip x, flip y, scale, rotation (2), anisotropy (2), translation (2)
CONVENTION = "published"  # what a network file says of its labels
OPPOSITE = (4, 6)  # labels that had the other sign before files said so
_OPERATIONS = 6
_VALUES = 9
# Low-pass filter of the wavelet sym6 (Daubechies, Ten lectures on wavelets, 1992, table 8.3).
_SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_CENTRE = 5  # of its taps
_RIM = 3  # pixels that the filter reaches beyond the image


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

    def draws(self, seed: int, start: int, stop: int, generator: str = PHILOX) -> Tensor:
        """Random numbers for images start..stop of a seed's stream, float64 [stop - start, 15].

        Args:
            seed: of the stream.
            start, stop: range of images.
            generator: PHILOX, or BLOCKS for runs of before.
        """
        if generator == PHILOX:
            uniform = philox.uniforms(seed, "augment", start, stop, _OPERATIONS + 5)
            normal = philox.normals(seed, "augment by", start, stop, _VALUES - 5)
            return torch.cat([uniform, normal], 1)  # which promotes

        def draw(n: int, rng: np.random.Generator) -> np.ndarray:
            uniform = rng.random((n, _OPERATIONS + 5))
            normal = rng.standard_normal((n, _VALUES - 5))
            return np.concatenate([uniform, normal], axis=1)

        return torch.from_numpy(seeding.rows(draw, seed, "augment", start, stop))

    def changes(self, draws: Tensor, side: tuple[int, int]) -> Changes:
        """What is done to images of height and width `side`.

        Args:
            draws: from `draws`, [n, 15].
            side: of the images.
        """
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
        scale = _diagonal(2 ** (self.scale_sd * grow), 2 ** (self.scale_sd * grow))
        squeeze = 2 ** (self.aniso_sd * stretch)
        aniso = _rotation(-axis) @ _diagonal(squeeze, 1 / squeeze) @ _rotation(axis)
        forward = aniso @ _rotation(-turn) @ scale  # of positions (x, y down), [n, 2, 2]
        moved = gates[:, 2:].any(dim=1).nonzero()[:, 0]
        maps = _maps(forward[moved], self.translate_sd * shift[moved], side)
        return Changes(flip_x, flip_y, moved, maps, labels.float())


class Changes(NamedTuple):
    """What augmentation does to n images: computed on the CPU, done on any device.

    Attributes:
        flip_x, flip_y: which are mirrored, bool [n].
        moved: numbers of those that are moved, [m].
        maps: their affine maps, see `_warp`, float32 [m, 2, 3].
        labels: what is done, float32 [n, 9].
    """

    flip_x: Tensor
    flip_y: Tensor
    moved: Tensor
    maps: Tensor
    labels: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Images [n, c, h, w], changed, in their dtype; nothing waits for the device."""
        images = _flip(_flip(images, self.flip_x, -1), self.flip_y, -2)
        if not len(self.moved):
            return images
        changed = _warp(images.index_select(0, self.moved), self.maps)
        return images.index_copy(0, self.moved, changed)


def _flip(images: Tensor, which: Tensor, dim: int) -> Tensor:
    return torch.where(which[:, None, None, None], images.flip(dim), images)


def _rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y], -1))


def _maps(forward: Tensor, shift: Tensor, side: tuple[int, int]) -> Tensor:
    """Affine maps as `_warp` wants them, float32 [n, 2, 3].

    Args:
        forward: linear parts of the maps, of pixel positions (x, y) from the centre, [n, 2, 2].
        shift: what follows them, in image sides, [n, 2].
        side: height and width of the images.
    """
    size = torch.tensor(side[::-1], dtype=forward.dtype)
    inverse = torch.linalg.inv(forward)  # grid_sample asks where each output pixel comes from
    # Pixel i lies at 2 i of the fine grid: position p from the centre is (2 p - 1/2)/side there.
    outer, inner = size + 2 * _RIM, 3 * size - 2
    linear = inverse * outer / inner[:, None]
    offset = (inverse @ (0.25 - shift * size)[..., None])[..., 0]
    return torch.cat([linear, ((2 * offset - 0.5) / inner)[..., None]], dim=2).float()


def _warp(images: Tensor, maps: Tensor) -> Tensor:
    """Move images by affine maps of positions, reflecting at the border, without aliasing.

    Images go to twice the resolution by the wavelet filter, are sampled there bilinearly, and come
    back by the mirrored filter: a map that moves nothing gives the image itself. The border is as
    wide as reflection allows, whatever the maps, so that no image depends on its batch; beyond it
    images are zero.

    Args:
        images: [n, c, h, w].
        maps: from `_maps`, [n, 2, 3].

    Returns:
        images of the same shape and dtype.
    """
    _, _, h, w = images.shape
    x = nnf.pad(images.float(), [w - 1, w - 1, h - 1, h - 1], mode="reflect")
    x = _doubled(_doubled(x, 3), 2)
    shape = [*images.shape[:2], 2 * (h + 2 * _RIM), 2 * (w + 2 * _RIM)]
    x = nnf.grid_sample(x, nnf.affine_grid(maps, shape, align_corners=False), align_corners=False)
    return _halved(_halved(x, 3), 2).to(images.dtype)


def _taps(x: Tensor, dim: int) -> Tensor:
    """The filter along a dimension of images, for each channel."""
    shape = [1, 1, 1, 1]
    shape[dim] = len(_SYM6)
    return _filter(x.device).reshape(shape).expand(x.shape[1], -1, -1, -1)


@functools.lru_cache
def _filter(device: torch.device) -> Tensor:
    """The low-pass filter on a device, copied there once, float32 [12]."""
    return torch.tensor(_SYM6, device=device)


def _doubled(x: Tensor, dim: int) -> Tensor:
    """Images at twice the resolution along a dimension; pixel i goes to 2 i."""
    stride, padding = [1, 1], [0, 0]
    stride[dim - 2], padding[dim - 2] = 2, _CENTRE
    filters = 2**0.5 * _taps(x, dim)
    return nnf.conv_transpose2d(
        x, filters, stride=stride, padding=padding, groups=x.shape[1]
    ).narrow(dim, 0, 2 * x.shape[dim])


def _halved(x: Tensor, dim: int) -> Tensor:
    """The inverse of `_doubled`, without the outermost `_RIM` pixels."""
    stride, padding = [1, 1], [0, 0]
    stride[dim - 2], padding[dim - 2] = 2, _CENTRE
    x = nnf.conv2d(x, _taps(x, dim) / 2**0.5, stride=stride, padding=padding, groups=x.shape[1])
    return x.narrow(dim, _RIM, x.shape[dim] - 2 * _RIM)
