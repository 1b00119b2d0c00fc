"""Train an inflationary flow on a toy data set or on your own vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dnnlib import cli, plot
from dnnlib.cli import UserError
from torch_utils import distributed
from training.flow import Flow
from training.launch import find_run, launch
from training.schedule import G_TYPES, default_rho, inflation_exponents
from training.toy_data import TOY_SETS, ToySource
from training.toy_networks import TOY_NETWORKS
from training.vector_data import VectorSource

# What the options that name no number default to. ToyConvUNet: the settings of the paper.
PRESETS: dict[str, dict[str, Any]] = {
    "ToyMLP": {
        "batch": 2048, "lr": 5e-3, "lr_rampup": None, "lr_decay": "cosine", "clip": 1.0, "ema": 0.3,
        "duration": 10.0, "tick": 250.0, "snap": 10, "dump": 4,
    },
    "ToyConvUNet": {
        "batch": 8192, "lr": 1e-5, "lr_rampup": 0.0, "lr_decay": "none", "clip": 0.0, "ema": 0.5,
        "duration": 50.0, "tick": 50.0, "snap": 20, "dump": 10,
    },
}  # fmt: skip

EXAMPLE = """
python toy_train.py --outdir=out --data_name=circles --data_dim=2 --dims_to_keep=1 --tmax=7.01
torchrun --nproc_per_node=2 toy_train.py --outdir=out --data=mine.csv --dims_to_keep=2
"""

positive = click.FloatRange(min=0, min_open=True)
count = click.IntRange(min=1)

data_options = cli.options(
    click.option("--data_name", type=click.Choice(list(TOY_SETS)), help="toy data set"),
    click.option("--data", type=click.Path(), help="your own vectors: .npy, .npz or .csv"),
    click.option("--data_dim", type=count, help="dimensions of the data [those of the data]"),
    click.option("--augment_to", type=count, help="embed a toy set into so many dimensions"),
    click.option("--embedding", type=click.Choice(["orthonormal", "signed_square"]),
                 default="orthonormal", help="how --augment_to embeds"),
    click.option("--embedding_noise", type=click.FloatRange(min=0), default=0.2,
                 help="noise sd of --embedding=signed_square"),
)  # fmt: skip
schedule_options = cli.options(
    click.option("--dims_to_keep", type=count,
                 help="dimensions that inflate fully; fewer than --data_dim compresses [data_dim]"),
    click.option("--g_type", type=click.Choice(G_TYPES), default="constant_inflation_gap"),
    click.option("--inflation_gap", type=click.FloatRange(min=0), default=1.0,
                 help="the paper's effective gap minus 1"),
    click.option("--g_rescaling", type=positive, default=1.0, help="factor on all of g"),
    click.option("--rho", type=positive, help="growth rate [2 for PRP, 1 for PRR: 2/(1+max g)]"),
    click.option("--gamma0", type=positive, default=5e-4, help="noise variance at t = 0"),
    click.option("--tmin", type=click.FloatRange(min=0), default=1e-7, help="smallest time"),
    click.option("--tmax", type=positive, default=7.01, help="end of the flow"),
    click.option("--space", type=click.Choice(["ES", "IS"]), default="ES",
                 help="the network's coordinates: eigenbasis or the data's own"),
    click.option("--precond", type=click.Choice(["ifs", "edm"]), default="ifs"),
)  # fmt: skip
training_options = cli.options(
    click.option("--outdir", type=click.Path(), help="where run folders go  [required]"),
    click.option("--arch", type=click.Choice(list(TOY_NETWORKS)), default="ToyMLP"),
    click.option("--duration", type=positive, help="training length, Mimg (million samples)"),
    click.option("--stop_after", type=positive, help="save and stop after so many Mimg, for now"),
    click.option("--batch", type=count, help="samples a step over all processes"),
    click.option("--batch-gpu", type=count, help="most samples at once in one process"),
    click.option("--lr", type=positive, help="learning rate"),
    click.option("--lr_rampup", type=click.FloatRange(min=0), help="warm-up, Mimg [5 %]"),
    click.option("--lr_decay", type=click.Choice(["none", "cosine"]), help="after the warm-up"),
    click.option("--clip", type=click.FloatRange(min=0), help="largest gradient norm, 0: no limit"),
    click.option("--ema", type=positive, help="half-life of the weight average, Mimg"),
    click.option("--tick", type=positive, help="kimg between status lines"),
    click.option("--snap", type=count, help="ticks between network snapshots"),
    click.option("--dump", type=count, help="ticks between training states"),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="of data, noise, weights"),
    click.option("--resume", metavar="DIR|latest", help="go on with a run"),
    cli.device_option,
    cli.plot_option,
    cli.dry_run_option,
)


@cli.command(EXAMPLE)
@data_options
@schedule_options
@training_options
@click.pass_context
def main(ctx: click.Context, dry_run: bool, plot: bool, **options: Any) -> None:
    """Train an inflationary flow on a toy data set or on your own vectors.

    The run folder {outdir}/{00000}-{data}-{schedule} gets networks, states, stats.jsonl, a loss
    curve and samples. After an interruption the same command with --resume=latest goes on.
    Defaults that depend on --arch: see PRESETS at the top of this script.
    """
    explicit = {k: options[k] for k in cli.given(ctx) & options.keys()}
    run_dir = None
    if options["resume"]:
        run_dir, found = find_run(options["resume"], options["outdir"], explicit)
        options |= found
    options |= {k: v for k, v in PRESETS[options["arch"]].items() if options[k] is None}
    if options["lr_rampup"] is None:
        options["lr_rampup"] = min(0.4, 0.05 * options["duration"])
    source = open_source(options)
    check(options, source)
    if dry_run:
        print(json.dumps(options, indent=2))
        return
    with cli.user_errors():
        distributed.pick_device(options["device"])
    if run_dir is None:
        cli.check_writable(options["outdir"], "--outdir")

    def description(schedule: str) -> str:
        return f"{source.description()['name']}-{schedule}"

    try:
        launch(options, run_dir, description, source, draw_samples(source) if plot else None)
    except FloatingPointError as error:
        raise UserError(str(error)) from error


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
        with cli.user_errors("--data"):
            source = VectorSource(options["data"])
        for column in source.constant:
            print(f"Warning: column {column} of {options['data']} is constant")
        return source
    with cli.user_errors():
        return ToySource(
            options["data_name"],
            options["augment_to"],
            options["embedding"],
            options["embedding_noise"],
        )


def check(options: dict[str, Any], source: ToySource | VectorSource) -> None:
    """Fill in dimensions and check that the options agree with the data and each other.

    Raises:
        UserError: naming the option, its value and the remedy.
    """
    d = source.dim
    name = options["data_name"] or options["data"]
    if options["data_dim"] not in (None, d):
        raise UserError(
            f"--data_dim={options['data_dim']}: {name} has {d} dimensions; use --data_dim={d}"
            + ("" if options["data"] else " or --augment_to to embed it")
        )
    keep = options["dims_to_keep"] = options["dims_to_keep"] or d
    options["data_dim"] = d
    if keep > d:
        raise UserError(f"--dims_to_keep={keep} is larger than --data_dim={d}; use at most {d}")
    if options["outdir"] is None:
        raise UserError("--outdir is missing: name the folder that run folders go to")
    with cli.user_errors("--g_type"):
        g = inflation_exponents(
            d, keep, options["g_type"], options["inflation_gap"], options["g_rescaling"]
        )
    if options["precond"] == "edm" and (keep < d or options["g_type"] == "proportional"):
        raise UserError("--precond=edm has one noise level: use it with --dims_to_keep=--data_dim")
    if options["rho"] is None:
        options["rho"] = default_rho(g)
    if options["tmin"] >= options["tmax"]:
        raise UserError(f"--tmin={options['tmin']} is not below --tmax={options['tmax']}")
    if options["batch"] > options["duration"] * 1e6:
        raise UserError(
            f"--duration={options['duration']} Mimg is less than one --batch={options['batch']}"
        )


def draw_samples(source: ToySource | VectorSource):
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
