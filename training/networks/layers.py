"""Layers that the image U-Nets share: noise embeddings, resampling convolution, residual block.

Attribute names are those of published weights, so that their state dicts load unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from training.networks.dropout import dropout
from training.networks.toy import FourierEmbedding

Initialiser = Callable[[Tensor, Tensor | None, float], None]  # (weight, bias, gain)


def init_xavier(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Xavier-uniform weights times `gain`, zero biases."""
    nn.init.xavier_uniform_(weight, gain=gain)
    if bias is not None:
        nn.init.zeros_(bias)


def init_fan_in(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Weights and biases uniform in +-gain/sqrt(fan-in)."""
    bound = gain / math.sqrt(weight[0].numel())
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


def linear(
    cin: int, cout: int, init: Initialiser, gain: float = 1.0, bias: bool = True
) -> nn.Linear:
    """A linear layer under the given initialisation."""
    layer = nn.Linear(cin, cout, bias=bias)
    init(layer.weight, layer.bias, gain)
    return layer


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Group norm over groups of at least 4 channels, at most 32 groups."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=eps)


class _PreciseFrequencies(nn.Module):
    """Keeps the buffer `freqs` when the module is cast to half precision.

    Phases reach 1e4 radians: frequencies and their product with the noise label need float32.
    """

    freqs: Tensor

    def _apply(self, fn: Callable, recurse: bool = True) -> Self:
        exact = self.freqs
        super()._apply(fn, recurse)
        if self.freqs.dtype.itemsize < exact.dtype.itemsize == 4:
            self.freqs = exact.to(self.freqs.device)
        return self


class PreciseFourierEmbedding(_PreciseFrequencies, FourierEmbedding):
    """[sin, cos] of t times fixed random frequencies, in float32 at least."""


class PositionalEmbedding(_PreciseFrequencies):
    """Sines and cosines of t at geometrically spaced frequencies, in float32 at least.

    Args:
        channels: of the result.
        endpoint: whether the lowest frequency is 1e-4 itself.
        sine_first: [sin, cos] instead of [cos, sin].
    """

    def __init__(self, channels: int, endpoint: bool, sine_first: bool):
        super().__init__()
        half = channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device="cpu") / (half - int(endpoint))
        self.register_buffer("freqs", (1 / 10000) ** exponents, persistent=False)
        self.sine_first = sine_first

    def forward(self, t: Tensor) -> Tensor:
        """Noise labels [n] to [n, channels]."""
        phase = t[:, None] * self.freqs[None]
        pair = (phase.sin(), phase.cos()) if self.sine_first else (phase.cos(), phase.sin())
        return torch.cat(pair, dim=1)


class ResampledConv2d(nn.Module):
    """Convolution of the same padding after (`fused`: before) resampling by a separable filter.

    Args:
        cin, cout: channels.
        kernel: side of the kernel; 0 for resampling alone.
        resample: "up" or "down" by a factor of two, or None.
        taps: one-dimensional resampling filter, e.g. (1, 3, 3, 1).
        fused: convolve first, then shrink, without padding in between ("down" only).
        init, gain: initialisation of the kernel.
    """

    resample_filter: Tensor

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        resample: str | None = None,
        taps: Sequence[float] = (1, 1),
        fused: bool = False,
        init: Initialiser = init_fan_in,
        gain: float = 1.0,
    ):
        super().__init__()
        if resample not in (None, "up", "down") or (fused and resample != "down"):
            raise ValueError(f"cannot resample {resample!r} with fused={fused}")
        self.resample, self.fused = resample, fused
        self.padding, self.filter_padding = kernel // 2, (len(taps) - 1) // 2
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if kernel:
            self.weight = nn.Parameter(torch.empty(cout, cin, kernel, kernel))
            self.bias = nn.Parameter(torch.empty(cout))
            init(self.weight, self.bias, gain)
        if resample:
            f = torch.as_tensor(taps, dtype=torch.float32, device="cpu")
            f = f.outer(f) / f.sum().square()
            self.register_buffer("resample_filter", f[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps [n, cin, h, w] to [n, cout, h', w']."""
        if self.fused and self.weight is not None:
            x = nnf.conv2d(x, self.weight, self.bias, padding=self.padding + self.filter_padding)
            return self._shrink(x, padding=0)
        if self.resample == "down":
            x = self._shrink(x, padding=self.filter_padding)
        elif self.resample == "up":
            c = x.shape[1]
            f = (4 * self.resample_filter).to(x.dtype).expand(c, -1, -1, -1)
            x = nnf.conv_transpose2d(x, f, stride=2, padding=self.filter_padding, groups=c)
        if self.weight is None:
            return x
        return nnf.conv2d(x, self.weight, self.bias, padding=self.padding)

    def _shrink(self, x: Tensor, padding: int) -> Tensor:
        c = x.shape[1]
        f = self.resample_filter.to(x.dtype).expand(c, -1, -1, -1)
        return nnf.conv2d(x, f, stride=2, padding=padding, groups=c)


def image_attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention among the pixels of each image.

    Half precision needs no upcast: the fused kernels and the fallback all keep logits and softmax
    in float32. The fused kernels have no second derivative and no forward mode; for those, call
    the network under `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`. The result has the memory
    format of the argument.

    Args:
        qkv: channels laid out as [head, channel, query/key/value], [n, 3 c, h, w].
        heads: attention heads.

    Returns:
        values averaged by attention, [n, c, h, w].
    """
    n, c, h, w = qkv.shape[0], qkv.shape[1] // 3, *qkv.shape[2:]
    parts = qkv.reshape(n, heads, c // heads, 3, h * w).permute(3, 0, 1, 4, 2)
    # Queries, keys and values interleave in memory; fused kernels want channels next to each other.
    q, k, v = parts.contiguous().unbind(0)  # [n, head, pixel, channel]
    mean = nnf.scaled_dot_product_attention(q, k, v)
    if qkv.is_contiguous():  # else a lone head's transposed view would turn the layout around
        return mean.mT.reshape(n, c, h, w).contiguous()
    return mean.transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)  # channels last


@dataclass(frozen=True)
class BlockStyle:
    """What all residual blocks of one network have in common.

    Args:
        emb_channels: channels of the embedding.
        dropout: probability, between the two convolutions.
        eps: of the group norms.
        skip_scale: factor on every residual sum.
        scale_shift: the embedding scales and shifts after the second norm, rather than adding
            a bias before it.
        project_resampled: resampling blocks have a 1x1 convolution on their skip.
        head_channels: channels of an attention head; None for a single head.
        taps: resampling filter.
        init: initialisation of weights; gains for residual outputs and attention's qkv follow.
        out_gain: of the layer that ends a residual branch.
        attention_gain: of the qkv layer.
    """

    emb_channels: int
    dropout: float
    eps: float
    skip_scale: float
    scale_shift: bool
    project_resampled: bool
    head_channels: int | None
    taps: tuple[float, ...]
    init: Initialiser
    out_gain: float
    attention_gain: float


class UNetBlock(nn.Module):
    """Residual block with optional resampling and self-attention.

    Args:
        cin, cout: channels.
        style: what the network's blocks share.
        resample: "up", "down" or None.
        attention: whether to attend among pixels at the end.

    Attributes:
        number: of the block in its network, which its dropout masks depend on.
    """

    number = 0

    def __init__(
        self,
        cin: int,
        cout: int,
        style: BlockStyle,
        resample: str | None = None,
        attention: bool = False,
    ):
        super().__init__()
        self.style = style
        conv = partial(ResampledConv2d, init=style.init)
        resampled = partial(conv, resample=resample, taps=style.taps)
        self.norm0 = group_norm(cin, style.eps)
        self.conv0 = resampled(cin, cout, 3)
        self.affine = linear(style.emb_channels, cout * (1 + style.scale_shift), style.init)
        self.norm1 = group_norm(cout, style.eps)
        self.conv1 = conv(cout, cout, 3, gain=style.out_gain)
        self.skip: ResampledConv2d | None = None
        if cin != cout or resample:
            kernel = int(cin != cout or style.project_resampled)
            self.skip = resampled(cin, cout, kernel)
        self.heads = 0
        if attention:  # as published, blocks narrower than one head do not attend
            self.heads = cout // style.head_channels if style.head_channels else 1
        if self.heads:
            if cout % self.heads:
                raise ValueError(f"{cout} channels do not divide into {self.heads} attention heads")
            self.norm2 = group_norm(cout, style.eps)
            self.qkv = conv(cout, 3 * cout, 1, gain=style.attention_gain)
            self.proj = conv(cout, cout, 1, gain=style.out_gain)

    def forward(self, x: Tensor, emb: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Feature maps [n, cin, h, w] to [n, cout, h', w'].

        Args:
            x: the feature maps.
            emb: embedding, [n, emb_channels].
            dropout_keys: of the samples in training, see `networks.dropout`, [n].
        """
        style = self.style
        h = self.conv0(nnf.silu(self.norm0(x)))
        affine = self.affine(emb)[:, :, None, None]
        if style.scale_shift:
            scale, shift = affine.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + affine)
        h = nnf.silu(h)
        if self.training and style.dropout:
            h = dropout(h, style.dropout, dropout_keys, self.number)
        h = self.conv1(h)
        x = (h + (x if self.skip is None else self.skip(x))) * style.skip_scale
        if self.heads:
            h = self.proj(image_attention(self.qkv(self.norm2(x)), self.heads))
            x = (h + x) * style.skip_scale
        return x
