"""Train an inflationary flow on a toy data set or on your own vectors."""

from __future__ import annotations

from pathlib import Path

from dnnlib import cli, plot
from dnnlib.options import takes
from flow.flow import Flow
from training.data.toys import ToySource
from training.data.vectors import VectorSource
from training.options import no_batch_pca
from training.precond import InflationPrecond
from training.runs import run
from training.toy_options import ToyTrainOptions
from training.training_loop import Snapshot

EXAMPLE = """
python toy_train.py --outdir=out --data_name=circles --data_dim=2 --dims_to_keep=1 --tmax=7.01
torchrun --nproc_per_node=2 toy_train.py --outdir=out --data=mine.csv --dims_to_keep=2
"""


@cli.command(EXAMPLE)
@no_batch_pca
@takes(ToyTrainOptions)
def main(options: ToyTrainOptions) -> None:
    """Train an inflationary flow on a toy data set or on your own vectors.

    The run folder {outdir}/{00000}-{data}-{schedule} gets networks, states, stats.jsonl, a loss
    curve and samples. After an interruption the same command with --resume=latest goes on.
    Defaults that depend on --arch are the published ones for ToyConvUNet (7000 Mimg, warm-up of 10)
    and our own for ToyMLP (10 Mimg, of tables at most 500 passes): see training/toy_options.py.
    """
    run(options.embedded(), draw_samples)


def draw_samples(source: ToySource | VectorSource) -> Snapshot:
    """A callback that draws generated beside true samples at every snapshot."""

    def draw(model: InflationPrecond, run_dir: Path, kimg: int) -> None:
        n = 2000 if isinstance(source, ToySource) else min(2000, len(source.rows))
        generated = Flow(model).sample(n, seed=0, solver="rk4", steps=16).cpu().numpy()
        truth = source.samples(0, 0, n, "picture").numpy()
        clouds = {"data": (truth, None), f"generated at {kimg} kimg": (generated, None)}
        own = clouds if isinstance(source, VectorSource) else ()
        plot.panels(run_dir / f"samples-{kimg:06d}.png", clouds, own=own)

    return draw


if __name__ == "__main__":
    main()
