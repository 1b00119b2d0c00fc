"""Residuals of a network along the flow's time, and their correlations between times."""

from __future__ import annotations

import dnnlib  # noqa: F401  (before torch)

# isort: split
from dnnlib import cli
from dnnlib.options import takes
from experiments.residuals.correlations import (
    CalcOptions,
    correlate_times,
    correlate_toy,
    open_times,
    open_toy,
)
from experiments.residuals.extract import check_room
from experiments.residuals.run import (
    ImageExtractOptions,
    ToyExtractOptions,
    extract_images,
    extract_toys,
)
from torch_utils import distributed

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


@cli.group()
def main() -> None:
    """Residuals of a network along the flow's time, and their correlations between times."""


@cli.subcommand(main, EXTRACT)
@takes(ImageExtractOptions)
def extract(options: ImageExtractOptions) -> None:
    """Write outputs and residuals of an image network, a file for each time.

    The times go from --vpode_disc_eps to tmax. The same images, drawn by the seed, come in the same
    order in every {data}_{schedule}_net_outputs_residuals_time{k}.npz. Files that are there are
    kept.
    """
    extract_images(options)


@cli.subcommand(main, EXTRACT_TOYS)
@takes(ToyExtractOptions)
def extracttoys(options: ToyExtractOptions) -> None:
    """Write outputs and residuals of a toy network at the times of the paper's Euler grid.

    Writes {data}_{schedule}_toy_net_outputs_residuals.npz, arrays [times, samples, dims]; of sets
    whose exact field is known (circles, gmm1d) also the network's errors, its distance from that
    field. After an interruption the same command goes on.
    """
    extract_toys(options)


@cli.subcommand(main, CALC)
@takes(CalcOptions)
def calc(options: CalcOptions) -> None:
    """Correlate what `extract` wrote: every time with the first.

    Writes {data}_{schedule}_autocorrelations_times0_{k}.npz, the means of their diagonals in a
    .json, and a picture of these. Files that are there are kept.
    """
    found = open_times(options)
    cli.check_writable(options.save_dir, "--save_dir")
    with distributed.session(options.device):
        if found is not None:
            size = 4 * found.dim**2 * len(found.keys)
            check_room(options, size, len(found.opened), len(found.opened))
            if not options.dry_run:
                correlate_times(found, options)


@cli.subcommand(main, CALC_TOYS)
@takes(CalcOptions)
def calctoys(options: CalcOptions) -> None:
    """Correlate what `extracttoys` wrote: every time with the first.

    Writes {data}_{schedule}_toy_autocorrelations.npz, arrays [times, dims, dims], the means of the
    diagonals in a .json, and a picture of these.
    """
    found = open_toy(options)
    cli.check_writable(options.save_dir, "--save_dir")
    with distributed.session(options.device):
        if found is not None:
            check_room(options, 4 * found.dim**2 * len(found.keys) * len(found.opened), 1, 1)
            if not options.dry_run:
                correlate_toy(found, options)


if __name__ == "__main__":
    main()
