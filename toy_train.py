"""Train an inflationary flow on a toy data set or on your own vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dnnlib import cli, plot
from flow.flow import Flow
from flow.toy_options import data_options, embedded_dimensions, open_source
from training.data.toys import ToySource
from training.data.vectors import VectorSource
from training.networks.toy import TOY_NETWORKS
from training.options import run, training_options
from training.precond import InflationPrecond
from training.training_loop import Snapshot

# What the options that name no number default to. ToyConvUNet: the published settings, but for
# tick, snap and dump, which keep some hundred files of its duration; ToyMLP: ours.
PRESETS: dict[str, dict[str, Any]] = {
    "ToyMLP": {
        "batch": 2048, "lr": 5e-3, "lr_rampup": None, "lr_decay": "cosine", "clip": 1.0, "ema": 0.3,
        "duration": 10.0, "tick": 250.0, "snap": 10, "dump": 4,
    },
    "ToyConvUNet": {
        "batch": 8192, "batch_gpu": 1024, "lr": 1e-5, "lr_rampup": 10.0, "lr_decay": "none",
        "clip": 0.0, "ema": 0.5, "duration": 7000.0, "tick": 1000.0, "snap": 20, "dump": 10,
    },
}  # fmt: skip

EXAMPLE = """
python toy_train.py --outdir=out --data_name=circles --data_dim=2 --dims_to_keep=1 --tmax=7.01
torchrun --nproc_per_node=2 toy_train.py --outdir=out --data=mine.csv --dims_to_keep=2
"""


@cli.command(EXAMPLE)
@data_options
@training_options(list(TOY_NETWORKS))
@click.pass_context
def main(ctx: click.Context, dry_run: bool, plot: bool, **options: Any) -> None:
    """Train an inflationary flow on a toy data set or on your own vectors.

    The run folder {outdir}/{00000}-{data}-{schedule} gets networks, states, stats.jsonl, a loss
    curve and samples. After an interruption the same command with --resume=latest goes on.
    Defaults that depend on --arch are the published ones for ToyConvUNet (7000 Mimg, warm-up of 10)
    and our own for ToyMLP (10 Mimg): see PRESETS at the top of this script.
    """
    embedded_dimensions(options)
    run(ctx, options, dry_run, PRESETS, open_source, draw_samples if plot else None)


def draw_samples(source: ToySource | VectorSource) -> Snapshot:
    """A callback that draws generated beside true samples at every snapshot."""

    def draw(model: InflationPrecond, run_dir: Path, kimg: int) -> None:
        n = 2000 if isinstance(source, ToySource) else min(2000, len(source.rows))
        generated = Flow(model).sample(n, seed=0, solver="rk4", steps=16).cpu().numpy()
        truth = source.samples(0, 0, n, "picture").numpy()
        plot.panels(
            run_dir / f"samples-{kimg:06d}.png",
            {"data": (truth, None), f"generated at {kimg} kimg": (generated, None)},
        )

    return draw


if __name__ == "__main__":
    main()
