"""Train an inflationary flow on a toy data set or on your own vectors."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click

from dnnlib import cli, plot
from dnnlib.cli import UserError
from torch_utils import distributed
from training.flow import Flow
from training.options import count, nonnegative, run, schedule_options, training_options
from training.tables import TableOptions, differences
from training.toy_data import TOY_SETS, ToySource, own_dimensions
from training.toy_networks import TOY_NETWORKS
from training.training_loop import Snapshot
from training.vector_data import VectorSource

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

# How a table of --data is read, in every script that takes one.
table_options = cli.options(
    click.option("--columns", metavar="NAME,...",
                 help="columns of the table to read, in this order; without a header 0,1,..."),
    click.option("--index_col", metavar="NAME", help="column of the table to leave out"),
    click.option("--header/--no-header", default=None,
                 help="whether the table's first row is names  [judged]"),
    click.option("--missing", type=click.Choice(["drop", "error"]),
                 help="what to do with rows of the table that miss a value  [error]"),
    click.option("--decimal", type=click.Choice([".", ","]),
                 help="decimal sign of the table  [judged]"),
)  # fmt: skip
data_options = cli.options(
    click.option("--data_name", type=click.Choice(list(TOY_SETS)), help="toy data set"),
    click.option("--data", type=click.Path(), help="your own vectors: .npy, .npz or .csv"),
    table_options,
    click.option("--augment_to", type=count,
                 help="embed a toy set into so many dimensions; --data_dim may then be its own"),
    click.option("--embedding", type=click.Choice(["orthonormal", "signed_square"]),
                 default="orthonormal", help="how --augment_to embeds"),
    click.option("--embedding_noise", type=nonnegative, default=0.2,
                 help="noise sd of --embedding=signed_square"),
    schedule_options(inflation_gap=1.0, tmax=7.01, space="ES"),
)  # fmt: skip


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


def embedded_dimensions(options: dict[str, Any]) -> None:
    """Let --data_dim be the embedding's, where --augment_to comes with those of the set itself."""
    own = own_dimensions(options["data_name"])
    if options["augment_to"] is not None and options["data_dim"] == own:
        options["data_dim"] = options["augment_to"]


def open_source(options: dict[str, Any]) -> ToySource | VectorSource:
    """The training data that the options name.

    Raises:
        UserError: naming the option.
    """
    if (options["data"] is None) == (options["data_name"] is None):
        raise UserError("give either --data_name (a toy set) or --data (a file of vectors)")
    if options["data"] is not None:
        if options["augment_to"]:
            raise UserError("--augment_to embeds toy sets; leave it out with --data")
        source = open_vectors(options)
        before = options.get("reading")
        if before is not None and before != source.reading:
            raise UserError(
                f"--data={options['data']}: the run to go on with was trained on other columns or "
                f"read them otherwise: {differences(before, source.reading)}"
            )
        if source.reading is not None:
            options["reading"] = source.reading
        return source
    check_no_table(options)
    with cli.user_errors():
        return ToySource(
            options["data_name"],
            options["augment_to"],
            options["embedding"],
            options["embedding_noise"],
        )


def open_vectors(options: dict[str, Any], like: dict[str, Any] | None = None) -> VectorSource:
    """The vectors of --data; says what was read, and which columns are constant.

    Args:
        options: of the script.
        like: how the table that a network was trained on was read, see `VectorSource`.

    Raises:
        UserError: naming the option.
    """
    columns = options["columns"]
    names = None if columns is None else tuple(next(csv.reader([columns], skipinitialspace=True)))
    told = {k: options[k] for k in ("index_col", "header", "missing", "decimal")}
    with cli.user_errors("--data"):
        source = VectorSource(options["data"], TableOptions(columns=names, **told), like)
    distributed.print0(source.said)
    for name in source.constant:
        distributed.print0(f"Warning: column {name} of {options['data']} is constant")
    return source


def check_no_table(options: dict[str, Any]) -> None:
    """Check that the options of tables are not given without --data.

    Raises:
        UserError: naming the option.
    """
    told = {k: options[k] for k in ("columns", "index_col", "header", "missing", "decimal")}
    for option in TableOptions(**told).given():
        raise UserError(f"{option} is for a table given with --data; leave it out")


def draw_samples(source: ToySource | VectorSource) -> Snapshot:
    """A callback that draws generated beside true samples at every snapshot."""

    def draw(flow: Flow, run_dir: Path, kimg: int) -> None:
        n = 2000 if isinstance(source, ToySource) else min(2000, len(source.rows))
        generated = flow.sample(n, seed=0, solver="rk4", steps=16).cpu().numpy()
        truth = source.samples(0, 0, n, "picture").numpy()
        plot.panels(
            run_dir / f"samples-{kimg:06d}.png",
            {"data": (truth, None), f"generated at {kimg} kimg": (generated, None)},
        )

    return draw


if __name__ == "__main__":
    main()
