"""Inflate, round-trip and generate toy data by the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import dnnlib  # noqa: F401  (before torch)

# isort: split
import torch

from dnnlib import cli
from dnnlib.options import COUNT, option, takes
from flow.exact import MixtureField
from flow.flow import Flow, open_flow
from flow.integration import BLOCK
from flow.method import fallback_tmax
from flow.options import ToyNetworkOptions
from flow.toys import SimulationOptions, how_many, network_source, run
from torch_utils import distributed
from torch_utils.peers import agree_on_file
from training.basis import eigenbasis
from training.schedule import Schedule
from training.toy_options import ToyOptions

NET_EXAMPLE = """
python toy_pfODE_int.py net --save_dir=out/flow --network=out --data_name=circles
"""
DISCRETE_EXAMPLE = """
python toy_pfODE_int.py discrete --save_dir=out --data_name=circles --data_dim=2 --dims_to_keep=1
"""


@dataclass(frozen=True, kw_only=True)
class NetOptions(SimulationOptions, ToyNetworkOptions):
    """Options of net."""


@dataclass(frozen=True, kw_only=True)
class DiscreteOptions(SimulationOptions, ToyOptions):
    """Options of discrete."""

    memory_mib: int = option(256, type=COUNT, help="bound on kernel tables")


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
        run(flow, source, options, "net_", flow.schedule.summary())


@cli.subcommand(main, DISCRETE_EXAMPLE)
@takes(DiscreteOptions)
def discrete(options: DiscreteOptions) -> None:
    """Simulate with the exact score of the samples themselves (a check, not a model)."""
    options = options.embedded()
    source = options.open()
    which, name = options.named
    agree_on_file(f"--{which}", name, source.content_hash())
    total = how_many(source, options.total_samples or 1000)
    tmax = fallback_tmax(options) or options.tmax
    options = replace(options.with_dimensions(source), total_samples=total, tmax=tmax)
    points = source.samples(options.seed, 0, total)
    with cli.user_errors():
        device = distributed.pick_device(options.device)
    with distributed.session(options.device):
        with cli.user_errors():
            basis = eigenbasis(shared(points), source.dim, source.scale)
            schedule = Schedule(basis.xi, **options.schedule())
        bound = options.memory_mib * 2**20
        model = MixtureField(schedule, basis, points, memory_bound=bound)
        bounded = f"Kernel tables of at most {options.memory_mib} MiB at a time"
        notes = [*schedule.summary(basis.floored), bounded]
        run(Flow(model.to(device)), source, options, "", notes)


def shared(points: torch.Tensor) -> Iterator[torch.Tensor]:
    """This rank's share of points that every rank holds."""
    for block in distributed.share(len(points), BLOCK):
        yield points[block.start : block.stop]


if __name__ == "__main__":
    main()
