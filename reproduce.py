"""One command a table of the papers: train, measure, and put our figures beside the published."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dnnlib import cli
from dnnlib.cli import UserError
from experiments.reproduce import correlations as reproduction_correlations
from experiments.reproduce import images as reproduction_images
from experiments.reproduce import likelihood as reproduction_likelihood
from experiments.reproduce import plans as reproduction_plans
from experiments.reproduce import presets
from experiments.reproduce.plans import Setting
from experiments.reproduce.runner import Runner, Step
from experiments.reproduce.table import (
    TABLES,
    Table,
    all_steps,
    commit,
    text,
    write_results,
    write_table,
)

PLANS: dict[str, Callable[[Setting], Table]] = {
    "toys": reproduction_plans.toys,
    "coverage": reproduction_plans.coverage,
    "hmc": reproduction_plans.hmc,
    "correlations": reproduction_correlations.correlations,
    "images": reproduction_images.images,
    "likelihood": reproduction_likelihood.likelihood,
}
EXAMPLES = {
    "all": "python reproduce.py all --scale=smoke",
    "images": "python reproduce.py images --scale=paper --data=cifar10=datasets/cifar10-32x32.zip "
    "\\\n    --data=afhqv2=datasets/afhqv2-32x32.zip --procs=8 --dry-run",
}


def image_files(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict:
    """NAME=PATH options as a dict."""
    found = {name: path for name, _, path in (v.partition("=") for v in value)}
    for name, path in found.items():
        if name not in presets.IMAGE_SETS or not path:
            known = ", ".join(f"{k}=PATH" for k in presets.IMAGE_SETS)
            raise UserError(f"--data={name}{'=' + path if path else ''}: give {known}")
    return found


table_options = cli.options(
    click.option("--scale", type=click.Choice(presets.SCALES), default="smoke",
                 help="smoke: minutes on 2 cores, toys and 8x8 digits; small: about a day on a "
                 "GPU; paper: the published budget"),
    click.option("--outdir", type=click.Path(), help="where results go  [out/reproduce-{scale}]"),
    click.option("--procs", type=click.IntRange(min=1),
                 help="processes a command, by torchrun  [1, without torchrun]"),
    click.option("--jobs", type=click.IntRange(min=1),
                 help="commands at a time  [smoke: cores; else 1]"),
    click.option("--data", multiple=True, metavar="NAME=PATH", callback=image_files,
                 help="cifar10=... or afhqv2=...: zip of dataset_tool.py, or the set as published; "
                 "not needed at smoke  [datasets/{name}-32x32.zip]"),
    click.option("--seed", type=click.IntRange(min=0), default=0,
                 help="added to the seeds of all commands"),
    cli.device_option,
    cli.boolean("-n", "--dry-run", help="print the commands and stop"),
)  # fmt: skip


@cli.group()
def main() -> None:
    """Reproduce the tables of the papers, one command each.

    A table's commands are run unless their results are there already, so the same command goes on
    after an interruption. {outdir}/{table}/table.txt and table.json put our figures beside the
    published ones; {outdir}/results.txt has all tables. Settings: experiments/presets.py.
    """


def reproduce(names: tuple[str, ...], options: dict[str, Any]) -> None:
    """Run the plans of some tables, and write their tables.

    Raises:
        UserError: if image data are missing.
    """
    scale = options["scale"]
    outdir = Path(options["outdir"] or f"out/reproduce-{scale}")
    if not options["dry_run"]:
        cli.check_writable(outdir, "--outdir")
    setting = Setting(scale, outdir, options["seed"], options["data"])
    tables = [PLANS[name](setting) for name in names]
    jobs = options["jobs"] or ((os.cpu_count() or 1) if scale == "smoke" else 1)
    runner = Runner(setting.outdir, options["device"], options["procs"], jobs, say=click.echo)
    if options["dry_run"]:
        click.echo("\n".join(runner.line(step) for step in all_steps(tables)))
        return
    check_inputs(all_steps(tables), scale)
    raise SystemExit(_run(runner, tables, scale))


def _run(runner: Runner, tables: list[Table], scale: str) -> int:
    """Run; each table is written as soon as its commands have ended. Returns the exit code."""
    from torch_utils.distributed import machine  # at run time: plans are printed without torch

    facts = {"scale": scale, "machine": machine(), "commit": commit()}
    left = list(tables)

    def settled() -> None:
        for table in [t for t in left if all(s in runner.outcomes for s in all_steps([t]))]:
            left.remove(table)
            click.echo("\n" + text(write_table(table, runner, facts)))
            write_results(runner.outdir)

    runner.run(all_steps(tables), settled)
    failed = [s for s, o in runner.outcomes.items() if o.state == "failed"]
    for step in failed:
        click.echo(f"FAILED: {runner.line(step)}\n  log: {runner.log(step)}", err=True)
    click.echo(f"Results: {runner.outdir}/results.txt")
    return 1 if failed else 0


def check_inputs(steps: list[Step], scale: str) -> None:
    """Check that image sets are there before hours of other work.

    Raises:
        UserError: naming the set and where it comes from.
    """
    for path in dict.fromkeys(p for s in steps for p in s.inputs):
        if not Path(path).exists():
            name = next((n for n in presets.IMAGE_SETS if n in path), "NAME")
            usual, source = presets.IMAGE_SETS.get(name, ("datasets", "downloads"))[:2]
            raise UserError(
                f"--scale={scale} needs {path}, which is not there: give --data={name}=PATH, or "
                f"put the set at {usual} or {source} (README; CIFAR-10 is fetched by python -m "
                "benchmarks.real_data cifar10)"
            )


def _add(name: str, help_text: str) -> None:
    names = TABLES if name == "all" else (name,)
    example = EXAMPLES.get(name, f"python reproduce.py {name} --scale=smoke")

    @cli.subcommand(main, example, name=name, help=help_text)
    @table_options
    def table(**options: Any) -> None:
        reproduce(names, options)


for _name, _plan in PLANS.items():
    _add(_name, _plan.__doc__ or "")
_add("all", "All tables, one after the other.")

if __name__ == "__main__":
    main()
