"""Options that commands on toys and vectors share, and the data that they name."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import click
import torch

from dnnlib import cli
from dnnlib.cli import UserError
from flow.flow import Flow
from flow.simulation_run import check_content, check_network_dimensions
from flow.solvers import PAPER_SOLVERS, SOLVER_HELP, SOLVERS
from torch_utils import distributed
from training import published_options as published
from training.data.tables import TableOptions, differences, reading_of
from training.data.toys import TOY_SETS, ToySource, own_dimensions, trained_on
from training.data.vectors import VectorSource
from training.options import count, nonnegative, schedule_options

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
network_options = cli.options(
    click.option("--network", required=True, help="network file, or folder of runs (its latest)"),
    *cli.network_checks,
    published.latent_check,
    click.option("--data_name", help="toy data set [that of the network]"),
    click.option("--data", type=click.Path(), help="your own vectors, for a network of such"),
    table_options,
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
        vectors = open_vectors(options, reading_of(flow.info))
        if vectors.dim != s.data_dim:
            raise UserError(
                f"--data={options['data']} has {vectors.dim} columns; the network has {s.data_dim}"
            )
        check_content(flow, vectors, "--data", options["data"])
        return vectors
    check_no_table(options)
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
