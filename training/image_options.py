"""Options of training on images, the images that they name, and their networks and augmentation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import click

from dnnlib import cli
from dnnlib.cache import cache_dir
from dnnlib.cli import UserError
from dnnlib.options import COUNT, PATH, POSITIVE, Float32Options, Options, again, option
from torch_utils import checkpoint, distributed
from training.augment import LABELS
from training.basis import Basis, eigenbasis
from training.data.images import ImageSource
from training.networks.image import PRESETS as NETWORKS
from training.options import TrainOptions
from training.schedule_options import ScheduleOptions

STILL = 1e-3  # share of the mean variance below which a pixel counts as constant
PIECE, PIXELS = 64, 64 * 32 * 32  # most images, and pixels, at once where --batch-gpu is not given
# The paper's settings for CIFAR-size images.
SETTINGS = {
    "batch": 512, "lr": 1e-3, "lr_rampup": 10.0, "lr_decay": "none", "clip": 0.0,
    "ema": 0.5, "duration": 200.0, "tick": 50.0, "snap": 50, "dump": 50,
}  # fmt: skip


class Multipliers(click.ParamType):
    """Channel multipliers, one a resolution: numbers and ranges, separated by commas."""

    name = "int,int,... or int-int"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Parse "1,2,2" to [1, 2, 2], "1-3" to [1, 2, 3]."""
        if isinstance(value, list):
            return value
        try:
            ends = [[int(n) for n in part.split("-")] for part in value.split(",")]
            numbers = [n for e in ends for n in range(e[0], e[-1] + 1)]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 1:
            self.fail(
                f"{value!r} is not a list of positive integers such as 1,2,2 or 1-2", param, ctx
            )
        return numbers


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """Images, and the network that they are trained with."""

    data: str = option(
        None, type=PATH, help="zip or folder of equal images, see dataset_tool.py  [required]"
    )
    cond: bool = option(False, help="condition on the data's class labels")
    xflip: bool = option(False, help="add the mirror image of every image")
    img_size: int | None = option(None, help="side of the images, if you want it checked")
    img_ch: int | None = option(None, help="their channels, if you want them checked")
    max_size: int | None = option(None, type=COUNT, help="use so many images only")
    cbase: int | None = option(None, type=COUNT, help="channels of the network [128, adm 192]")
    cres: Sequence[int] | None = option(
        None, type=Multipliers(), help="channel multipliers [2,2,2, adm 1,2,3,4]"
    )
    num_blocks: int | None = option(
        None, type=COUNT, help="residual blocks a resolution [4, adm 3]"
    )
    fp16: bool = option(False, help="network in float16, with a dynamic loss scale")
    bf16: bool = option(False, help="network in bfloat16")
    cache: bool = option(
        True,
        help="keep decoded pixels of large sets in the cache folder, mapped into memory; or decode "
        "at every start, in every process",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageTrainOptions(TrainOptions, ImageOptions):
    """Training on images."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = dict.fromkeys(NETWORKS, SETTINGS)

    arch: str = again(TrainOptions, "arch", next(iter(NETWORKS)), type=click.Choice(list(NETWORKS)))
    inflation_gap: float = again(ScheduleOptions, "inflation_gap", 0.02)
    tmax: float = again(ScheduleOptions, "tmax", 15.01)
    space: str = again(ScheduleOptions, "space", "IS")
    dropout: float = option(
        0.13, type=click.FloatRange(0, 1, max_open=True), help="share of features left out"
    )
    augment: float = option(
        None, type=click.FloatRange(0, 1),
        help="probability of each augmentation [0.12; 0 for data with constant pixels]",
    )  # fmt: skip
    ls: float = option(2.0**16, type=POSITIVE, help="first loss scale of --fp16")
    compile: bool | None = option(
        None, help="compile field and loss, and the average's field  [yes on CUDA, no elsewhere]"
    )
    tf32: bool = again(
        Float32Options, "tf32",
        help="let NVIDIA GPUs round products to 10 bits in training: faster, and coarser",
    )  # fmt: skip
    bench: bool = option(
        True, help="let cuDNN try its algorithms first (its choice can change the last digits)"
    )
    workers: int = option(
        1, type=click.IntRange(min=0),
        help="threads that prepare batches ahead, 0: none; the batches are the same",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if "ls" in self.given and self.ls != 1 and not self.resume and not self.fp16:
            raise UserError(f"--ls={self.ls:g} is of --fp16; leave it out or give both")
        if self.fp16 and self.bf16:
            raise UserError("--fp16 and --bf16 exclude each other; give one of them")

    @property
    def named(self) -> tuple[str, str]:
        """See `TrainOptions.named`."""
        return "data", self.data

    @property
    def precision(self) -> str:
        """See `TrainOptions.precision`."""
        return "fp16" if self.fp16 else "bf16" if self.bf16 else "fp32"

    def record(self) -> dict[str, Any]:
        """See `Options.record`."""
        return super().record() | {"precision": self.precision}

    def dimensions_of(self, d: int) -> str:
        """See `ScheduleOptions.dimensions_of`."""
        return f"{self.data} has {d} dimensions; use --data_dim={d}"

    def open(self) -> ImageSource:
        """See `TrainOptions.open`."""
        if self.data is None:
            raise UserError("--data is missing: name a zip or folder made by dataset_tool.py")
        with cli.user_errors("--data"):
            source = ImageSource(
                self.data,
                use_labels=self.cond,
                xflip=self.xflip,
                max_size=self.max_size,
                seed=self.seed,
                cache=self.cache,
            )
        if not source.varies():
            equal = "1 image" if len(source.pixels) == 1 else f"{len(source.pixels)} equal images"
            raise UserError(
                f"--data={self.data}: {equal}, of which nothing can be learnt; name a set of "
                "images that differ"
            )
        channels, height, width = source.shape
        for name, told, value in (
            ("img_size", self.img_size, width), ("img_ch", self.img_ch, channels),
        ):  # fmt: skip
            if told not in (None, value):
                raise UserError(
                    f"--{name}={told} contradicts --data={self.data}, whose images have "
                    f"{name}={value}; leave the option out"
                )
        levels = len(self.cres or NETWORKS[self.arch]["kwargs"]["channel_mult"])
        if height != width or height % 2 ** (levels - 1):
            raise UserError(
                f"--data={self.data}: {levels} resolutions need square images whose side divides "
                f"by {2 ** (levels - 1)}, not {width}x{height}; see --cres and dataset_tool.py"
            )
        return source

    def network(self, source: Any) -> dict[str, Any]:
        """See `TrainOptions.network`."""
        preset = NETWORKS[self.arch]
        channels, resolution, _ = source.shape
        kwargs = preset["kwargs"] | {
            "img_resolution": resolution,
            "in_channels": channels,
            "out_channels": channels,
            "label_dim": source.classes,
            "augment_dim": LABELS if self.augment else 0,
            "dropout": self.dropout,
        }
        told = {"model_channels": self.cbase, "num_blocks": self.num_blocks,
                "channel_mult": self.cres}  # fmt: skip
        kwargs |= {name: value for name, value in told.items() if value}
        if self.attn_resolutions is not None:  # those of --transfer
            kwargs["attn_resolutions"] = self.attn_resolutions
        elif resolution < 32:  # attention at half the resolution, as CIFAR-size networks have it
            kwargs["attn_resolutions"] = [resolution // 2]
        return {"class": preset["class"], "kwargs": kwargs}

    def basis(self, source: Any) -> Basis:
        """See `TrainOptions.basis`; it is computed only once."""
        return basis_of(source)

    def resolved(self, source: Any) -> Self:
        """See `TrainOptions.resolved`."""
        options = super().resolved(source)
        if options.tf32 and distributed.pick_device(options.device).type != "cuda":
            raise UserError("--tf32 is of CUDA; leave it out or give --device=cuda")
        if options.batch_gpu is None:
            _, height, width = source.shape
            options = replace(options, batch_gpu=max(1, min(PIECE, PIXELS // (height * width))))
        return options

    def for_basis(self, basis: Basis) -> Self:
        """See `TrainOptions.for_basis`."""
        return replace(self, augment=augmentation(self.augment, basis))


def augmentation(wanted: float | None, basis: Basis) -> float:
    """The --augment that goes with the data; None stands for the paper's, where it is possible.

    Augmentation moves image content into pixels that never vary in the data, where whitening
    divides it by next to nothing. Directions of little variance are another matter: in CIFAR-10,
    whose pixels all vary, augmented images have no more variance in any of them than the data.

    Raises:
        UserError: where it is not possible.
    """
    variances = basis.W.square() @ basis.xi  # of the columns: of pixels
    still = int((variances < STILL * variances.mean()).sum())
    if wanted is None:
        return 0.0 if still else 0.12
    if wanted and still:
        raise UserError(
            f"--augment={wanted:g} moves image content into pixels that hardly vary in this data "
            f"({still} of {len(variances)}); use --augment=0, or --precond=edm, vp or ve"
        )
    return wanted


def basis_of(source: ImageSource) -> Basis:
    """The eigenbasis of images, computed only once.

    It is kept beside the data of rank 0, or in its cache folder where that cannot be written to.

    Raises:
        ValueError: if the data have none.
    """
    mirrored = "-xflip" if source.xflip else ""
    data = source.path
    name = f"{data.stem}.basis-{source.content_hash()[:16]}{mirrored}.pt"
    stored, path = None, data
    if distributed.is_main():
        path = (data.parent if os.access(data.parent, os.W_OK) else cache_dir()) / name
        with suppress(ValueError):  # a damaged file is computed again
            stored = checkpoint.load(path, "basis") if path.exists() else None
    known = distributed.broadcast(stored)
    if isinstance(known, dict):
        return Basis(**{k: known[k] for k in ("mean", "scale", "xi", "W", "floored")})
    basis = eigenbasis(source.basis_batches(), source.dim, source.scale)
    if distributed.is_main():
        checkpoint.save(path, "basis", vars(basis))
    return basis
