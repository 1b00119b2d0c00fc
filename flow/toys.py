"""Toy sets and vectors as scripts carry them through a network: its data, checked."""

from __future__ import annotations

from dnnlib.cli import UserError, user_errors
from flow.flow import Flow
from flow.options import ToyNetworkOptions
from flow.results import check_content, check_network
from torch_utils import distributed
from training.data.tables import reading_of
from training.data.toys import ToySource, trained_on
from training.data.vectors import VectorSource


def network_source(flow: Flow, options: ToyNetworkOptions) -> ToySource | VectorSource:
    """The data that a network is simulated on, checked against what it was trained on.

    Raises:
        UserError: naming the option and both values.
    """
    s, data = flow.schedule, flow.info.get("data", {})
    check_network(flow, options)
    if options.data is None and data.get("kind") == "vectors":
        raise UserError(
            f"the network was trained on vectors ({data['name']}): name their file with --data"
        )
    if options.data is not None:
        vectors = options.open_vectors(reading_of(flow.info))
        if vectors.dim != s.data_dim:
            raise UserError(
                f"--data={options.data} has {vectors.dim} columns; the network has {s.data_dim}"
            )
        check_content(flow, vectors, "--data", options.data)
        return vectors
    options.check_no_table()
    known = trained_on(flow.info)
    name = options.data_name or known
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
    with user_errors():
        source = ToySource(name, **embedding)
    if source.dim != s.data_dim:
        raise UserError(
            f"--data_name={name} has {source.dim} dimensions; the network has {s.data_dim}"
        )
    check_content(flow, source, "--data_name", name)
    return source


def how_many(source: ToySource | VectorSource, wanted: int) -> int:
    """Samples to take: as many as wanted, of vectors at most all that there are."""
    return min(wanted, len(source.rows)) if isinstance(source, VectorSource) else wanted
