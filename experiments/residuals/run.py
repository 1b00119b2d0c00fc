"""Extracting residuals of a network of images, or of one of toys and vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import POSITIVE, option
from experiments.density.report import known_truth
from experiments.residuals import files
from experiments.residuals.extract import (
    Extraction,
    ExtractOptions,
    check_room,
    extract_files,
    extract_here,
    refuse,
    write_record,
)
from flow import images
from flow.flow import ifs_times, open_flow, vp_ode_times
from flow.options import BlockOptions, ImageDataOptions, ToyNetworkOptions, ZeroLabelOptions
from flow.results import check_results
from flow.toys import network_source
from torch_utils import distributed
from torch_utils.work import Parts


@dataclass(frozen=True, kw_only=True)
class ImageExtractOptions(ExtractOptions, ZeroLabelOptions, BlockOptions, ImageDataOptions):
    """Options of extract."""

    n_samples: int = option(50000, type=click.IntRange(min=2), help="images")
    n_time_pts: int = option(256, type=click.IntRange(min=2), help="of the vp_ode grid")
    vpode_disc_eps: float = option(0.01, type=POSITIVE, help="its start")


@dataclass(frozen=True, kw_only=True)
class ToyExtractOptions(ExtractOptions, ToyNetworkOptions):
    """Options of extracttoys."""

    n_time_pts: int | None = option(
        None, type=click.IntRange(min=2), help="[those that reach tmax]"
    )
    h: float = option(1e-2, type=POSITIVE, help="time step")
    n_samples: int = option(10000, type=click.IntRange(min=2), help="samples")


def extract_images(options: ImageExtractOptions) -> None:
    """Write a file for each time, in a session of its own."""
    flow, name = images.open_network(options)
    options = replace(options, data_name=name, bs=flow.block)
    images.check_class(flow, options.class_)
    source = images.open_data(flow, options.data_root)
    if options.n_samples > len(source):
        line = f"--n_samples={options.n_samples}, but --data_root={options.data_root} has"
        refuse(options, f"{line} {len(source)} images; ask for no more")
    cli.check_writable(options.save_dir, "--save_dir")
    drawn = images.Drawn(flow, source, options.seed, min(options.n_samples, len(source)))
    first = options.vpode_disc_eps
    if first >= flow.schedule.tmax:
        raise UserError(f"--vpode_disc_eps={first:g} is not before tmax={flow.schedule.tmax:g}")
    times = vp_ode_times(options.n_time_pts, flow.schedule.tmax, first=first)
    extraction = Extraction(
        flow, times, drawn.data, drawn.total, drawn.seed, options.noise, drawn.labels
    )
    where = options.save_dir, name, flow.schedule.name
    paths = [files.time_file(*where, k) for k in range(len(times))]
    origin = {"network_sha256": flow.digest, "data_sha256": source.content_hash()}
    if flow.unlabelled or source.classes:
        origin["labels"] = "zero" if flow.unlabelled else "of the images"
    with distributed.session(options.device):
        run = extract_files(extraction, paths, origin, options)
        if run is not None and distributed.is_main():
            path = Path(str(paths[0]).replace("_time0.npz", ".json"))
            write_record(path, flow, options, {"run": run, "t": times})


def extract_toys(options: ToyExtractOptions) -> None:
    """Write all times to one file, in a session of its own."""
    n, h = options.n_time_pts, options.h
    flow = open_flow(options, n * h if n else None)
    source, tmax = network_source(flow, options), flow.schedule.tmax
    most = int(tmax / h + 1e-6)
    n = n or max(2, most)
    options = replace(options, n_time_pts=n)
    if n * h > tmax * (1 + 1e-6):
        raise UserError(
            f"--n_time_pts={n} times --h={h:g} ends at t={n * h:g}, beyond the flow's "
            f"tmax={tmax:g}; use --n_time_pts={most}"
        )
    count, seed = options.n_samples, options.seed
    with cli.user_errors(f"--n_samples={count}"):
        source.samples(seed, count - 1, count)
    cli.check_writable(options.save_dir, "--save_dir")

    def samples(rows: range) -> Tensor:
        return source.samples(seed, rows.start, rows.stop)

    times = ifs_times(n, h)
    exact = known_truth(flow, source)
    extraction = Extraction(flow, times, samples, count, seed, options.noise, exact=exact)
    with distributed.session(options.device):
        check_room(options, 4 * len(extraction.keys) * n * count * source.dim, 1, 1)
        data = source.description()
        run = {**extraction.run(), "data": data, "network_sha256": flow.digest}
        path = files.toy_file(options.save_dir, data["name"], flow.schedule.name)
        check_results(path.with_suffix(".json"), {"network_sha256": flow.digest})
        identity = {"run": run, "times": times, "network": flow.model, "x": samples(range(count))}
        parts = Parts(path.with_name(f".{path.stem}.parts"), identity)
        arrays = None if options.dry_run else extract_here(extraction, parts=parts)
        if arrays is not None:
            files.save_with_run(path, arrays | {"t": np.array(times)}, run)
            write_record(path.with_suffix(".json"), flow, options, {"run": run})
            parts.clear()
