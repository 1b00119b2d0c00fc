"""Toy sets and vectors through a network: its data, checked, and a simulation of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.cli import UserError, user_errors
from dnnlib.options import COUNT, SEED, RunOptions, option
from flow.flow import Flow
from flow.latents import latent_summary
from flow.method import pilots_of, toy_method
from flow.options import (
    LatentOptions,
    SaveOptions,
    ToyNetworkOptions,
    ToySolverOptions,
    tolerance_option,
)
from flow.results import Record, check_content, check_gen_source, check_network
from flow.simulation import KINDS, Simulations, kept_steps
from torch_utils import distributed
from training.data.tables import reading_of
from training.data.toys import ToySource, trained_on
from training.data.vectors import VectorSource

TOLERANCE = 1e-4  # of --tol


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


@dataclass(frozen=True, kw_only=True)
class SimulationOptions(LatentOptions, ToySolverOptions, SaveOptions, RunOptions):
    """What both commands share."""

    total_samples: int | None = option(
        None, type=click.IntRange(min=2),
        help="samples of each simulation [4000; discrete, whose cost is quadratic: 1000]",
    )  # fmt: skip
    save_freq: int | None = option(None, type=COUNT, help="save every so many steps [~36]")
    seed: int = option(0, type=SEED, help="of data and latents")
    animate: bool = option(False, help="also draw an animated GIF")
    tol: float | None = tolerance_option(TOLERANCE)


def run(
    flow: Flow,
    source: ToySource | VectorSource,
    options: SimulationOptions,
    infix: str,
    notes: list[str],
) -> None:
    """Inflate, round-trip and generate, within a session; write files and pictures."""
    cli.check_writable(options.save_dir, "--save_dir")
    check_gen_source(flow, options)
    assert options.total_samples is not None
    x = source.samples(options.seed, 0, options.total_samples)

    def pilots() -> torch.Tensor:
        return flow.to_whitened(x[: pilots_of(len(x))], 0.0, "unscaled")

    method, options = toy_method(flow, pilots, options, TOLERANCE)
    stem = f"{options.save_dir}/{source.description()['name']}_{flow.schedule.name}_{infix}"
    states = len(kept_steps(method, options.save_freq))
    size = states * len(x) * flow.schedule.data_dim * 8 * 8 / 2**20
    distributed.print0("\n".join(notes))
    distributed.print0(
        f"{len(x)} samples, {method.describe()}; {states} states saved, {size:.1f} MiB a file"
    )
    if options.dry_run:
        return
    made_from = {"network_sha256": flow.digest}
    if flow.digest is None:  # the samples themselves
        made_from = {"data_sha256": source.content_hash()}
    record = Record.begin(f"{stem}sim_params.json", flow, options, method, made_from)
    outcome = Simulations(
        flow, method, len(x), KINDS, options.seed, x=x, eps=options.eps,
        gen_source=options.gen_source, save_freq=options.save_freq,
    ).run()  # fmt: skip
    if not distributed.is_main():
        return
    results = {name: result.arrays for name, result in outcome.items()}
    for name in results:
        record.save(f"{stem}{name}_results.npz", results[name])
    melt = results["melt"]
    error = results["roundtrip"]["tilde_xs"][-1] - melt["tilde_xs"][0]
    report = {
        "evaluations_one_way": outcome["melt"].evaluations,
        "round_trip_rmse": float(np.sqrt(np.mean(error**2))),
        "round_trip_max": float(np.abs(error).max()),
        **latent_summary(flow, melt["xs_es"][-1], method.stop),
    }
    if options.plot:
        draw(flow, results, stem, options.animate, isinstance(source, VectorSource))
    record.finish(report, f"{stem}*", "Simulations")


def draw(
    flow: Flow, results: dict[str, dict[str, np.ndarray]], stem: str, animate: bool, own: bool
) -> None:
    """Panels, a strip of the inflation, the participation ratio, and an animation if wanted.

    Args:
        flow: the flow.
        results: arrays of the three simulations.
        stem: of the files' names.
        animate: whether to draw the animation.
        own: whether the data's axes have units of their own, as those of a table.
    """
    melt, back, gen = (results[k] for k in ("melt", "roundtrip", "gen"))
    colour = plot.hues(melt["tilde_xs"][0])
    title = Path(stem).name.split("_net_")[0].rstrip("_")
    data = {
        "data": (melt["tilde_xs"][0], colour),
        "round trip": (back["tilde_xs"][-1], colour),
        "generated": (gen["tilde_xs"][-1], plot.hues(gen["tilde_xs"][-1])),
    }
    latents = {"latent (inflated data)": (melt["xs"][-1], colour)}
    clouds = {"data": data["data"], **latents, **data}
    plot.panels(f"{stem}panels.png", clouds, title, data if own else ())
    plot.strip(f"{stem}inflation.png", melt["xs"], melt["t"], colour, f"{title}: x̃(t)", own)
    if animate:
        plot.animate(f"{stem}inflation.gif", melt["xs"], melt["t"], colour, title, own)
    times = np.linspace(0, flow.schedule.tmax, 200)
    ratios = {"schedule": np.array([flow.schedule.participation_ratio(t) for t in times])}
    measured = melt["xs_es"].var(1)  # [states, d]
    measured = measured.sum(1) ** 2 / (measured**2).sum(1)
    ratios["inflated data"] = np.interp(times, melt["t"], measured)
    labels = ("t", "participation ratio of x̃(t)")
    ylim = (0.0, 1.08 * max(r.max() for r in ratios.values()))
    plot.curve(f"{stem}participation_ratio.png", times, ratios, labels, title, ylim)
