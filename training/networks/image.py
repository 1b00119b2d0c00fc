"""Image networks, compatible with published weights: SongUNet (DDPM++, NCSN++), DhariwalUNet (ADM).

Both are called as net(x, noise_labels, class_labels, augment_labels). Presets name the published
variants.

Reference: Song et al. 2021; Dhariwal and Nichol 2021; arguments as in Karras et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as nnf
from torch import Tensor, nn

from training.networks.layers import (
    BlockStyle,
    PositionalEmbedding,
    PreciseFourierEmbedding,
    ResampledConv2d,
    group_norm,
    init_fan_in,
    init_xavier,
    linear,
)
from training.networks.unet import UNet


class SongUNet(UNet):
    """The U-Net of DDPM++ and NCSN++.

    Args:
        img_resolution: side of the (square) images.
        in_channels, out_channels: channels of images in and out.
        label_dim: classes; 0 for none.
        augment_dim: augmentation labels; 0 for none.
        model_channels: base width.
        channel_mult: width of each resolution over the base, highest resolution first.
        channel_mult_emb: width of the embedding over the base.
        num_blocks: residual blocks per resolution.
        attn_resolutions: resolutions with self-attention.
        dropout: probability within blocks.
        label_dropout: probability of hiding a sample's class in training.
        embedding_type: "positional" (DDPM++) or "fourier" (NCSN++).
        channel_mult_noise: width of the noise embedding over the base (DDPM++ 1, NCSN++ 2).
        encoder_type: "standard" (DDPM++), "residual" (NCSN++) or "skip".
        decoder_type: "standard" or "skip".
        resample_filter: [1, 1] (DDPM++) or [1, 3, 3, 1] (NCSN++).
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ):
        _check("embedding_type", embedding_type, ("positional", "fourier"))
        _check("encoder_type", encoder_type, ("standard", "skip", "residual"))
        _check("decoder_type", decoder_type, ("standard", "skip"))
        emb, noise = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        style = BlockStyle(
            emb_channels=emb,
            dropout=dropout,
            eps=1e-6,
            skip_scale=math.sqrt(0.5),
            scale_shift=False,
            project_resampled=True,
            head_channels=None,
            taps=tuple(resample_filter),
            init=init_xavier,
            out_gain=1e-5,
            attention_gain=math.sqrt(0.2),
        )
        widths = [model_channels * m for m in channel_mult]
        super().__init__(img_resolution, widths, num_blocks, attn_resolutions, style, label_dropout)
        self.label_dim = label_dim
        self.map_noise: nn.Module
        if embedding_type == "fourier":
            self.map_noise = PreciseFourierEmbedding(noise)
        else:
            self.map_noise = PositionalEmbedding(noise, endpoint=True, sine_first=True)
        self.map_label = linear(label_dim, noise, init_xavier) if label_dim else None
        self.map_augment: nn.Linear | None = None
        if augment_dim:
            self.map_augment = linear(augment_dim, noise, init_xavier, bias=False)
        self.map_layer0 = linear(noise, emb, init_xavier)
        self.map_layer1 = linear(emb, emb, init_xavier)
        self._encoder_type, self._aux_channels = encoder_type, in_channels
        skips = self._build_encoder(in_channels, model_channels)
        self._build_decoder(out_channels, skips, decoder_type)
        self._number_blocks()

    def _add_auxiliary(self, level: int, channels: int) -> None:
        conv = partial(ResampledConv2d, taps=self.style.taps, init=self.style.init)
        aux = self._aux_channels
        if self._encoder_type == "skip":
            down = conv(aux, aux, 0, resample="down")
            self.enc[self._key(level, "aux_down")] = down
            self.enc[self._key(level, "aux_skip")] = conv(aux, channels, 1)
        elif self._encoder_type == "residual":
            self.enc[self._key(level, "aux_residual")] = conv(
                aux, channels, 3, resample="down", fused=True
            )
            self._aux_channels = channels

    def _build_decoder(self, out_channels: int, skips: list[int], decoder_type: str) -> None:
        conv = partial(ResampledConv2d, taps=self.style.taps, init=init_xavier)
        c, lowest = skips[-1], len(self.channels) - 1
        for level in reversed(range(len(self.channels))):
            c = self._decode_level(level, c, skips, attend_all=False)
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level < lowest:
                    up = conv(out_channels, out_channels, 0, resample="up")
                    self.dec[self._key(level, "aux_up")] = up
                self.dec[self._key(level, "aux_norm")] = group_norm(c, self.style.eps)
                self.dec[self._key(level, "aux_conv")] = conv(
                    c, out_channels, 3, gain=self.style.out_gain
                )

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Images to images.

        Args:
            x: images in the network's dtype, [n, in_channels, r, r].
            noise_labels: [n], best in float32 whatever the dtype of x.
            class_labels: one-hot labels [n, label_dim]; None for none.
            augment_labels: what augmentation did, [n, augment_dim]; None for nothing.
            dropout_keys: of the samples in training, see `networks.dropout`, [n]; None for masks
                that depend on the batch.

        Returns:
            [n, out_channels, r, r].
        """
        emb = self.map_noise(noise_labels).to(x.dtype)
        if self.map_label is not None:
            labels = self._class_labels(class_labels, self.label_dim, emb, dropout_keys)
            emb = emb + self.map_label(labels * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        emb = nnf.silu(self.map_layer1(nnf.silu(self.map_layer0(emb))))
        image = self._decode(self._encode(x, emb, dropout_keys), emb, dropout_keys)[1]
        assert image is not None  # there is an auxiliary layer at full resolution
        return image


class DhariwalUNet(UNet):
    """The U-Net of ADM; arguments mean what they do in `SongUNet`."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ):
        emb = model_channels * channel_mult_emb
        style = BlockStyle(
            emb_channels=emb,
            dropout=dropout,
            eps=1e-5,
            skip_scale=1.0,
            scale_shift=True,
            project_resampled=False,
            head_channels=64,
            taps=(1, 1),
            init=init_fan_in,
            out_gain=0.0,
            attention_gain=1.0,
        )
        widths = [model_channels * m for m in channel_mult]
        super().__init__(img_resolution, widths, num_blocks, attn_resolutions, style, label_dropout)
        self.label_dim = label_dim
        self.map_noise = PositionalEmbedding(model_channels, endpoint=False, sine_first=False)
        self.map_augment: nn.Linear | None = None
        if augment_dim:
            self.map_augment = linear(augment_dim, model_channels, init_fan_in, 0.0, bias=False)
        self.map_layer0 = linear(model_channels, emb, init_fan_in)
        self.map_layer1 = linear(emb, emb, init_fan_in)
        self.map_label: nn.Linear | None = None
        if label_dim:
            self.map_label = nn.Linear(label_dim, emb, bias=False)
            nn.init.normal_(self.map_label.weight)  # fan-in and sqrt(label_dim) cancel
        skips = self._build_encoder(in_channels, self.channels[0])
        c = skips[-1]
        for level in reversed(range(len(self.channels))):
            c = self._decode_level(level, c, skips, attend_all=True)
        self.out_norm = group_norm(c, self.style.eps)
        self.out_conv = ResampledConv2d(c, out_channels, 3, gain=self.style.out_gain)
        self._number_blocks()

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Images to images; arguments as in `SongUNet.forward`."""
        emb = self.map_noise(noise_labels).to(x.dtype)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        emb = self.map_layer1(nnf.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            labels = self._class_labels(class_labels, self.label_dim, emb, dropout_keys)
            emb = emb + self.map_label(labels)
        emb = nnf.silu(emb)
        x = self._decode(self._encode(x, emb, dropout_keys), emb, dropout_keys)[0]
        return self.out_conv(nnf.silu(self.out_norm(x)))


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is none of {', '.join(known)}")


IMAGE_NETWORKS: dict[str, type[nn.Module]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}

_CIFAR_SIZE = {
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.13,
    "augment_dim": 9,
}
# Published variants in the form that `training.network_file.build` takes; resolution, channels and
# label_dim depend on the data and are added there.
PRESETS: dict[str, dict[str, Any]] = {
    "ddpmpp": {
        "class": "SongUNet",
        "kwargs": {
            **_CIFAR_SIZE,
            "embedding_type": "positional",
            "channel_mult_noise": 1,
            "encoder_type": "standard",
            "decoder_type": "standard",
            "resample_filter": [1, 1],
        },
    },
    "ncsnpp": {
        "class": "SongUNet",
        "kwargs": {
            **_CIFAR_SIZE,
            "embedding_type": "fourier",
            "channel_mult_noise": 2,
            "encoder_type": "residual",
            "decoder_type": "standard",
            "resample_filter": [1, 3, 3, 1],
        },
    },
    "adm": {
        "class": "DhariwalUNet",
        "kwargs": {
            "model_channels": 192,
            "channel_mult": [1, 2, 3, 4],
            "num_blocks": 3,
            "attn_resolutions": [32, 16, 8],
        },
    },
}
