"""A coverage experiment: its options, and what it writes and draws."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import COUNT, POSITIVE, SEED, RunOptions, option
from dnnlib.results import enclosed
from dnnlib.util import write_json
from experiments.coverage.boundaries import DIMENSIONS
from experiments.coverage.coverage import (
    CAPTIONS,
    KINDS,
    STAGES,
    Boundary,
    Carrier,
    Report,
    alpha_shapes,
    binomial_error,
    coverages,
    transported,
)
from experiments.coverage.regions import require
from flow.flow import Flow
from flow.method import Method
from flow.options import SaveOptions, ToyNetworkOptions, ToySolverOptions, tolerance_option
from flow.results import check_results, document, save_results
from torch_utils import distributed
from torch_utils.work import Parts

TOLERANCE = 1e-3  # of --tol
BOUNDARY_TOLERANCE = 0.3


@dataclass(frozen=True, kw_only=True)
class CoverageOptions(ToySolverOptions, SaveOptions, ToyNetworkOptions, RunOptions):
    """Options of the script."""

    boundary: str = option(
        "transported", type=click.Choice(KINDS),
        help="a sphere whose own edges or triangles the flow carries, or as published the alpha "
        "shape of random points of it, made anew at every stage",
    )  # fmt: skip
    test_pts: int = option(20000, type=click.IntRange(min=10), help="latents a seed")
    boundary_pts: int = option(
        200, type=click.IntRange(min=10),
        help="points on a sphere; a transported one has this many to begin with, 200 or more",
    )  # fmt: skip
    r_min: float = option(0.5, type=POSITIVE, help="smallest")
    r_max: float = option(3.5, type=POSITIVE, help="largest")
    r_num: int = option(7, type=COUNT, help="number of radii")
    alpha: float = option(
        0.005, type=POSITIVE,
        help="of alpha shapes: inverse of the largest circumradius, in the paper's scaled "
        "coordinates",
    )  # fmt: skip
    boundary_tol: float = option(
        BOUNDARY_TOLERANCE, type=click.FloatRange(min=1e-3),
        help="coverage that edges of a transported boundary may misplace, in binomial standard "
        "errors of the coverage; they are bisected until then",
    )  # fmt: skip
    eps: float | None = option(
        None, type=POSITIVE, help="variance of compressed latents [the schedule's own]"
    )
    seed: int = option(0, type=SEED, help="the first seed")
    num_seeds: int = option(3, type=COUNT, help="repetitions")
    tol: float | None = tolerance_option(TOLERANCE)


def check(flow: Flow, options: CoverageOptions) -> None:
    """Check what can be checked before any work.

    Raises:
        UserError: naming the option, or the package that is missing.
    """
    d = flow.schedule.data_dim
    if d not in DIMENSIONS:
        raise UserError(
            f"--network={options.network} has data_dim={d}: --boundary={options.boundary} is "
            "made of polygons in 2 or surfaces in 3 dimensions; use a network of 2 or 3"
        )
    if options.r_max < options.r_min:
        raise UserError(
            f"--r_max={options.r_max:g} is less than --r_min={options.r_min:g}; swap them"
        )
    with cli.user_errors():
        require("shapely" if d == 2 else "trimesh")
        if options.boundary == "alphashape":
            require("alphashape")
    cli.check_writable(options.save_dir, "--save_dir")
    if d == 3:
        try:
            require("embreex")
        except ValueError as error:
            distributed.print0(f"Note: {error}; without it counting takes many times longer")


def run(flow: Flow, method: Method, name: str, options: CoverageOptions) -> None:
    """Carry boundaries and points, count, and on rank 0 write, within a session."""
    started = time.monotonic()
    radii = np.linspace(options.r_min, options.r_max, options.r_num)
    seeds = [options.seed + k for k in range(options.num_seeds)]
    distributed.print0("\n".join(flow.schedule.summary()))
    distributed.print0(
        f"{options.boundary} boundaries of {len(radii)} radii, {len(seeds)} seeds of "
        f"{options.test_pts} points, {method.describe()}"
    )
    if options.dry_run:
        return
    stem = Path(options.save_dir) / f"{name}_{flow.schedule.name}"
    check_results(f"{stem}_coverages_latent.json", {"network_sha256": flow.digest})
    counted = {"boundary": options.boundary, "alpha": options.alpha}  # beside the points themselves
    parts = Parts(stem.with_name(f".{stem.name}_coverages.parts"), counted)
    carrier = Carrier(flow, method, options.eps, parts)
    before = flow.evaluations
    carrier.passage(np.zeros((1, flow.schedule.data_dim)))
    one_way = (flow.evaluations - before) // 2
    distributed.print0(f"{one_way} network evaluations one way")
    shares, shown = [], None
    with cli.user_errors():
        boundaries = make_boundaries(carrier, radii, seeds, options)
    for seed in seeds:
        z = carrier.points(options.test_pts, seed)
        points = carrier.stages(z, *carrier.passage(z, f"points of seed {seed}"))
        shares.append(coverages(boundaries[seed], points, "counting", parts))
        shown = shown or points
    report = Report(flow.schedule.data_dim, radii, seeds, options.test_pts, np.array(shares))
    distributed.print0("\n".join(report.lines()))
    if distributed.is_main():
        facts = {"evaluations_one_way": one_way, "seconds": time.monotonic() - started}
        told = {"network_sha256": flow.digest, **document(flow, options, method)}
        write(stem, report, boundaries[seeds[0]], {**told, **facts})
        if options.plot and shown is not None:
            draw(stem, report, boundaries[seeds[0]], shown, options.boundary)
        parts.clear()
        print(f"Results: {stem}_*", flush=True)


def make_boundaries(
    carrier: Carrier, radii: np.ndarray, seeds: list[int], options: CoverageOptions
) -> dict[int, list[Boundary]]:
    """The boundaries of each seed: alpha shapes of its own points, or the same for all seeds."""
    points = options.boundary_pts
    if options.boundary == "alphashape":
        return {s: alpha_shapes(carrier, radii, points, options.alpha, s) for s in seeds}
    error = binomial_error(radii, carrier.flow.schedule.data_dim, options.test_pts)
    return dict.fromkeys(seeds, transported(carrier, radii, points, options.boundary_tol * error))


def write(stem: Path, report: Report, boundaries: list[Boundary], record: dict[str, Any]) -> None:
    """A .json for each stage, the .npz, and surfaces as .ply; boundaries are the first seed's."""
    made = {
        "vertices": [len(b.vertices["latent"]) for b in boundaries],
        "misplaced_by_edges": [b.misplaced for b in boundaries],
    }
    for stage in STAGES:
        told = report.stage(stage)
        columns = (told[k] for k in ("radii", "mean", "two_sd", "chi_square"))
        rows = list(zip(*columns, strict=True))
        table = ("Share of latents inside", ("radius", "share", "2 sd", "chi-square"), rows)
        content = {**told, "boundaries": made, **record}
        title = f"{stem.name}: {CAPTIONS[stage]}"
        told = enclosed(content, title, kind="Coverage", tables=[table])
        write_json(f"{stem}_coverages_{stage}.json", told)
    arrays = {
        "radii": report.radii,
        "seeds": np.array(report.seeds),
        "stages": np.array(STAGES),
        "coverages": report.shares,
        "chi_square": report.theory,
    }
    for k, boundary in enumerate(boundaries):
        arrays |= {f"vertices_{stage}_{k}": boundary.vertices[stage] for stage in STAGES}
        if boundary.simplices is not None:
            arrays[f"simplices_{k}"] = boundary.simplices
        for stage in STAGES:
            boundary.regions[stage].save(Path(f"{stem}_{stage}_r{boundary.radius:g}.ply"))
    save_results(Path(f"{stem}_coverages.npz"), arrays)


def draw(
    stem: Path, report: Report, boundaries: list[Boundary], points: dict[str, Any], kind: str
) -> None:
    """The coverage plot, and boundaries among points."""
    from experiments.coverage.plots import boundary_plot, coverage_plot

    title = f"{stem.name}, {kind} boundaries"
    coverage_plot(
        Path(f"{stem}_coverages.png"), report,
        f"{title}: {len(report.seeds)} seeds of {report.points}, ± 2 sd",
    )  # fmt: skip
    boundary_plot(Path(f"{stem}_boundaries.png"), boundaries, points, title)
