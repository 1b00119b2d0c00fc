"""A simulation of images: its options, and what it writes and draws."""

from __future__ import annotations

from dataclasses import dataclass

import click
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.cli import UserError
from dnnlib.options import COUNT, PATH, SEED, RunOptions, again, option
from dnnlib.util import Json
from flow.flow import Flow
from flow.images import Drawn, method_for, pixel_errors, shape_of
from flow.inflation_file import Melt, run_entry
from flow.latents import latent_summary
from flow.method import IMAGE_PILOTS, METHOD_OPTIONS, Method, paper_method, pilots_of
from flow.options import (
    ArithmeticOptions,
    ImageDataOptions,
    ImageLatentOptions,
    ImageSolverOptions,
    image_solver_option,
    image_steps_option,
    tolerance_option,
)
from flow.results import Record
from flow.simulation import (
    ENDS_ONLY,
    KEYS,
    KINDS,
    Result,
    Simulations,
    everywhere,
    kept_steps,
)
from torch_utils import distributed
from training.data.images import ImageSource, to_pixels

POINTS = 118  # of the paper's Heun grid for round trips
TOLERANCE = 1e-3  # of --tol
COLUMNS, SHOWN = 8, 64
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class ImageFlowOptions(
    ImageLatentOptions, ImageSolverOptions, ArithmeticOptions, ImageDataOptions, RunOptions
):
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
    solver: str | None = image_solver_option(f"rk4 at --tol={TOLERANCE:g}")
    steps: int | None = image_steps_option(POINTS)
    tol: float | None = tolerance_option(TOLERANCE)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which simulations."""
        return KINDS if self.sim_type == "all" else (self.sim_type,)


def run(
    flow: Flow,
    source: ImageSource | None,
    melt: Melt | None,
    options: ImageFlowOptions,
    number: int | None,
) -> None:
    """Simulate within a session, generating the class `number` if not None; write files."""
    seed, total, kinds = options.seed, options.bs, options.kinds
    x, classes, theirs = None, None, None
    if source is not None:
        images = Drawn.most(flow, source, seed, total, "--bs")
        total = images.total
        x, classes = images.data(range(total)), images.classes(range(total))
    elif kinds == ("roundtrip",) and melt is not None:
        total, x, classes, theirs = len(melt.x), melt.x, melt.classes, melt.method
    method = method_of(flow, x, classes, theirs, options)
    if melt is not None:
        check_end(melt, method)
    save_freq = options.save_freq or ENDS_ONLY
    states, dtype = len(kept_steps(method, save_freq)), DTYPES[options.save_dtype]
    distributed.print0("\n".join(flow.schedule.summary()))
    distributed.print0(
        f"{', '.join(kinds)}: {total} samples, {method.describe()}; "
        + file_size(states, total * flow.schedule.data_dim * dtype.itemsize)
    )
    if options.dry_run:
        return
    stem = f"{options.save_dir}/{options.data_name}_{flow.schedule.name}"
    record = Record.begin(f"{stem}_HD_pfODE_int_sim_params.json", flow, options, method)
    with cli.user_errors("--prev_melt"):
        donors = melt.lender(options.gen_source) if melt is not None and "gen" in kinds else None
    results = Simulations(
        flow, method, total, kinds, seed,
        x=x if source is not None else None,
        inflated=None if melt is None else melt.state,
        data_classes=classes, eps=options.eps,
        donors=donors, gen_source=options.gen_source, gen_class=number,
        save_freq=save_freq, dtype=dtype,
    ).run()  # fmt: skip
    if "melt" in results:
        final = everywhere(results["melt"], total, flow.block).numpy()
        results["melt"].arrays |= {"whitened": final, "run": run_entry(flow, method)}
    if not distributed.is_main():
        return
    for kind, result in results.items():
        record.save(f"{stem}_net_{kind}_results.npz", result.arrays)
    for name, grid in (pictures(flow, results) if options.plot else {}).items():
        plot.image_grid(f"{stem}_net_{name}.png", grid, COLUMNS)
    record.finish(measured(flow, method, results, x), f"{stem}*", "Simulations")


def file_size(states: int, each: int) -> str:
    """How large a file of states of `each` bytes a key becomes, in words."""
    return f"{states} states saved, about {states * each * len(KEYS) / 2**20:.1f} MiB a file"


def method_of(
    flow: Flow,
    x: torch.Tensor | None,
    classes: np.ndarray | None,
    theirs: Method | None,
    options: ImageFlowOptions,
) -> Method:
    """How to integrate: as an earlier inflation was, unless the options name a method."""
    if theirs is None or any(getattr(options, k) is not None for k in METHOD_OPTIONS):
        n = 0 if x is None else pilots_of(len(x), IMAGE_PILOTS)
        some = None if x is None else x[:n]
        labels = None if classes is None else classes[:n]
        return method_for(flow, some, labels, options, POINTS, TOLERANCE)
    if theirs.disc is None:
        return theirs
    h, first = theirs.stop / theirs.steps, theirs.start
    return paper_method(flow, theirs.solver, theirs.disc, theirs.steps, h, first)


def check_end(melt: Melt, method: Method) -> None:
    """Check that an earlier inflation ends where a method does.

    Raises:
        UserError: if it does not.
    """
    if abs(melt.stop - method.stop) > 1e-6 * method.stop:
        raise UserError(
            f"--prev_melt={melt.path} ends at t={melt.stop:g}, the solver's grid at "
            f"t={method.stop:g}; name the solver and grid that it was made with"
        )


def measured(
    flow: Flow, method: Method, results: dict[str, Result], x: torch.Tensor | None
) -> Json:
    """What the simulations show, on rank 0: evaluations, round-trip errors, shape of latents."""
    report: Json = {
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
