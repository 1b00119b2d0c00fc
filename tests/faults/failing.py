"""A command of several processes of which some fail, each in a way of its own."""

from __future__ import annotations

import os

import click

from dnnlib import cli, results
from torch_utils import distributed

if "OTHER_CODE" in os.environ:
    results.code = lambda: os.environ["OTHER_CODE"]


@cli.command("python -m tests.faults.failing")
@click.option("--how", default="")
@click.option("--ranks", default="")
def main(how: str, ranks: str) -> None:
    """Meet the others, and fail on some ranks."""
    mine = str(distributed.rank()) in ranks.split(",")
    if how == "early" and mine:
        raise cli.UserError("--how=early: cannot be")
    with distributed.session("cpu"):
        if how == "late" and mine:
            raise cli.UserError("--how=late: cannot be")
        if how == "fault" and mine:
            raise KeyError("nothing here")
        distributed.barrier()
        print(f"rank {distributed.rank()} of {distributed.world_size()} done")
