"""A likelihood run: its options, and the evaluation of vectors and of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import torch

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import COUNT, SEED, RunOptions, option
from experiments.density import report
from experiments.density.density import (
    FAR,
    Settings,
    evaluate,
    far_from_the_network,
    noise_at_start,
)
from flow.dequantization import IMAGE_HALF_WIDTH, KINDS, Dequantization
from flow.elbo import check_rates
from flow.flow import Flow
from flow.images import Drawn
from flow.likelihood import EXACT_UP_TO, Trace
from flow.method import IMAGE_PILOTS, PILOTS, Method, pilots_of, toy_method
from flow.options import (
    BlockOptions,
    ImageDataOptions,
    ImageSolverOptions,
    SaveOptions,
    ToyNetworkOptions,
    ToySolverOptions,
    ZeroLabelOptions,
    tolerance_option,
)
from flow.results import Record
from torch_utils import distributed
from training.data.toys import ToySource
from training.data.vectors import VectorSource

PAPER_POINTS = 256  # of the paper's Heun grid
TOLERANCE = 1e-4  # of --tol for toys


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions(SaveOptions, RunOptions):
    """What both commands share."""

    trace: Trace | None = option(
        None, type=click.Choice(["exact", "hutchinson"]),
        help=f"of the field's Jacobian  [exact up to {EXACT_UP_TO} dimensions]",
    )  # fmt: skip
    probes: int = option(
        1, type=COUNT,
        help="random vectors of --trace=hutchinson; with 2 or more each value has a standard error",
    )  # fmt: skip
    sde: bool = option(False, help="also the variational bound (ELBO) of the stochastic process")
    sde_times: int = option(
        32, type=click.IntRange(min=2),
        help="times of its integral, one network evaluation each",
    )  # fmt: skip
    noise: bool = option(
        True, help="give data without levels the noise N(0, gamma0) that the density has at t = 0"
    )


@dataclass(frozen=True, kw_only=True)
class ToyOptions(LikelihoodOptions, ToySolverOptions, ToyNetworkOptions):
    """Options of toys."""

    total_samples: int = option(10000, type=click.IntRange(min=2), help="samples")
    seed: int = option(1, type=SEED, help="of data, noise and probes")
    nats: bool = option(True, "--nats/--bits", help="unit of the line printed last")
    tol: float | None = tolerance_option(TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class NetOptions(
    LikelihoodOptions, ImageSolverOptions, ZeroLabelOptions, BlockOptions, ImageDataOptions
):
    """Options of net."""

    total_samples: int = option(10000, type=COUNT, help="images, drawn without replacement")
    seed: int = option(42, type=SEED, help="of the choice of images, dequantization and probes")
    dequantization: str = option(
        "uniform", type=click.Choice(KINDS),
        help="how the 256 levels become densities: uniform noise; tn: the noise of t = 0 "
        "truncated to a level, for networks of small gamma0; none: density of noisy images",
    )  # fmt: skip
    num_importance: int = option(
        1, type=COUNT,
        help="dequantization draws an image, K, whose mean tightens the bound",
    )  # fmt: skip
    nats: bool = option(False, "--nats/--bits", help="unit of the line printed last")


def check(flow: Flow, options: LikelihoodOptions) -> None:
    """What both commands check before any work.

    Raises:
        UserError: naming the option.
    """
    cli.check_writable(options.save_dir, "--save_dir")
    if options.sde:
        with cli.user_errors("--sde"):
            check_rates(flow.schedule)
    d = flow.schedule.data_dim
    if options.trace == "exact" and d > 256:
        distributed.print0(
            f"Note: --trace=exact takes {d} reverse passes for each network evaluation"
        )


def settings_of(
    options: ToyOptions | NetOptions, method: Method, q: Dequantization | None, draws: int = 1
) -> Settings:
    """What the options ask for."""
    return Settings(
        trace=options.trace, probes=options.probes, seed=options.seed, dequantize=q, draws=draws,
        noise=options.noise, times=options.sde_times if options.sde else 0, how=method.how(),
    )  # fmt: skip


def run_toys(flow: Flow, source: ToySource | VectorSource, options: ToyOptions) -> None:
    """Evaluate vectors, within a session; write files and pictures."""
    x = source.samples(options.seed, 0, options.total_samples).to(flow.dtype)
    check_distance(flow, x, options)

    def pilots() -> torch.Tensor:
        return flow.to_whitened(x[: pilots_of(len(x))], 0.0, "unscaled")

    method, options = toy_method(flow, pilots, options, TOLERANCE)
    settings = settings_of(options, method, None)
    distributed.print0(f"{len(x)} samples, {method.describe()}")
    if options.dry_run:
        return
    stem = Path(options.save_dir, f"{source.description()['name']}_{flow.schedule.name}_nll")
    record = Record.begin(f"{stem}.json", flow, options, method)
    found = evaluate(flow, lambda r: x[r.start : r.stop], len(x), settings)
    truth = report.known_truth(flow, source) if options.noise else None
    grid = None
    if options.plot and flow.schedule.data_dim <= 2:
        noisy = x.to(flow.device) + noise_at_start(flow, options.seed, 0, len(x))
        grid = report.on_grid(flow, noisy.cpu().numpy(), settings, truth)
    if found is None:
        return
    told = {"integration_error": report.integration_error(flow, x[:PILOTS], method, settings)}
    if truth is not None:
        told |= report.against_truth(found, truth)
    arrays = {"points": found.points}
    report.finish(record, flow, found, told, arrays, options.nats, options.plot, grid)


def check_distance(flow: Flow, x: torch.Tensor, options: ToyOptions) -> None:
    """Check that data lies where the network has learned a density.

    Raises:
        UserError: if most of it does not.
    """
    far, typical = far_from_the_network(flow, x)
    name = f"--data={options.data}" if options.data else f"--data_name={options.data_name}"
    if typical > FAR:
        raise UserError(
            f"{name}: the typical sample lies {typical:.3g} sds from the network's data, beyond "
            f"the {FAR:g} within which its density means something; are these its units?"
        )
    if far:
        distributed.print0(
            f"Warning: {far} of {len(x)} samples lie more than {FAR:g} sds from the network's "
            "data, where its density is a guess"
        )


def run_images(images: Drawn, q: Dequantization | None, options: NetOptions) -> None:
    """Evaluate images, within a session; write files and pictures."""
    flow, method = images.flow, images.method(options, PAPER_POINTS)
    settings = settings_of(options, method, q, options.num_importance)
    distributed.print0(
        f"{images.total} images, {method.describe()}; dequantization {options.dequantization}, "
        f"levels k/127.5 - 1 of half-width 1/255; network batches of {flow.block}"
    )
    if options.dry_run:
        return
    stem = Path(options.save_dir, f"{options.data_name}_{flow.schedule.name}_nll")
    record = Record.begin(f"{stem}.json", flow, options, method)
    asked = {k: v for k, v in vars(settings).items() if k != "dequantize"}
    parts = images.parts(Path(f"{stem}_parts"), **asked, levels=options.dequantization)
    found = evaluate(flow, images.data, images.total, settings, images.labels, parts)
    if found is None:
        return
    some = range(pilots_of(images.total, IMAGE_PILOTS))
    here = flow.given(images.labels(some))
    told = {
        "integration_error": report.integration_error(here, images.data(some), method, settings),
        "half_width": IMAGE_HALF_WIDTH,
        "data_sha256": images.source.content_hash(),
    }
    arrays = {"indices": images.indices()}
    report.finish(record, flow, found, told, arrays, options.nats, options.plot)
    parts.clear()
