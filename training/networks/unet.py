"""The backbone of the image U-Nets: encoder, decoder and skips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from training.networks.dropout import kept
from training.networks.layers import BlockStyle, ResampledConv2d, UNetBlock

LABELS = 2**16  # number of the layer that hides classes


class UNet(nn.Module):
    """What both U-Nets share: layers named by resolution, skips, and labels.

    Encoder and decoder are `enc` and `dec`, with keys such as "16x16_block0". Auxiliary layers
    ("aux_*") work on a second, image-like signal beside the feature maps.
    """

    time_input = "published"

    def __init__(
        self,
        img_resolution: int,
        channels: Sequence[int],
        num_blocks: int,
        attn_resolutions: Sequence[int],
        style: BlockStyle,
        label_dropout: float,
    ):
        super().__init__()
        if not channels or img_resolution % 2 ** (len(channels) - 1):
            raise ValueError(
                f"img_resolution={img_resolution} cannot be halved for each of the "
                f"{len(channels)} entries of channel_mult"
            )
        self.img_resolution = img_resolution
        self.channels, self.num_blocks, self.style = tuple(channels), num_blocks, style
        self.attn_resolutions, self.label_dropout = frozenset(attn_resolutions), label_dropout
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()

    def _key(self, level: int, name: str) -> str:
        res = self.img_resolution >> level
        return f"{res}x{res}_{name}"

    def _attends(self, level: int) -> bool:
        return self.img_resolution >> level in self.attn_resolutions

    def _build_encoder(self, in_channels: int, width: int) -> list[int]:
        """Add all encoder layers, the first of `width`; return the channels of their skips."""
        self.enc[self._key(0, "conv")] = ResampledConv2d(
            in_channels, width, 3, init=self.style.init
        )
        skips = [width]
        for level, cout in enumerate(self.channels):
            if level > 0:
                c = skips[-1]
                self.enc[self._key(level, "down")] = UNetBlock(c, c, self.style, resample="down")
                skips.append(c)
                self._add_auxiliary(level, c)
            for k in range(self.num_blocks):
                self.enc[self._key(level, f"block{k}")] = UNetBlock(
                    skips[-1], cout, self.style, attention=self._attends(level)
                )
                skips.append(cout)
        return skips

    def _add_auxiliary(self, level: int, channels: int) -> None:
        """Add what carries the auxiliary signal down to `level`; a network may have nothing."""

    def _decode_level(self, level: int, cin: int, skips: list[int], attend_all: bool) -> int:
        """Add a level's decoder blocks, using up `skips`; return the channels that leave them."""
        if level == len(self.channels) - 1:
            self.dec[self._key(level, "in0")] = UNetBlock(cin, cin, self.style, attention=True)
            self.dec[self._key(level, "in1")] = UNetBlock(cin, cin, self.style)
        else:
            self.dec[self._key(level, "up")] = UNetBlock(cin, cin, self.style, resample="up")
        for k in range(self.num_blocks + 1):
            attention = self._attends(level) and (attend_all or k == self.num_blocks)
            cout = self.channels[level]
            self.dec[self._key(level, f"block{k}")] = UNetBlock(
                cin + skips.pop(), cout, self.style, attention=attention
            )
            cin = cout
        return cin

    def _number_blocks(self) -> None:
        """Tell each block its number, once all are there."""
        for number, block in enumerate(m for m in self.modules() if isinstance(m, UNetBlock)):
            block.number = number

    def _class_labels(
        self, labels: Tensor | None, width: int, like: Tensor, keys: Tensor | None
    ) -> Tensor:
        """Labels [n, width], all zero where there are none or where dropout takes them."""
        if labels is None:
            return like.new_zeros(len(like), width)
        labels = labels.to(like.dtype)
        if self.training and self.label_dropout:
            if keys is None:
                keep = torch.rand(len(labels), 1, device=labels.device) >= self.label_dropout
            else:
                keep = kept(keys, LABELS, 1, self.label_dropout)
            labels = labels * keep.to(labels.dtype)
        return labels

    def _encode(self, x: Tensor, emb: Tensor, keys: Tensor | None) -> list[Tensor]:
        """Feature maps that the decoder takes as skips, in the order they arise."""
        skips: list[Tensor] = []
        aux = x
        for key, layer in self.enc.items():
            kind = key.partition("_")[2]
            if kind == "aux_down":
                aux = layer(aux)
            elif kind == "aux_skip":
                skips[-1] = x = x + layer(aux)
            elif kind == "aux_residual":
                skips[-1] = x = aux = (x + layer(aux)) / math.sqrt(2)
            else:
                x = layer(x, emb, keys) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)
        return skips

    def _decode(
        self, skips: list[Tensor], emb: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Feature maps at full resolution, and the image that auxiliary layers add up."""
        x = normed = skips[-1]
        image: Tensor | None = None
        for key, layer in self.dec.items():
            kind = key.partition("_")[2]
            if kind == "aux_up":
                image = layer(image)
            elif kind == "aux_norm":
                normed = layer(x)
            elif kind == "aux_conv":
                part = layer(nnf.silu(normed))
                image = part if image is None else image + part
            else:
                if kind.startswith("block"):
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, emb, keys)
        return x, image
