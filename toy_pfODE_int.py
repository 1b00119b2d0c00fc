"""Inflate, round-trip and generate toy data by the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import dnnlib  # noqa: F401  (before torch)

# isort: split
import click
import torch

from dnnlib import cli
from dnnlib.options import click_options, takes
from flow.exact import MixtureField
from flow.flow import Flow, open_flow
from flow.integration import BLOCK
from flow.method import fallback_tmax
from flow.options import ToyNetworkOptions
from flow.toy_options import data_options, embedded_dimensions, open_source
from flow.toys import SimulationOptions, how_many, network_source, run
from torch_utils import distributed
from torch_utils.peers import agree_on_file
from training.basis import eigenbasis
from training.launch import SCHEDULE_OPTIONS
from training.options import check_dimensions
from training.schedule import Schedule
from training.training_loop import describe

NET_EXAMPLE = """
python toy_pfODE_int.py net --save_dir=out/flow --network=out --data_name=circles
"""
DISCRETE_EXAMPLE = """
python toy_pfODE_int.py discrete --save_dir=out --data_name=circles --data_dim=2 --dims_to_keep=1
"""


@dataclass(frozen=True, kw_only=True)
class NetOptions(SimulationOptions, ToyNetworkOptions):
    """Options of net."""


@cli.group()
def main() -> None:
    """Inflate, round-trip and generate toy data by the probability-flow ODE."""


@cli.subcommand(main, NET_EXAMPLE)
@takes(NetOptions)
def net(options: NetOptions) -> None:
    """Simulate with a trained network."""
    flow = open_flow(options, fallback_tmax(options))
    source = network_source(flow, options)
    options = replace(options, total_samples=how_many(source, options.total_samples or 4000))
    with distributed.session(options.device):
        run(flow, source, options, "net_", describe(flow.model, 0))


@cli.subcommand(main, DISCRETE_EXAMPLE)
@data_options
@click.option(
    "--memory_mib", type=click.IntRange(min=1), default=256, help="bound on kernel tables"
)
@click_options(SimulationOptions)
def discrete(**told: Any) -> None:
    """Simulate with the exact score of the samples themselves (a check, not a model)."""
    options = SimulationOptions(
        **{f.name: told[f.name] for f in fields(SimulationOptions) if f.name in told}
    )
    embedded_dimensions(told)
    source = open_source(told)
    which = "data_name" if told["data"] is None else "data"
    agree_on_file(f"--{which}", told[which], source.content_hash())
    check_dimensions(told, source)
    told["tmax"] = fallback_tmax(options) or told["tmax"]
    total = how_many(source, options.total_samples or 1000)
    options = replace(options, total_samples=total)
    points = source.samples(options.seed, 0, total)
    with cli.user_errors():
        device = distributed.pick_device(options.device)
    with distributed.session(options.device):
        with cli.user_errors():
            basis = eigenbasis(shared(points), source.dim, source.scale)
            schedule = Schedule(basis.xi, **{k: told[k] for k in SCHEDULE_OPTIONS})
        model = MixtureField(schedule, basis, points, memory_bound=told["memory_mib"] * 2**20)
        bounded = f"Kernel tables of at most {told['memory_mib']} MiB at a time"
        notes = [*describe(model, basis.floored), bounded]
        run(Flow(model.to(device)), source, options, "", notes)


def shared(points: torch.Tensor) -> Iterator[torch.Tensor]:
    """This rank's share of points that every rank holds."""
    for block in distributed.share(len(points), BLOCK):
        yield points[block.start : block.stop]


if __name__ == "__main__":
    main()
