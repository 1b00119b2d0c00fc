"""One command a table of the papers: train, measure, and put our figures beside the published.

A front of Snakemake, which runs the rules of experiments/reproduce/Snakefile: what is missing, in
order, some at a time, here or on a cluster.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import DeviceOptions, asks
from experiments.reproduce.papers import SCALES, SETTINGS, TABLES, Papers

SNAKEFILE = SETTINGS.with_name("Snakefile")
EXAMPLES = {
    "all": "python reproduce.py all --scale=smoke\n"
    "python reproduce.py all --scale=paper -- --executor slurm --jobs 32",
    "images": "python reproduce.py images --scale=paper --data=cifar10=datasets/cifar10-32x32.zip "
    "\\\n    --data=afhqv2=datasets/afhqv2-32x32.zip --procs=8 --dry-run",
}
HELP = {
    "toys": "Simulations of five sets: inflation, round trip, generation.",
    "coverage": "Share of latents within spheres, before and after the flow.",
    "hmc": "Posterior of mixture weights seen through the flow of the circles, and the exact one.",
    "correlations": "Correlations of residuals over time, toys and images.",
    "images": "Sample quality and round trips over kept dimensions and inflation gaps.",
    "likelihood": "Negative log likelihood of toys beside the truth, bits a dimension of images.",
    "all": "All tables.",
}
# How Snakemake shows a step's command: processes, if it takes several, and what is run.
SHOWN = re.compile(r"Shell command: .* --log=\S+ .*?(?:--procs=(\d+) )?-- (.*)")
table_options = cli.options(
    click.option("--scale", type=click.Choice(SCALES), default="smoke",
                 help="smoke: minutes on 2 cores, toys and 8x8 digits; small: about a day on a "
                 "GPU; paper: the published budget"),
    click.option("--outdir", type=click.Path(), help="where results go  [out/reproduce-{scale}]"),
    click.option("--procs", type=click.IntRange(min=1), default=1,
                 help="processes a command, by torchrun; on a cluster, also its GPUs"),
    click.option("--jobs", type=click.IntRange(min=1),
                 help="commands at a time  [smoke: cores; else 1]"),
    click.option("--tries", type=click.IntRange(min=0),
                 help="times that a training that has failed, or whose time in a queue is up, is "
                 "gone on with  [20 with --executor, else 0]"),
    click.option("--data", multiple=True, metavar="NAME=PATH",
                 help="cifar10=... or afhqv2=...: zip of dataset_tool.py, or the set as published; "
                 "not needed at smoke  [datasets/{name}-32x32.zip]"),
    click.option("--seed", type=click.IntRange(min=0), default=0,
                 help="added to the seeds of all commands"),
    click.option("--settings", type=click.Path(), default=str(SETTINGS), show_default=False,
                 help="settings of your own  [experiments/reproduce/papers.yaml]"),
    asks(DeviceOptions),
    cli.boolean("-n", "--dry-run", help="print the commands and stop"),
    click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- SNAKEMAKE_OPTIONS]"),
)  # fmt: skip


@cli.group()
def main() -> None:
    """Reproduce the tables of the papers, one command each.

    A table's commands are run unless their results are there already, so the same command goes on
    after an interruption. {outdir}/{table}/table.txt, .csv, .tex and .json put our figures beside
    the published ones; {outdir}/results.txt has all tables; {outdir}/steps has the logs. What
    follows -- goes to Snakemake. Settings and figures: experiments/reproduce/papers.yaml.
    """


def image_files(papers: Papers, names: tuple[str, ...], given: tuple[str, ...]) -> dict[str, str]:
    """The absolute path of the image sets that tables need, by name.

    Raises:
        UserError: if one is unknown, or not there.
    """
    sets = {k: v for k, v in papers.all["image_sets"].items() if "usual" in v}
    paths = {name: path for name, _, path in (v.partition("=") for v in given)}
    for name, path in paths.items():
        if name not in sets or not path:
            known = ", ".join(f"{k}=PATH" for k in sets)
            raise UserError(f"--data={name}{'=' + path if path else ''}: give {known}")
    for name in sorted(papers.image_names(names) & set(sets)):
        usual, source = sets[name]["usual"], sets[name]["source"]
        paths.setdefault(name, usual if Path(usual).exists() else source)
    return {name: str(Path(path).absolute()) for name, path in paths.items()}


def reproduce(names: tuple[str, ...], options: dict[str, Any]) -> int:
    """Let Snakemake make some tables. Returns its exit code.

    Raises:
        UserError: if Snakemake, settings or image data are missing.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise UserError("Snakemake is not installed: pip install 'inflationary-flows[reproduce]'")
    scale, dry = options["scale"], options["dry_run"]
    outdir = Path(options["outdir"] or f"out/reproduce-{scale}")
    if not dry:
        cli.check_writable(outdir, "--outdir")
    with cli.user_errors("--settings"):
        papers = Papers(scale, path=str(Path(options["settings"]).absolute()))
        data = image_files(papers, names, options["data"])
    for name, path in data.items():
        if not (dry or Path(path).exists()):
            about = papers.all["image_sets"][name]
            raise UserError(
                f"--scale={scale} needs {path}, which is not there: give --data={name}=PATH, or "
                f"put the set at {about['usual']} or {about['source']} (README; CIFAR-10 is "
                "fetched by python -m benchmarks.real_data cifar10)"
            )
    command = _snakemake(papers, data, options)
    targets = [*options["more"], "--", *(f"{name}/done" for name in names)]
    if dry:
        return _show(command, outdir, targets)
    for name in names:  # tables are made anew, of what is there
        (outdir / name / "done").unlink(missing_ok=True)
    code = _call([*command, str(outdir), "--quiet", "reason", *targets])
    left = [name for name in names if not (outdir / name / "done").exists()]
    if code and left and (outdir / "steps").exists():
        from experiments.reproduce.tables import write_table

        for name in left:
            write_table(papers, name, outdir)
    click.echo(f"Results: {outdir}/results.txt")
    return code


def _snakemake(papers: Papers, data: dict[str, str], options: dict[str, Any]) -> list[str]:
    """The command of Snakemake, up to its folder and targets."""
    smoke, cores, procs = papers.scale == "smoke", os.cpu_count() or 1, options["procs"]
    jobs = options["jobs"] or (cores if smoke else 1)
    queue = "--executor" in options["more"]
    tries = options["tries"] if options["tries"] is not None else 20 * queue
    settings = {
        "scale": papers.scale, "seed": options["seed"], "data": data, "settings": papers.path,
        "procs": procs, "gpus": 0 if smoke else procs, "device": options["device"],
        "threads": max(1, cores // jobs), "tries": tries, "queue": queue,
    }  # fmt: skip
    # Locks are the steps' own (experiments/reproduce/step.py): Snakemake's outlive a kill.
    return [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--nolock",
            "--cores", str(max(cores, jobs)), "--keep-going", "--rerun-incomplete",
            "--rerun-triggers", "mtime", "params", "input", "--nocolor",
            "--config", *(f"{k}={json.dumps(v)}" for k, v in settings.items()),
            "--directory"]  # fmt: skip


def _show(command: list[str], outdir: Path, targets: list[str]) -> int:
    """Print the commands that are left to run; writes nothing. Returns Snakemake's exit code."""
    with tempfile.TemporaryDirectory() as empty:
        where = str(outdir) if outdir.exists() else empty
        found = subprocess.run(
            [*command, where, "--dry-run", "--printshellcmds", *targets],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"},
        )  # fmt: skip
    click.echo(f"# in {outdir}:")
    for procs, line in SHOWN.findall(found.stdout):
        several = int(procs or 1) > 1
        start = f"torchrun --standalone --nproc_per_node={procs}" if several else "python"
        click.echo(f"{start} {line}")
    click.echo(found.stderr if found.returncode else "", err=True, nl=False)
    return found.returncode


def _call(command: list[str]) -> int:
    """Run Snakemake; SIGTERM ends it and its commands as Ctrl-C does. Returns its exit code."""
    process = subprocess.Popen(command, process_group=0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.killpg(process.pid, signal.SIGINT))
    return process.wait()


def _add(name: str) -> None:
    example = EXAMPLES.get(name, f"python reproduce.py {name} --scale=smoke")

    @cli.subcommand(main, example, name=name, help=HELP[name])
    @table_options
    def table(**options: Any) -> None:
        raise SystemExit(reproduce(TABLES if name == "all" else (name,), options))


for _name in HELP:
    _add(_name)

if __name__ == "__main__":
    main()
