"""Networks for vectors: ToyMLP, small and fast, and ToyConvUNet, compatible with published weights.

Both are called as net(u, noise_labels, class_labels, augment_labels), as the image networks are.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class ModulatedBlock(nn.Module):
    """Residual block of two linear layers whose hidden units are scaled and shifted by the time."""

    def __init__(self, width: int, emb: int):
        super().__init__()
        self.affine = nn.Linear(emb, 2 * width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)
        nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="linear")

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """States [n, width] and time embedding [n, emb], or [1, emb] for all, to states."""
        scale, shift = self.affine(emb).chunk(2, dim=1)
        h = self.fc1(torch.addcmul(x + shift, x, scale))
        return x + self.fc2(nnf.silu(h))


class ToyMLP(nn.Module):
    """Residual MLP for vectors, told the time by the inflation angles and t/tmax.

    It starts with F = 0, the field of Gaussian data, and with features that are far from linear in
    u: whitening leaves F no correlation with u itself, so that from linear features the last layer
    would have no gradient to begin with.

    Args:
        in_channels: dimensions of the data, d.
        width: hidden units.
        depth: residual blocks.
        bands: sine and cosine pairs per time feature.
    """

    time_input = "features"
    freqs: Tensor

    def __init__(self, in_channels: int, width: int = 64, depth: int = 4, bands: int = 4):
        super().__init__()
        octaves = torch.arange(1, bands + 1, dtype=torch.float32, device="cpu")
        self.register_buffer("freqs", math.pi * octaves)
        emb = 32
        self.embed = nn.Sequential(
            nn.Linear(3 * (1 + 2 * bands), emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU()
        )
        self.inlet = nn.Linear(in_channels, width)
        nn.init.normal_(self.inlet.weight)
        self.blocks = nn.ModuleList(ModulatedBlock(width, emb) for _ in range(depth))
        self.outlet = nn.Linear(width, in_channels)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(
        self,
        u: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """States u [n, d] and time features [n, 3], or [1, 3] for all, to F [n, d]."""
        phase = (noise_labels[:, :, None] * self.freqs.to(u.dtype)).flatten(1)  # [n, 3 bands]
        emb = self.embed(torch.cat([noise_labels, phase.sin(), phase.cos()], dim=1))
        x = self.inlet(u)
        for block in self.blocks:
            x = block(x, emb)
        return self.outlet(x)


class FourierEmbedding(nn.Module):
    """[sin, cos] of t times fixed random frequencies."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0):
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2, device="cpu") * scale)

    def forward(self, t: Tensor) -> Tensor:
        """Times [n] to [n, channels]. The product's order keeps published weights' phases exact."""
        phase = t[:, None] * (2 * math.pi * self.freqs)[None]
        return torch.cat([phase.sin(), phase.cos()], dim=1)


def _xavier(layer: nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ResampledConv(nn.Module):
    """3x3 convolution after resampling by a fixed 2x2 box filter.

    Args:
        cin, cout: channels.
        stride: of the resampling.
        up: transposed (growing) resampling instead of a shrinking one.
    """

    resample_filter: Tensor

    def __init__(self, cin: int, cout: int, stride: int, up: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cout, cin, 3, 3))
        self.bias = nn.Parameter(torch.zeros(cout))
        nn.init.xavier_uniform_(self.weight)
        self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))
        self.stride, self.up = stride, up

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps [n, cin, h, w] to [n, cout, h', w']."""
        c = x.shape[1]
        box = self.resample_filter.to(x.dtype)
        if self.up:
            box = (4 * box).expand(c, 1, 2, 2)
            x = nnf.conv_transpose2d(x, box, groups=c, stride=self.stride)
        else:
            x = nnf.conv2d(x, box.expand(c, 1, 2, 2), groups=c, stride=self.stride)
        return nnf.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=1)


class ToyConvBlock(nn.Module):
    """Resampled convolution plus time embedding, group norm and silu."""

    def __init__(self, cin: int, cout: int, groups: int, stride: int, up: bool):
        super().__init__()
        self.conv1 = ResampledConv(cin, cout, stride, up)
        self.dense1 = nn.Linear(256, cout)
        self.gnorm1 = nn.GroupNorm(groups, cout)
        _xavier(self.dense1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Feature maps and embedding [n, 256] to feature maps."""
        return nnf.silu(self.gnorm1(self.conv1(x) + self.dense1(emb)[:, :, None, None]))


class ToyConvUNet(nn.Module):
    """The published toy network: a U-Net on an 8 x 8 image grown from the d inputs.

    Parameter names, shapes and outputs agree with published weights. New networks are better off
    with `ToyMLP`: here the time enters as random phases of up to 1e5 radians.

    Args:
        in_channels: dimensions of the data, d.
    """

    time_input = "published"

    def __init__(self, in_channels: int):
        super().__init__()
        self.map_fc_noise = FourierEmbedding(2)
        self.map_fc_layer0 = nn.Linear(2, 2)
        self.map_conv_noise = FourierEmbedding(256)
        self.map_conv_layer0 = nn.Linear(256, 256)
        climb = [in_channels, 4, 16, 32, 64]
        descent = [64, 32, 16, 4, in_channels]
        pairs = [*pairwise(climb), *pairwise(descent)]
        for k, (cin, cout) in enumerate(pairs, start=1):
            self.add_module(f"dense{k}1", nn.Linear(cin, cout))
            if k < 8:
                self.add_module(f"dense{k}2", nn.Linear(2, cout))
        down = [(1, 32, 4, 1), (32, 64, 32, 1), (64, 128, 32, 1), (128, 256, 32, 2)]
        up = [(256, 128, 32, 3), (256, 64, 32, 1), (128, 32, 32, 1), (64, 1, 1, 1)]
        for k, (cin, cout, groups, stride) in enumerate(down, start=1):
            self.add_module(f"downresblock{k}", ToyConvBlock(cin, cout, groups, stride, up=False))
        for k, (cin, cout, groups, stride) in enumerate(up, start=1):
            self.add_module(f"upresblock{k}", ToyConvBlock(cin, cout, groups, stride, up=True))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                _xavier(layer)
        nn.init.xavier_uniform_(self.get_parameter("dense81.weight"), gain=1e-5)

    def forward(
        self,
        u: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """States u [n, d] and noise labels [n] to F [n, d]."""
        fc = nnf.silu(self.map_fc_layer0(self.map_fc_noise(noise_labels)))
        conv = nnf.silu(self.map_conv_layer0(self.map_conv_noise(noise_labels)))
        x = u
        for k in range(1, 5):
            x = nnf.silu(self._dense(k, x, fc))
        x = x.reshape(-1, 1, 8, 8)
        skips = []
        for k in range(1, 5):
            x = self.get_submodule(f"downresblock{k}")(x, conv)
            skips.append(x)
        x = self.get_submodule("upresblock1")(x, conv)
        for k in range(2, 5):
            x = self.get_submodule(f"upresblock{k}")(torch.cat([x, skips[4 - k]], dim=1), conv)
        x = self._dense(5, x.flatten(1), fc)
        x = nnf.silu(self._dense(6, x, fc))
        x = nnf.silu(self._dense(7, x, fc))
        return self.get_submodule("dense81")(x)

    def _dense(self, k: int, x: Tensor, emb: Tensor) -> Tensor:
        return self.get_submodule(f"dense{k}1")(x) + self.get_submodule(f"dense{k}2")(emb)


TOY_NETWORKS: dict[str, type[nn.Module]] = {"ToyMLP": ToyMLP, "ToyConvUNet": ToyConvUNet}
