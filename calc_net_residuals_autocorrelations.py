"""Residuals of a network along the flow's time, and their correlations between times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dnnlib  # noqa: F401  (before torch)

# isort: split
import click
import numpy as np
from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from experiments.density.report import known_truth
from experiments.residuals import files
from experiments.residuals.autocorrelation import NOISES, NORMALIZATIONS
from experiments.residuals.correlations import correlate_times, correlate_toy, open_times, open_toy
from experiments.residuals.extract import (
    Extraction,
    check_room,
    extract_files,
    extract_here,
    refuse,
    write_record,
)
from flow import image_simulation as images
from flow.flow import ifs_times, open_flow, vp_ode_times
from flow.simulation_run import check_results
from flow.toy_options import network_options, network_source
from torch_utils import distributed
from torch_utils.work import Parts

EXTRACT = """
python calc_net_residuals_autocorrelations.py extract --save_dir=net_outputs-tmp --network=out \\
    --data_root=datasets/digits-8x8.zip --n_samples=1797 --n_time_pts=32
"""
CALC = """
python calc_net_residuals_autocorrelations.py calc --save_dir=net_acs-tmp --res_root=net_outputs-tmp
"""
EXTRACT_TOYS = """
python calc_net_residuals_autocorrelations.py extracttoys --save_dir=toy_net_outputs-tmp \\
    --network=out --h=0.05
"""
CALC_TOYS = """
python calc_net_residuals_autocorrelations.py calctoys --save_dir=toy_net_acs-tmp \\
    --res_root=toy_net_outputs-tmp/circles_PRP_toy_net_outputs_residuals.npz
"""
extract_options = cli.options(
    click.option("--seed", type=click.IntRange(min=0), default=0, help="of samples and noise"),
    click.option("--noise", type=click.Choice(NOISES), default="fresh",
                 help="other noise at every time, or each sample's own at all times"),
    cli.device_option,
    cli.dry_run_option,
)  # fmt: skip
calc_options = cli.options(
    click.option("--save_dir", type=click.Path(), required=True, help="where results go"),
    click.option("--res_root", type=click.Path(), required=True,
                 help="what was extracted: the folder; of a toy, the file"),
    click.option("--data_name", help="[that of the files]"),
    click.option("--n_time_pts", type=click.IntRange(min=1), help="the first so many [all]"),
    click.option("--data_dim", type=int, help="[read from the files]"),
    click.option("--dims_to_keep", type=int, help="[read from the files]"),
    click.option("--n_samples", type=click.IntRange(min=2), help="the first so many [all]"),
    click.option("--bs", type=click.IntRange(min=1), default=500, help="samples read at a time"),
    click.option("--normalization", type=click.Choice(NORMALIZATIONS), default="pearson",
                 help="what entry (i, j) is divided by: sd0(i) sd(j), for correlation "
                 "coefficients, or sd0(j) sd(j) as published; the diagonals are the same"),
    cli.device_option,
    cli.plot_option,
    cli.dry_run_option,
)  # fmt: skip


@cli.group()
def main() -> None:
    """Residuals of a network along the flow's time, and their correlations between times."""


@cli.subcommand(main, EXTRACT)
@images.network_options
@click.option("--data_root", type=click.Path(), help="zip or folder of images  [required]")
@images.batch_option
@click.option("--n_samples", type=click.IntRange(min=2), default=50000, help="images")
@click.option("--n_time_pts", type=click.IntRange(min=2), default=256, help="of the vp_ode grid")
@click.option(
    "--vpode_disc_eps", type=click.FloatRange(min=0, min_open=True), default=0.01, help="its start"
)
@images.labels_option
@extract_options
def extract(**options: Any) -> None:
    """Write outputs and residuals of an image network, a file for each time.

    The times go from --vpode_disc_eps to tmax. The same images, drawn by the seed, come in the same
    order in every {data}_{schedule}_net_outputs_residuals_time{k}.npz. Files that are there are
    kept.
    """
    flow, digest = images.open_network(options)
    images.check_class(flow, options["class_"])
    source = images.open_data(flow, options["data_root"])
    count, seed = options["n_samples"], options["seed"]
    if count > len(source):
        line = f"--n_samples={count}, but --data_root={options['data_root']} has {len(source)}"
        refuse(options, f"{line} images; ask for no more")
        count = len(source)
    cli.check_writable(options["save_dir"], "--save_dir")

    def samples(start: int, stop: int) -> Tensor:
        return source.samples(seed, start, stop, "drawn")

    def labels(start: int, stop: int) -> Tensor | None:
        return images.one_hot(flow, images.drawn_classes(source, seed, start, stop))

    first = options["vpode_disc_eps"]
    if first >= flow.schedule.tmax:
        raise UserError(f"--vpode_disc_eps={first:g} is not before tmax={flow.schedule.tmax:g}")
    times = vp_ode_times(options["n_time_pts"], flow.schedule.tmax, first=first)
    extraction = Extraction(flow, times, samples, count, seed, options["noise"], labels)
    where = options["save_dir"], options["data_name"], flow.schedule.name
    paths = [files.time_file(*where, k) for k in range(len(times))]
    origin = {"network_sha256": digest, "data_sha256": source.content_hash()}
    if flow.unlabelled or source.classes:
        origin["labels"] = "zero" if flow.unlabelled else "of the images"
    with distributed.session(options["device"]):
        run = extract_files(extraction, paths, origin, options)
        if run is not None and distributed.is_main():
            path = Path(str(paths[0]).replace("_time0.npz", ".json"))
            write_record(path, flow, options, {"run": run, "t": times})


@cli.subcommand(main, EXTRACT_TOYS)
@network_options
@click.option("--save_dir", type=click.Path(), required=True, help="where results go")
@click.option("--n_time_pts", type=click.IntRange(min=2), help="[those that reach tmax]")
@click.option("--h", type=click.FloatRange(min=0, min_open=True), default=1e-2, help="time step")
@click.option("--n_samples", type=click.IntRange(min=2), default=10000, help="samples")
@extract_options
def extracttoys(**options: Any) -> None:
    """Write outputs and residuals of a toy network at the times of the paper's Euler grid.

    Writes {data}_{schedule}_toy_net_outputs_residuals.npz, arrays [times, samples, dims]; of sets
    whose exact field is known (circles, gmm1d) also the network's errors, its distance from that
    field. After an interruption the same command goes on.
    """
    n, h = options["n_time_pts"], options["h"]
    flow = open_flow(options, n * h if n else None)
    source, tmax = network_source(flow, options), flow.schedule.tmax
    most = int(tmax / h + 1e-6)
    n = options["n_time_pts"] = n or max(2, most)
    if n * h > tmax * (1 + 1e-6):
        raise UserError(
            f"--n_time_pts={n} times --h={h:g} ends at t={n * h:g}, beyond the flow's "
            f"tmax={tmax:g}; use --n_time_pts={most}"
        )
    count, seed = options["n_samples"], options["seed"]
    with cli.user_errors(f"--n_samples={count}"):
        source.samples(seed, count - 1, count)
    cli.check_writable(options["save_dir"], "--save_dir")

    def samples(start: int, stop: int) -> Tensor:
        return source.samples(seed, start, stop)

    times = ifs_times(n, h)
    exact = known_truth(flow, source)
    extraction = Extraction(flow, times, samples, count, seed, options["noise"], exact=exact)
    with distributed.session(options["device"]):
        check_room(options, 4 * len(extraction.keys) * n * count * source.dim, 1, 1)
        data = source.description()
        run = {**extraction.run(), "data": data, "network_sha256": flow.digest}
        path = files.toy_file(options["save_dir"], data["name"], flow.schedule.name)
        check_results(path.with_suffix(".json"), {"network_sha256": flow.digest})
        identity = {"run": run, "times": times, "network": flow.model, "x": samples(0, count)}
        parts = Parts(path.with_name(f".{path.stem}.parts"), identity)
        arrays = None if options["dry_run"] else extract_here(extraction, parts=parts)
        if arrays is not None:
            files.save_with_run(path, arrays | {"t": np.array(times)}, run)
            write_record(path.with_suffix(".json"), flow, options, {"run": run})
            parts.clear()


@cli.subcommand(main, CALC)
@calc_options
def calc(**options: Any) -> None:
    """Correlate what `extract` wrote: every time with the first.

    Writes {data}_{schedule}_autocorrelations_times0_{k}.npz, the means of their diagonals in a
    .json, and a picture of these. Files that are there are kept.
    """
    found = open_times(options)
    cli.check_writable(options["save_dir"], "--save_dir")
    with distributed.session(options["device"]):
        if found is not None:
            size = 4 * found.dim**2 * len(found.keys)
            check_room(options, size, len(found.opened), len(found.opened))
            if not options["dry_run"]:
                correlate_times(found, options)


@cli.subcommand(main, CALC_TOYS)
@calc_options
def calctoys(**options: Any) -> None:
    """Correlate what `extracttoys` wrote: every time with the first.

    Writes {data}_{schedule}_toy_autocorrelations.npz, arrays [times, dims, dims], the means of the
    diagonals in a .json, and a picture of these.
    """
    found = open_toy(options)
    cli.check_writable(options["save_dir"], "--save_dir")
    with distributed.session(options["device"]):
        if found is not None:
            check_room(options, 4 * found.dim**2 * len(found.keys) * len(found.opened), 1, 1)
            if not options["dry_run"]:
                correlate_toy(found, options)


if __name__ == "__main__":
    main()
