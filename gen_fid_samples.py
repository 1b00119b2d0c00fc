"""Generate images from seeds, one image a seed: what the FID is computed of."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dnnlib import cli, plot
from dnnlib.options import PATH, RunOptions, option, takes
from dnnlib.results import enclosed
from dnnlib.util import write_json
from flow.flow import Flow
from flow.images import check_class, method_for, open_network, set_arithmetic, shape_of
from flow.inflation_file import read_melt
from flow.latents import Lender
from flow.numbered_images import (
    OPTIONS_FILE,
    Seeds,
    claim,
    file_of,
    make_images,
    missing_seeds,
    read_png,
)
from flow.options import FieldOptions, ImageLatentOptions, ImageNetworkOptions, ImageSolverOptions
from flow.results import check_gen_source
from torch_utils import distributed

EXAMPLE = """
torchrun --nproc_per_node=2 gen_fid_samples.py --save_dir=fid-tmp --network=out --seeds=0-999
"""
POINTS = 256  # of the paper's Heun grid for FID
SHOWN, COLUMNS = 64, 8


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(
    ImageLatentOptions, ImageSolverOptions, FieldOptions, ImageNetworkOptions, RunOptions
):
    """Options of the script."""

    seeds: list[int] = option(
        "0-49999", recorded=False, type=Seeds(), help="seeds and ranges: 0-9,20,33"
    )
    subdirs: bool = option(False, help="a subfolder for every 1,000 seeds")
    prev_melt: str | None = option(
        None, type=PATH,
        help="inflation by pfODE_int.py (*_melt_results.npz), for --gen_source=empirical or donors",
    )  # fmt: skip


@cli.command(EXAMPLE)
@takes(GenerateOptions)
@cli.without_effect("--save_freq", "only images are kept")
def main(options: GenerateOptions) -> None:
    """Generate images from seeds, one image a seed, the same in any run and under any torchrun.

    Images that are there already are left alone: the same command goes on after an interruption.
    """
    flow, name = open_network(options)
    set_arithmetic(flow, options, len(options.seeds))
    number = check_class(flow, options.class_)
    check_gen_source(flow, options)
    donors = open_donors(flow, options, number)
    cli.check_writable(options.save_dir, "--save_dir")
    with distributed.session(options.device):
        run(flow, donors, replace(options, data_name=name, bs=flow.block), number)


def open_donors(flow: Flow, options: GenerateOptions, number: int | None) -> Lender:
    """What --gen_source takes of the inflation of --prev_melt, if anything.

    Args:
        flow: the flow.
        options: of the script.
        number: class whose images are wanted; None for all.

    Raises:
        UserError: if --gen_source and --prev_melt do not go together.
    """
    if (options.gen_source != "diag") != (options.prev_melt is not None):
        raise cli.UserError(
            f"--gen_source={options.gen_source} and --prev_melt={options.prev_melt}: "
            "latents of empirical or donors, and only these, need an inflation by pfODE_int.py"
        )
    if options.prev_melt is None:
        return None
    with cli.user_errors("--prev_melt"):
        melt = read_melt(options.prev_melt, flow)
        if abs(melt.stop - flow.schedule.tmax) > 1e-6 * flow.schedule.tmax:
            raise ValueError(
                f"{melt.path}: ends at t={melt.stop:g}, not at tmax={flow.schedule.tmax:g}"
            )
        found = melt.lender(options.gen_source)
        return found and found.of_class(number)


def run(flow: Flow, donors: Lender, options: GenerateOptions, number: int | None) -> None:
    """Generate what is missing, of the class `number` if not None, within a session."""
    folder, seeds = Path(options.save_dir), options.seeds
    method = method_for(flow, None, None, options, POINTS)
    todo = missing_seeds(folder, seeds, options.subdirs)
    distributed.print0(
        f"{len(seeds)} images, {len(seeds) - len(todo)} there already; {method.describe()}; "
        f"network batches of {flow.block}"
    )
    if options.dry_run:
        return
    identity = {
        "network_sha256": flow.digest,
        "schedule": flow.schedule.name,
        "method": method.describe(),
        "eps": options.eps,
        "gen_source": options.gen_source,
        "prev_melt_sha256": _digest(options.prev_melt),
        "class": options.class_,
    }
    identity |= {name: True for name in ("bf16", "tf32") if getattr(options, name)}
    shown = options.record() | {"seeds": f"{len(seeds)} from {seeds[0]} to {seeds[-1]}"}
    distributed.check_shared(folder, "--save_dir")
    measured = claim(folder, identity, shown, len(seeds) - len(todo), len(seeds))
    if not todo and not measured:  # it was killed in between: one block tells what they cost
        todo = seeds[-1:]
    started = time.monotonic()
    subdirs = options.subdirs
    evaluations = make_images(flow, method, todo, folder, subdirs, options.eps, donors, number)
    distributed.barrier()
    if not distributed.is_main():
        return
    if todo:
        results = {
            "evaluations_per_image": evaluations,
            "images_made": len(todo),
            "images_in_all": len(seeds),
            "seconds": time.monotonic() - started,
        }
        content = {"identity": identity, "options": shown, "results": results}
        told = enclosed(content, f"{len(seeds)} images", kind="Generated images")
        write_json(folder / OPTIONS_FILE, told)
        print(f"{evaluations} network evaluations an image")
    if options.plot:  # beside the folder, where it is no sample
        some = [read_png(file_of(folder, k, subdirs), shape_of(flow)) for k in seeds[:SHOWN]]
        plot.image_grid(folder.with_name(f"{folder.name}-grid.png"), np.stack(some), COLUMNS)
    print(f"Images: {folder}", flush=True)


def _digest(path: str | None) -> str | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
