"""Inflate, round-trip and generate images by the probability-flow ODE."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dnnlib  # noqa: F401  (before torch)

# isort: split
import click
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.cli import UserError
from dnnlib.options import COUNT, PATH, SEED, RunOptions, again, option, takes
from dnnlib.util import write_json
from flow.flow import Flow
from flow.images import (
    check_class,
    classes_of,
    drawn_classes,
    how_many,
    one_hot,
    open_data,
    open_network,
    pilot_classes,
    pixel_errors,
    shape_of,
)
from flow.inflation_file import Melt, read_melt, run_entry
from flow.latents import everywhere
from flow.method import (
    IMAGE_PILOTS,
    METHOD_OPTIONS,
    Method,
    image_method,
    paper_method,
    pilots_of,
)
from flow.options import ImageDataOptions, ImageLatentOptions, ImageSolverOptions, tolerance_option
from flow.results import check_gen_source, check_results, document, save_results
from flow.simulation import (
    ENDS_ONLY,
    KEYS,
    KINDS,
    Result,
    Simulations,
    kept_steps,
    latent_summary,
)
from torch_utils import distributed
from training.data.images import ImageSource, to_pixels

EXAMPLE = """
python pfODE_int.py --save_dir=out/flow --network=out --data_root=datasets/digits-8x8.zip --bs=64
python pfODE_int.py --save_dir=out/flow --network=out --sim_type=gen --bs=64 --seed=1
"""
POINTS = 118  # of the paper's Heun grid for round trips
TOLERANCE = 1e-3  # of --tol
COLUMNS, SHOWN = 8, 64
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class ImageFlowOptions(ImageLatentOptions, ImageSolverOptions, ImageDataOptions, RunOptions):
    """Options of the script."""

    data_root: str | None = again(
        ImageDataOptions, "data_root", help="zip or folder of images to inflate"
    )
    bs: int = option(256, type=COUNT, help="samples of each simulation")
    sim_type: str = option(
        "all", type=click.Choice(["all", *KINDS]),
        help="inflation (melt), round trip from its end, generation, or all three",
    )  # fmt: skip
    prev_melt: str | None = option(
        None, type=PATH,
        help="inflation (*_melt_results.npz) that --sim_type=roundtrip starts from, by its solver "
        "unless another is named; also serves --gen_source=empirical and donors",
    )  # fmt: skip
    save_freq: int | None = option(
        None, type=COUNT,
        help="also save every so many states (published: 10); the first and the last always are",
    )  # fmt: skip
    save_dtype: str = option(
        "float32", type=click.Choice(list(DTYPES)),
        help="of saved arrays; the final state is float64 in any case",
    )  # fmt: skip
    seed: int = option(0, type=SEED, help="of the choice of images, of latents and classes")
    tol: float | None = tolerance_option(TOLERANCE)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which simulations."""
        return KINDS if self.sim_type == "all" else (self.sim_type,)


@cli.command(EXAMPLE)
@takes(ImageFlowOptions)
def main(options: ImageFlowOptions) -> None:
    """Inflate, round-trip and generate images by the probability-flow ODE.

    Writes {data_name}_{schedule}_net_{melt,roundtrip,gen}_results.npz, pictures, and all options
    and measured errors in {data_name}_{schedule}_HD_pfODE_int_sim_params.json.
    """
    flow, name = open_network(options)
    number = check_class(flow, options.class_)
    check_gen_source(flow, options)
    melt = None
    if options.prev_melt is not None:
        with cli.user_errors("--prev_melt"):
            melt = read_melt(options.prev_melt, flow, classes_of(flow))
    check_inputs(options)
    source = open_data(flow, options.data_root) if "melt" in options.kinds else None
    cli.check_writable(options.save_dir, "--save_dir")
    with distributed.session(options.device):
        run(flow, source, melt, replace(options, data_name=name), number)


def check_inputs(options: ImageFlowOptions) -> None:
    """Check that there is something to start from.

    Raises:
        UserError: naming the option that is missing or not meant.
    """
    kinds = options.kinds
    if "melt" in kinds and options.prev_melt is not None:
        raise UserError(
            f"--prev_melt={options.prev_melt}: --sim_type={options.sim_type} makes its own "
            "inflation; leave it out, or use --sim_type=roundtrip or gen"
        )
    if kinds == ("roundtrip",) and options.prev_melt is None:
        raise UserError(
            "--prev_melt is missing: --sim_type=roundtrip starts from an inflation; name its "
            "*_melt_results.npz, or use --sim_type=all"
        )
    if kinds == ("gen",) and options.gen_source != "diag" and options.prev_melt is None:
        raise UserError(
            f"--gen_source={options.gen_source} looks at latents of data: name an inflation "
            "with --prev_melt, or use --sim_type=all"
        )


def run(
    flow: Flow,
    source: ImageSource | None,
    melt: Melt | None,
    options: ImageFlowOptions,
    number: int | None,
) -> None:
    """Simulate within a session, generating the class `number` if not None; write files."""
    seed, total, kinds = options.seed, options.bs, options.kinds
    x, classes = None, None
    if source is not None:
        total = how_many(total, source, "--bs")
        x = source.samples(seed, 0, total, "drawn")
        classes = drawn_classes(source, seed, 0, total)
    elif kinds == ("roundtrip",) and melt is not None:
        total, x, classes = len(melt.x), melt.x, melt.classes
    method = method_of(flow, x, classes, melt if kinds == ("roundtrip",) else None, options)
    if melt is not None and abs(melt.stop - method.stop) > 1e-6 * method.stop:
        raise UserError(
            f"--prev_melt={melt.path} ends at t={melt.stop:g}, the solver's grid at "
            f"t={method.stop:g}; name the solver and grid that it was made with"
        )
    save_freq = options.save_freq or ENDS_ONLY
    states, dtype = len(kept_steps(method, save_freq)), DTYPES[options.save_dtype]
    size = states * total * flow.schedule.data_dim * len(KEYS) * dtype.itemsize / 2**20
    for note in flow.schedule.summary():
        distributed.print0(note)
    distributed.print0(
        f"{', '.join(kinds)}: {total} samples, {method.describe()}; {states} states saved, about "
        f"{size:.1f} MiB a file"
    )
    if options.dry_run:
        return
    base = f"{options.data_name}_{flow.schedule.name}_HD_pfODE_int_sim_params.json"
    made_from: dict[str, str | None] = {"network_sha256": flow.digest}
    check_results(Path(options.save_dir) / base, made_from)
    started = time.monotonic()
    with cli.user_errors("--prev_melt"):
        donors = melt.lender(options.gen_source) if melt is not None and "gen" in kinds else None
    results = Simulations(
        flow, method, total, kinds, seed,
        x=x if source is not None else None,
        inflated=None if melt is None else melt.state,
        classes=classes_of(flow), data_classes=classes, eps=options.eps,
        donors=donors, gen_source=options.gen_source, gen_class=number,
        save_freq=save_freq, dtype=dtype,
    ).run()  # fmt: skip
    if "melt" in results:
        final = everywhere(results["melt"].final, total, flow.block).numpy()
        results["melt"].arrays |= {"whitened": final, "run": run_entry(flow, method)}
    if distributed.is_main():
        report = {**made_from, **measured(flow, method, results, x)}
        write(flow, method, results, report | {"seconds": time.monotonic() - started}, options)


def method_of(
    flow: Flow,
    x: torch.Tensor | None,
    classes: np.ndarray | None,
    melt: Melt | None,
    options: ImageFlowOptions,
) -> Method:
    """How to integrate: as an earlier inflation was, unless the options name a method.

    The steps for a tolerance are found on pilots: some of the images, or, to generate without
    data, images generated from latents of seed 0.
    """
    chosen = any(getattr(options, k) is not None for k in METHOD_OPTIONS)
    theirs = None if melt is None or chosen else melt.method
    if theirs is not None and theirs.disc is not None:
        h, first = theirs.stop / theirs.steps, theirs.start
        return paper_method(flow, theirs.solver, theirs.disc, theirs.steps, h, first)
    if theirs is not None:
        return theirs
    n = IMAGE_PILOTS if x is None else pilots_of(len(x), IMAGE_PILOTS)
    if x is None and classes_of(flow):
        classes = pilot_classes(flow)
    labels = None if classes is None else one_hot(flow, classes[:n])
    here = flow.given(labels)

    def pilots() -> torch.Tensor:
        some = here.sample(n, seed=0, steps=16) if x is None else x[:n]
        return here.to_whitened(some, 0.0, "unscaled")

    return image_method(here, pilots, options, POINTS, TOLERANCE, options.dry_run)


def measured(
    flow: Flow, method: Method, results: dict[str, Result], x: torch.Tensor | None
) -> dict[str, Any]:
    """What the simulations show, on rank 0: evaluations, round-trip errors, shape of latents."""
    report: dict[str, Any] = {
        "evaluations_one_way": max(r.evaluations for r in results.values()),
        "samples": next(iter(results.values())).arrays["xs"].shape[1],
    }
    if "roundtrip" in results and x is not None:
        back = torch.from_numpy(results["roundtrip"].arrays["tilde_xs"][-1])
        errors = pixel_errors(x, back)
        report |= {f"round_trip_{k}_pixels": float(v.mean()) for k, v in errors.items()}
    if "melt" in results:
        report |= latent_summary(flow, results["melt"].arrays["xs_es"][-1], method.stop)
    return report


def write(
    flow: Flow,
    method: Method,
    results: dict[str, Result],
    report: dict[str, Any],
    options: ImageFlowOptions,
) -> None:
    """Arrays, parameters and pictures of all simulations."""
    folder, base = Path(options.save_dir), f"{options.data_name}_{flow.schedule.name}"
    for kind, result in results.items():
        save_results(folder / f"{base}_net_{kind}_results.npz", result.arrays)
    content = {**document(flow, options, method), "results": report}
    write_json(folder / f"{base}_HD_pfODE_int_sim_params.json", content)
    if options.plot:
        for name, images in pictures(flow, results).items():
            plot.image_grid(folder / f"{base}_net_{name}.png", images, COLUMNS)
    print(json.dumps(report, indent=2))
    print(f"Results: {folder}/{base}*", flush=True)


def pictures(flow: Flow, results: dict[str, Result]) -> dict[str, np.ndarray]:
    """Grids of data, latents, round trips and generated images, uint8 [n, H, W, C] each.

    Latents are drawn in the data's own axes, mid-grey for 0, the range that holds 99 % of the
    values spread over that of pixels.
    """
    grids = {}
    if "melt" in results:
        arrays = results["melt"].arrays
        latents = arrays["xs"][-1][:SHOWN]
        grids["data"] = arrays["tilde_xs"][0][:SHOWN]
        grids["latent"] = latents / max(float(np.quantile(np.abs(latents), 0.99)), 1e-12)
    for kind in ("roundtrip", "gen"):
        if kind in results:
            grids[kind] = results[kind].arrays["tilde_xs"][-1][:SHOWN]
    return {k: to_pixels(torch.from_numpy(v), shape_of(flow)) for k, v in grids.items()}


if __name__ == "__main__":
    main()
