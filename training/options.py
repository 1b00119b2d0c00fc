"""Options of the training scripts: what toys and images share, from command line to launch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dnnlib import cli
from dnnlib.cli import UserError
from torch_utils import distributed
from torch_utils.peers import agree_on_file, of_rank0
from training import published_options as published
from training.batches import Source
from training.data.toys import DEFINITION, own_dimensions
from training.edm_precond import LEVELS, RECIPES
from training.launch import launch
from training.resume import find_run, other_data, other_script, run_before_restart, say_horizon
from training.schedule import G_TYPES, default_rho, inflation_exponents
from training.training_loop import Snapshot

positive = click.FloatRange(min=0, min_open=True)
nonnegative = click.FloatRange(min=0)
count = click.IntRange(min=1)


def schedule_options(inflation_gap: float, tmax: float, space: str) -> Callable:
    """Options of the schedule and of what the network sees, with a script's defaults."""
    return cli.options(
        click.option("--data_dim", type=count, help="dimensions of the data [those of the data]"),
        click.option("--dims_to_keep", type=count,
                     help="dimensions that inflate fully; fewer than --data_dim compresses "
                     "[data_dim]"),
        click.option("--g_type", type=click.Choice(G_TYPES), default="constant_inflation_gap"),
        click.option("--inflation_gap", type=nonnegative, default=inflation_gap,
                     help="the paper's effective gap minus 1"),
        click.option("--g_rescaling", type=positive, default=1.0, help="factor on all of g"),
        click.option("--rho", type=positive,
                     help="growth rate [2 for PRP, 1 for PRR: 2/(1+max g)]"),
        click.option("--gamma0", type=positive, default=5e-4,
                     help="noise variance at t = 0; unless given, other for --precond=edm, vp, ve"),
        click.option("--tmin", type=nonnegative, default=1e-7, help="smallest time"),
        click.option("--tmax", "--end_time", type=positive, default=tmax,
                     help="end of the flow; unless given, other for --precond=edm, vp, ve"),
        click.option("--space", type=click.Choice(["ES", "IS"]), default=space,
                     help="the network's coordinates: eigenbasis or the data's own"),
        click.option("--precond", type=click.Choice(list(RECIPES)), default="ifs",
                     help="ifs: the inflationary flow. edm, vp, ve: one noise level for all "
                     "dimensions, drawn, weighted and told to the network as by that method. The "
                     "network predicts F in each; --gamma0 and --tmax cover the method's levels, "
                     "sigma .002 to 80, .001 to 152, .02 to 100. vp_velocity, sp_velocity: the "
                     "diffusion ODEs of maximum likelihood (i-DODE), log SNR 13.3 to -5"),
        click.option("--t_sampling", type=click.Choice(["uniform", "arc", "normal", *LEVELS]),
                     callback=published.t_sampling,
                     help="how training draws times: uniform in t, as the paper does, uniform in "
                     "the arc that the flow is integrated in, or such that the noise level is "
                     "lognormal (edm; published name: normal), uniform in VP's time (vp) or "
                     "log-uniform (ve)  "
                     "[by --precond; ifs: uniform]"),
        click.option("--weighting", type=click.Choice(["edm", "noise", "arc", "likelihood"]),
                     help="weight of the squared error of the field: edm 1, noise cos(phi)^2, arc "
                     "that of the velocity in arc length, likelihood that of maximum likelihood  "
                     "[by --precond; ifs: edm]"),
        cli.boolean("--importance", default=None,
                     help="draw times in proportion to the likelihood weight, for a less noisy "
                     "gradient; with --weighting=likelihood  [by --precond; ifs: no]"),
        cli.boolean("--second_order",
                     help="fine-tune with i-DODE's error-bounded second-order loss; with "
                     "--transfer, from a trained network"),
    )  # fmt: skip


def training_options(networks: list[str]) -> Callable:
    """Options of the loop; the first network is the default."""
    return cli.options(
        click.option("--outdir", type=click.Path(), help="where run folders go  [required]"),
        click.option("--arch", type=click.Choice(networks), default=networks[0]),
        click.option("--duration", type=positive, help="training length, Mimg (million samples)"),
        click.option("--stop_after", type=positive, help="save and stop after so many Mimg"),
        click.option("--batch", type=count, help="samples a step over all processes"),
        click.option("--batch-gpu", type=count,
                     help="most samples at once in one process, whatever --batch; results are the "
                     "same  [images 64, ToyConvUNet 1024, ToyMLP no limit]"),
        click.option("--lr", type=positive, help="learning rate"),
        click.option("--lr_rampup", type=nonnegative, help="warm-up, Mimg"),
        click.option("--lr_decay", type=click.Choice(["none", "cosine"]), help="after the warm-up"),
        click.option("--clip", type=nonnegative, help="largest gradient norm, 0: no limit"),
        click.option("--ema", type=positive, help="half-life of the weight average, Mimg"),
        click.option("--tick", type=positive, help="kimg between status lines"),
        click.option("--snap", type=count, help="ticks between network snapshots"),
        click.option("--dump", type=count, help="ticks between training states"),
        click.option("--seed", type=click.IntRange(min=0), default=0,
                     help="of data, noise, weights"),
        click.option("--skip_nonfinite", type=click.IntRange(min=0), default=0,
                     help="steps to skip, in all, whose loss or gradient is not finite; the next "
                     "one stops the run, and its batch is saved"),
        click.option("--resume", metavar="DIR|latest", help="go on with a run"),
        published.training_options,
        click.option("--transfer", metavar="NETWORK", help="start from another network's weights"),
        cli.device_option,
        cli.plot_option,
        cli.dry_run_option,
    )  # fmt: skip


def run(
    ctx: click.Context,
    options: dict[str, Any],
    dry_run: bool,
    presets: dict[str, dict[str, Any]],
    open_source: Callable[[dict[str, Any]], Any],
    on_snapshot: Callable[[Any], Snapshot] | None,
) -> None:
    """Resolve the options, check them against the data, and train.

    Args:
        ctx: click's context, which knows what the user gave.
        options: options of the script.
        dry_run: print the resolved options and stop.
        presets: network -> defaults of the options that are still None.
        open_source: options -> data.
        on_snapshot: data -> callback that draws samples of a snapshot; None to draw nothing.

    Raises:
        UserError: naming the option, its value and the remedy, before anything is written.
    """
    explicit = {k: options[k] for k in cli.given(ctx) & options.keys()}
    if "transfer" in explicit and options["resume"]:
        raise UserError("--transfer starts a run and --resume goes on with one; give one of them")
    opened: dict[str, Source] = {}

    def source_of(options: dict[str, Any]) -> Source:
        key = json.dumps(options, sort_keys=True)
        if key not in opened:
            opened[key] = open_source(options)
        return opened[key]

    def unfit(folder: Path, stored: dict[str, Any]) -> str | None:
        found = stored | explicit
        flaw = other_script(found, options, presets)
        flaw = flaw or other_data(folder, source_of(options | found), found)
        if flaw is None and stored.get("lr_decay") == "cosine":
            say_horizon(stored, found)
        return flaw

    def found_run() -> tuple[str | None, dict[str, Any]]:
        resume = options["resume"] or run_before_restart(options["outdir"])
        return find_run(resume, options["outdir"], explicit, unfit) if resume else (None, {})

    run_dir, found = of_rank0(found_run)
    options |= found
    options |= {k: v for k, v in presets[options["arch"]].items() if options[k] is None}
    if options["lr_rampup"] is None:
        options["lr_rampup"] = min(0.4, 0.05 * options["duration"])
    if options["outdir"] is None:
        raise UserError("--outdir is missing: name the folder that run folders go to")
    with cli.user_errors():
        distributed.pick_device(options["device"])
    source = source_of(options)
    options["data_sha256"] = source.content_hash()
    which = "data" if options["data"] is not None else "data_name"
    agree_on_file(f"--{which}", options[which], options["data_sha256"])
    check(options, source)
    if run_dir is None:
        options |= {"definition": DEFINITION} if options.get("data_name") else {}
        options |= _levels_covered(options, explicit)
        published.check_folder(options)
    if dry_run:
        distributed.print0(json.dumps(options, indent=2))
        return
    if run_dir is None:
        cli.check_writable(options["outdir"], "--outdir")

    def description(schedule: str) -> str:
        desc = f"-{options['desc']}" if options.get("desc") else ""
        return f"{source.description()['name']}-{schedule}{desc}"

    try:
        where = None if run_dir is None else Path(run_dir)
        launch(options, where, description, source, on_snapshot and on_snapshot(source))
    except (FloatingPointError, ValueError) as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"--compile does not work here ({reason}); use --no-compile") from error
        raise


def check_dimensions(options: dict[str, Any], source: Source) -> None:
    """Fill in --data_dim and --dims_to_keep, and check that they agree with the data.

    Raises:
        UserError: naming the option, its value and the remedy.
    """
    d = source.dim
    if options["data_dim"] not in (None, d):
        name = options.get("data_name") or options["data"]
        own, embedded = own_dimensions(options.get("data_name")), options.get("augment_to")
        raise UserError(
            f"--data_dim={options['data_dim']}: {name} has {own or d} dimensions"
            + (f", embedded into --augment_to={d}" if embedded else "")
            + f"; use --data_dim={own or d}"
            + (" or --augment_to to embed it" if own and not embedded else "")
        )
    keep = options["dims_to_keep"] = options["dims_to_keep"] or d
    options["data_dim"] = d
    if keep > d:
        raise UserError(f"--dims_to_keep={keep} is larger than --data_dim={d}; use at most {d}")


def check(options: dict[str, Any], source: Source) -> None:
    """Fill in dimensions and rate, and check that the options agree with data and each other.

    Raises:
        UserError: naming the option, its value and the remedy.
    """
    check_dimensions(options, source)
    d, keep = options["data_dim"], options["dims_to_keep"]
    with cli.user_errors("--g_type"):
        g = inflation_exponents(
            d, keep, options["g_type"], options["inflation_gap"], options["g_rescaling"]
        )
    _check_levels(options)
    if options["rho"] is None:
        options["rho"] = default_rho(g)
    if options["tmin"] >= options["tmax"]:
        raise UserError(f"--tmin={options['tmin']} is not below --tmax={options['tmax']}")
    if options["batch"] > options["duration"] * 1e6:
        raise UserError(
            f"--duration={options['duration']} Mimg is less than one --batch={options['batch']}"
        )


def _check_levels(options: dict[str, Any]) -> None:
    """Fill in weight and sampling of times; check that there is one noise level where need be."""
    _choose_weighting(options)
    keep, d = options["dims_to_keep"], options["data_dim"]
    if keep == d and options["g_type"] != "proportional":
        return
    for name in ("precond", "t_sampling"):
        if options[name] not in ("ifs", "uniform", "arc", "likelihood"):
            remedy = f"--dims_to_keep={d}" if keep < d else "another --g_type than proportional"
            raise UserError(
                f"--{name}={options[name]} is for one noise level in all dimensions: use {remedy}"
            )


def _choose_weighting(options: dict[str, Any]) -> None:
    """Fill in --weighting, --importance and --t_sampling, and check that they go together."""
    recipe = RECIPES[options["precond"]]
    weighting = options["weighting"] = options.get("weighting") or recipe.weighting
    likelihood = weighting == "likelihood"
    if options.get("importance") is None:
        options["importance"] = likelihood and recipe.importance
    if options["importance"] and not likelihood:
        raise UserError(
            f"--importance draws times for --weighting=likelihood, not {weighting}; give both, or "
            "leave --importance out"
        )
    if likelihood and options["g_type"] == "proportional":
        raise UserError(
            "--weighting=likelihood is infinite at t = 0 of --g_type=proportional; use another "
            "--g_type or --weighting=edm"
        )
    fitting = "likelihood" if options["importance"] else "uniform"
    default = fitting if likelihood else recipe.t_sampling
    chosen = options["t_sampling"] = options.get("t_sampling") or default
    if likelihood and chosen != fitting:
        raise UserError(
            f"--t_sampling={chosen} does not go with --weighting=likelihood"
            f"{' --importance' if options['importance'] else ''}; leave it out"
        )
    if options.get("second_order") and options.get("compile"):
        raise UserError("--compile cannot differentiate twice: use --second_order without it")
    if options.get("second_order") and not options.get("transfer"):
        raise UserError(
            "--second_order fine-tunes a trained network: name it with --transfer=NETWORK"
        )


def _levels_covered(options: dict[str, Any], explicit: dict[str, Any]) -> dict[str, float]:
    """--gamma0 and --tmax at which a schedule spans the noise levels of --precond, if not given."""
    levels = RECIPES[options["precond"]].levels
    if levels is None:
        return {}
    gamma0, last = levels[0] ** 2, levels[1] ** 2
    gamma0 = explicit.get("gamma0", gamma0)
    tmax = max(math.log(last / gamma0), 1.0) / options["rho"]
    return {"gamma0": gamma0, "tmax": explicit.get("tmax", tmax)}
