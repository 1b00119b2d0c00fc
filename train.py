"""Train an inflationary flow on images."""

from __future__ import annotations

from pathlib import Path

import dnnlib  # noqa: F401  (before torch)

# isort: split
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.options import takes
from flow.flow import Flow
from flow.latents import drawn_of
from training.data.images import ImageSource, to_pixels
from training.image_options import ImageTrainOptions
from training.options import no_batch_pca
from training.precond import InflationPrecond
from training.runs import run
from training.training_loop import Snapshot

GRID = 8  # images a side in snapshots

EXAMPLE = """
python dataset_tool.py --source=digits --dest=datasets/digits-8x8.zip
python train.py --outdir=out --data=datasets/digits-8x8.zip --cbase=32 --cres=1,2 --batch=128 \\
    --duration=1 --lr_rampup=0.02
torchrun --nproc_per_node=8 train.py --outdir=out --data=datasets/cifar10-32x32.zip
"""


@cli.command(EXAMPLE)
@no_batch_pca
@takes(ImageTrainOptions)
def main(options: ImageTrainOptions) -> None:
    """Train an inflationary flow on images.

    The run folder {outdir}/{00000}-{data}-{schedule} gets networks, states, stats.jsonl, a loss
    curve and grids of generated images. After an interruption the same command with
    --resume=latest goes on. The eigenbasis is computed once and kept beside the data.
    """
    run(options, draw_samples)


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
