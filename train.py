"""Train an inflationary flow on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dnnlib  # noqa: F401  (before torch)

# isort: split
import click
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.cli import UserError
from flow.flow import Flow
from flow.latents import drawn_of
from training import published_options as published
from training.data.images import ImageSource, to_pixels
from training.networks.image import PRESETS as NETWORKS
from training.options import count, positive, run, schedule_options, training_options
from training.precond import InflationPrecond
from training.training_loop import Snapshot

# The paper's settings for CIFAR-size images.
SETTINGS = {
    "batch": 512, "batch_gpu": 64, "lr": 1e-3, "lr_rampup": 10.0, "lr_decay": "none", "clip": 0.0,
    "ema": 0.5, "duration": 200.0, "tick": 50.0, "snap": 50, "dump": 50,
}  # fmt: skip
GRID = 8  # images a side in snapshots

EXAMPLE = """
python dataset_tool.py --source=digits --dest=datasets/digits-8x8.zip
python train.py --outdir=out --data=datasets/digits-8x8.zip --cbase=32 --cres=1,2 --batch=128 \\
    --duration=1 --lr_rampup=0.02
torchrun --nproc_per_node=8 train.py --outdir=out --data=datasets/cifar10-32x32.zip
"""


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


image_options = cli.options(
    click.option("--data", type=click.Path(), required=False,
                 help="zip or folder of equal images, see dataset_tool.py  [required]"),
    cli.boolean("--cond", help="condition on the data's class labels"),
    cli.boolean("--xflip", help="add the mirror image of every image"),
    published.image_checks,
    click.option("--max_size", type=count, help="use so many images only"),
    click.option("--cbase", type=count, help="channels of the network [128, adm 192]"),
    click.option("--cres", type=Multipliers(), help="channel multipliers [2,2,2, adm 1,2,3,4]"),
    click.option("--num_blocks", type=count, help="residual blocks a resolution [4, adm 3]"),
    click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.13),
    click.option("--augment", type=click.FloatRange(0, 1),
                 help="probability of each augmentation [0.12; 0 for data with constant pixels]"),
    cli.boolean("--fp16", help="network in float16, with a dynamic loss scale"),
    cli.boolean("--bf16", help="network in bfloat16"),
    click.option("--ls", type=positive, default=2.0**16, help="first loss scale of --fp16"),
    cli.boolean("--compile", default=False, help="compile the network"),
    cli.boolean("--bench", default=True,
                 help="let cuDNN try its algorithms first (its choice can change the last digits)"),
    cli.boolean("--cache", default=True,
                 help="keep decoded pixels of large sets in the cache folder, mapped into memory; "
                 "or decode at every start, in every process"),
    click.option("--workers", type=click.IntRange(min=0), default=1,
                 help="threads that prepare batches ahead, 0: none; the batches are the same"),
    schedule_options(inflation_gap=0.02, tmax=15.01, space="IS"),
)  # fmt: skip


@cli.command(EXAMPLE)
@image_options
@training_options(list(NETWORKS))
@click.pass_context
def main(ctx: click.Context, dry_run: bool, plot: bool, **options: Any) -> None:
    """Train an inflationary flow on images.

    The run folder {outdir}/{00000}-{data}-{schedule} gets networks, states, stats.jsonl, a loss
    curve and grids of generated images. After an interruption the same command with
    --resume=latest goes on. The eigenbasis is computed once and kept beside the data.
    """
    scaled = "ls" in cli.given(ctx) and options["ls"] != 1 and not options["resume"]
    if scaled and not options["fp16"]:
        raise UserError(f"--ls={options['ls']:g} is of --fp16; leave it out or give both")
    if options["fp16"] and options["bf16"]:
        raise UserError("--fp16 and --bf16 exclude each other; give one of them")
    presets = dict.fromkeys(NETWORKS, SETTINGS)
    run(ctx, options, dry_run, presets, open_source, draw_samples if plot else None)


def open_source(options: dict[str, Any]) -> ImageSource:
    """The images that the options name.

    Raises:
        UserError: naming the option.
    """
    if options["data"] is None:
        raise UserError("--data is missing: name a zip or folder made by dataset_tool.py")
    options["precision"] = {(1, 0): "fp16", (0, 1): "bf16"}.get(
        (options["fp16"], options["bf16"]), "fp32"
    )
    with cli.user_errors("--data"):
        source = ImageSource(
            options["data"],
            use_labels=options["cond"],
            xflip=options["xflip"],
            max_size=options["max_size"],
            seed=options["seed"],
            cache=options["cache"],
        )
    if not source.varies():
        equal = "1 image" if len(source.pixels) == 1 else f"{len(source.pixels)} equal images"
        raise UserError(
            f"--data={options['data']}: {equal}, of which nothing can be learnt; name a set "
            "of images that differ"
        )
    channels, height, width = source.shape
    for option, value in {"img_size": width, "img_ch": channels}.items():
        if options[option] not in (None, value):
            raise UserError(
                f"--{option}={options[option]} contradicts --data={options['data']}, whose images "
                f"have {option}={value}; leave the option out"
            )
    levels = len(options["cres"] or NETWORKS[options["arch"]]["kwargs"]["channel_mult"])
    if height != width or height % 2 ** (levels - 1):
        raise UserError(
            f"--data={options['data']}: {levels} resolutions need square images whose side divides "
            f"by {2 ** (levels - 1)}, not {width}x{height}; see --cres and dataset_tool.py"
        )
    return source


def draw_samples(source: ImageSource) -> Snapshot:
    """A callback that writes a grid of generated images at every snapshot."""

    def draw(model: InflationPrecond, run_dir: Path, kimg: int) -> None:
        flow, n = Flow(model, info={"data": source.description()}), GRID * GRID
        if source.classes:  # one class a column
            drawn = drawn_of(flow)
            classes = torch.from_numpy(drawn[np.arange(n) % GRID % len(drawn)])
            labels = torch.nn.functional.one_hot(classes, source.classes).float()
            flow = flow.given(labels)
        x = flow.sample(n, seed=0, solver="ab2", steps=32).cpu()
        plot.image_grid(run_dir / f"samples-{kimg:06d}.png", to_pixels(x, source.shape), GRID)

    return draw


if __name__ == "__main__":
    main()
