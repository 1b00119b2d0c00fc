"""Options that commands on networks of toys and vectors share, and the data of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import asks
from flow.flow import Flow
from flow.simulation_run import check_content, check_network_dimensions
from flow.solvers import PAPER_SOLVERS, SOLVER_HELP, SOLVERS
from torch_utils import distributed
from training.data.options import VectorOptions
from training.data.tables import reading_of
from training.data.toys import ToySource, trained_on
from training.data.vectors import VectorSource
from training.toy_options import check_no_table, open_vectors

network_options = cli.options(
    click.option("--network", required=True, help="network file, or folder of runs (its latest)"),
    *cli.network_checks,
    click.option("--end_vars", type=float, help="variance of kept latents [read from the network]"),
    click.option("--data_name", help="toy data set [that of the network]"),
    asks(VectorOptions),
    click.option("--data_dim", type=int, help="[read from the network]"),
    click.option("--dims_to_keep", type=int, help="[read from the network]"),
)


def solver_options(tolerance: float) -> Callable:
    """Options that `toy_method` turns into a method; `tolerance` is the default of --tol."""
    return cli.options(
        click.option("--steps", "--n_iters", type=click.IntRange(min=1),
                     help="solver steps; without --solver, points of the paper's Euler grid"),
        click.option("--h", type=click.FloatRange(min=0, min_open=True),
                     help="time step of the paper's Euler grid"),
        click.option("--solver", type=click.Choice([*SOLVERS, *PAPER_SOLVERS]),
                     help=f"{SOLVER_HELP}  [rk4 at --tol, fewer evaluations for the same error "
                     "than the published default, euler; euler if --steps or --h is given]"),
        click.option("--tol", type=click.FloatRange(min=1e-10),
                     help="rms error allowed on pilots, whitened units; also of --solver=adaptive "
                     f"[{tolerance:g}]"),
    )  # fmt: skip


def vectors_of(options: dict[str, Any]) -> VectorOptions:
    """The options of --data among others."""
    names = ("data", "columns", "index_col", "header", "missing", "decimal")
    return VectorOptions(**{k: options[k] for k in names})


def network_source(flow: Flow, options: dict[str, Any]) -> ToySource | VectorSource:
    """The data that a network is simulated on, checked against what it was trained on.

    Raises:
        UserError: naming the option and both values.
    """
    s, data = flow.schedule, flow.info.get("data", {})
    check_network_dimensions(flow, options)
    if options["data"] is None and data.get("kind") == "vectors":
        raise UserError(
            f"the network was trained on vectors ({data['name']}): name their file with --data"
        )
    if options["data"] is not None:
        vectors = open_vectors(vectors_of(options), reading_of(flow.info))
        if vectors.dim != s.data_dim:
            raise UserError(
                f"--data={options['data']} has {vectors.dim} columns; the network has {s.data_dim}"
            )
        check_content(flow, vectors, "--data", options["data"])
        return vectors
    check_no_table(vectors_of(options))
    known = trained_on(flow.info)
    name = options["data_name"] or known
    if name is None:
        raise UserError("--data_name is missing: this network does not say what it was trained on")
    renamed = known != data.get("name")
    if known not in (None, name):
        raise UserError(
            f"--data_name={name} contradicts the network, which was trained on {known}"
            + (f", at its time called {data['name']}" if renamed else "")
        )
    if renamed:
        distributed.print0(f"Note: what this network's file calls {data['name']} is now {known}")
    embedding = {k: data[k] for k in ("augment_to", "embedding", "embedding_noise") if k in data}
    with cli.user_errors():
        source = ToySource(name, **embedding)
    if source.dim != s.data_dim:
        raise UserError(
            f"--data_name={name} has {source.dim} dimensions; the network has {s.data_dim}"
        )
    check_content(flow, source, "--data_name", name)
    return source


def data_of(source: ToySource | VectorSource, options: dict[str, Any]) -> torch.Tensor:
    """The samples to simulate, [total_samples, d]."""
    if isinstance(source, VectorSource) and len(source.rows) < options["total_samples"]:
        options["total_samples"] = len(source.rows)
    return source.samples(options["seed"], 0, options["total_samples"])
