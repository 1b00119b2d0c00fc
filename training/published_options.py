"""Options of published commands that say what is known anyway, or by another name: one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dnnlib import cli
from dnnlib.cli import UserError
from torch_utils import distributed
from training.resume import OPTIONS_FILE

# Checked where network or data are opened, see `simulation_run.check_network_dimensions`.
latent_check = click.option(
    "--end_vars", type=float, help="variance of kept latents [read from the network]"
)
image_checks = cli.options(
    click.option("--img_size", type=int, help="side of the images, if you want it checked"),
    click.option("--img_ch", type=int, help="their channels, if you want them checked"),
)
training_options = cli.options(
    click.option("--desc", metavar="TEXT", help="appended to the run folder's name"),
    cli.boolean("--nosubdir", help="make --outdir itself the run folder"),
    cli.without_effect("--batch_pca", "the eigenbasis is computed from all samples"),
)


def t_sampling(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """--t_sampling by our name: times are normal where the logarithm of the noise level is."""
    if value != "normal":
        return value
    if distributed.is_main():
        click.echo("Note: --t_sampling=normal is lognormal here, with EDM's mean and sd", err=True)
    return "lognormal"


def check_folder(options: dict[str, Any]) -> None:
    """Check that a run folder can be made as --desc and --nosubdir say."""
    desc, outdir = options["desc"], Path(options["outdir"])
    if desc and Path(desc).name != desc:
        raise UserError(f"--desc={desc} becomes part of a folder's name: give a plain text")
    if options["nosubdir"] and (outdir / OPTIONS_FILE).exists():
        raise UserError(
            f"--nosubdir: {outdir} holds another run; go on with that by --resume={outdir}, or "
            "name another --outdir"
        )
    if options["nosubdir"] and desc:
        raise UserError(f"--desc={desc} names a folder in --outdir, which --nosubdir makes none of")
