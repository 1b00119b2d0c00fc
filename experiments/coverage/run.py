"""A coverage experiment: its options, and what it writes and draws."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import COUNT, POSITIVE, SEED, RunOptions, option
from dnnlib.results import enclosed
from dnnlib.util import Json, write_json
from experiments.calibration.data import Held, held_out
from experiments.coverage.boundaries import DIMENSIONS, Boundary, alpha_shapes
from experiments.coverage.carrier import CAPTIONS, STAGES, Carrier
from experiments.coverage.coverage import KINDS, Report, shares_by_norm, shares_within
from experiments.coverage.regions import require
from flow.flow import Flow
from flow.method import Method
from flow.options import SaveOptions, ToyNetworkOptions, ToySolverOptions, tolerance_option
from flow.results import check_results, document, save_results
from flow.toys import how_many
from torch_utils import distributed, seeding
from torch_utils.work import Parts
from training.data.toys import ToySource
from training.data.vectors import VectorSource

TOLERANCE = 1e-3  # of --tol
OF_SPHERES = {"boundary", "r_min", "r_max", "r_num", "eps", "num_seeds"}
OF_ALPHA_SHAPES = {"boundary_pts", "alpha"}
HEEDED = {
    "--boundary=norm": OF_SPHERES,
    "--boundary=alphashape": OF_SPHERES | OF_ALPHA_SHAPES,
    "--experiment=data": set(),
}


@dataclass(frozen=True, kw_only=True)
class CoverageOptions(ToySolverOptions, SaveOptions, ToyNetworkOptions, RunOptions):
    """Options of the script."""

    experiment: str = option(
        "coverage", type=click.Choice(("coverage", "data")),
        help="coverage of spheres by the flow's own latents, which tests the flow's consistency; "
        "or held-out data inflated, which tests the flow: passes or fails",
    )  # fmt: skip
    boundary: str = option(
        None, type=click.Choice(KINDS),
        help="a point is inside if its own inflation is, in any dimension; or as published the "
        "alpha shape of random points of the sphere, made anew at every stage [norm; alphashape "
        "with --boundary_pts or --alpha]",
    )  # fmt: skip
    test_pts: int = option(
        20000, type=click.IntRange(min=10), help="latents a seed; of data, rows held out"
    )
    boundary_pts: int = option(
        200, type=click.IntRange(min=10), help="points on a sphere, of alpha shapes"
    )
    r_min: float = option(0.5, type=POSITIVE, help="smallest")
    r_max: float = option(3.5, type=POSITIVE, help="largest")
    r_num: int = option(7, type=COUNT, help="number of radii")
    alpha: float = option(
        0.005, type=POSITIVE,
        help="of alpha shapes: inverse of the largest circumradius, in the paper's scaled "
        "coordinates",
    )  # fmt: skip
    eps: float | None = option(
        None, type=POSITIVE, help="variance of compressed latents [the schedule's own]"
    )
    seed: int = option(0, type=SEED, help="the first seed")
    num_seeds: int = option(3, type=COUNT, help="repetitions")
    tol: float | None = tolerance_option(TOLERANCE)

    def __post_init__(self) -> None:
        """Fill in the boundary; refuse options that would have no effect."""
        if self.boundary is None:
            published = OF_ALPHA_SHAPES & self.given and self.experiment != "data"
            object.__setattr__(self, "boundary", "alphashape" if published else "norm")
        for name in sorted(set().union(*HEEDED.values()) & self.given - HEEDED[self.mode]):
            heeding = ", ".join(m for m, names in HEEDED.items() if name in names)
            said = getattr(self, name)
            raise UserError(
                f"--{name}={said if isinstance(said, str) else f'{said:g}'} has no effect with "
                f"{self.mode}, only with {heeding}; leave it out"
            )

    @property
    def mode(self) -> str:
        """The option, of `HEEDED`, that says what is done."""
        data = self.experiment == "data"
        return "--experiment=data" if data else f"--boundary={self.boundary}"


def check(flow: Flow, options: CoverageOptions) -> None:
    """Check what can be checked before any work.

    Raises:
        UserError: naming the option, or the package that is missing.
    """
    cli.check_writable(options.save_dir, "--save_dir")
    if options.r_max < options.r_min:
        raise UserError(
            f"--r_max={options.r_max:g} is less than --r_min={options.r_min:g}; swap them"
        )
    if options.mode != "--boundary=alphashape":
        return
    d = flow.schedule.data_dim
    if d not in DIMENSIONS:
        raise UserError(
            f"--network={options.network} has data_dim={d}: --boundary=alphashape is made of "
            "polygons in 2 or surfaces in 3 dimensions; use --boundary=norm"
        )
    with cli.user_errors():
        require("shapely" if d == 2 else "trimesh")
        require("alphashape")
    if d == 3:
        try:
            require("embreex")
        except ValueError as error:
            distributed.print0(f"Note: {error}; without it counting takes many times longer")


def run(flow: Flow, method: Method, name: str, options: CoverageOptions) -> None:
    """Carry points, count, and on rank 0 write, within a session."""
    started = time.monotonic()
    radii = np.linspace(options.r_min, options.r_max, options.r_num)
    seeds = [options.seed + k for k in range(options.num_seeds)]
    distributed.print0("\n".join(flow.schedule.summary()))
    distributed.print0(
        f"{len(radii)} radii by {options.boundary}, {len(seeds)} seeds of "
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
    with cli.user_errors():
        boundaries, shares, shown = counts(carrier, radii, seeds, options, parts)
    report = Report(flow.schedule.data_dim, radii, seeds, options.test_pts, shares)
    distributed.print0("\n".join(report.lines()))
    if distributed.is_main():
        facts = {"evaluations_one_way": one_way, "seconds": time.monotonic() - started}
        told = {"network_sha256": flow.digest, **document(flow, options, method)}
        write(stem, report, boundaries, {**told, **facts})
        if options.plot:
            draw(stem, report, boundaries, shown, options.boundary)
        parts.clear()
        print(f"Results: {stem}_*", flush=True)


def counts(
    carrier: Carrier, radii: np.ndarray, seeds: list[int], options: CoverageOptions, parts: Parts
) -> tuple[list[Boundary], np.ndarray, dict[str, np.ndarray]]:
    """Shares of all seeds, with boundaries and points of the first; see `Report`.

    Returns:
        boundaries of each radius, none by the norm; shares [seeds, stages, radii]; for each stage
        points [n, d], and "z", those after inflating back in standard normal coordinates.
    """
    published = options.boundary == "alphashape"
    drawn = {
        s: alpha_shapes(carrier, radii, options.boundary_pts, options.alpha, s) if published else []
        for s in seeds
    }
    shares: list[np.ndarray] = []
    shown: dict[str, np.ndarray] = {}
    for seed in seeds:
        z = carrier.points(options.test_pts, seed)
        x, back = carrier.passage(z, f"points of seed {seed}")
        points = carrier.stages(z, x, back)
        shares.append(
            shares_within(drawn[seed], points, "counting", parts) if published
            else shares_by_norm(z, back, radii)
        )  # fmt: skip
        shown = shown or points | {"z": back}
    return drawn[seeds[0]], np.array(shares), shown


def held_out_rows(flow: Flow, source: ToySource | VectorSource, options: CoverageOptions) -> Tensor:
    """Data that a network has not been trained on, [n, d].

    Raises:
        UserError: if --data is what it was trained on.
    """
    if isinstance(source, ToySource):
        seed = seeding.integer(options.seed, "held out")  # a stream that no training has
        return source.samples(seed, 0, options.test_pts)
    if flow.info.get("data", {}).get("sha256") == source.content_hash():
        raise UserError(
            f"--data={options.data} is what the network was trained on, which --experiment=data "
            "cannot judge it by; name a file of rows that were held out"
        )
    return source.samples(options.seed, 0, how_many(source, options.test_pts))


def data(flow: Flow, method: Method, name: str, x: Tensor, options: CoverageOptions) -> None:
    """Held-out data inflated: whether the flow is that of the data.

    Args:
        flow, method, options: see `run`.
        name: of the data.
        x: held-out data, [n, d].
    """
    distributed.print0(f"{len(x)} held-out samples, {method.describe()}")
    if options.dry_run:
        return
    stem = Path(options.save_dir) / f"{name}_{flow.schedule.name}"
    check_results(f"{stem}_held_out.json", {"network_sha256": flow.digest})
    found = held_out(flow, x, method.how(), options.seed)
    if not distributed.is_main():
        return
    record = {"network_sha256": flow.digest, **document(flow, options, method)}
    table = ("Share of held-out data in balls of the latent", Held.HEADER, found.rows())
    content = {**found.summary(), **record}
    told = enclosed(content, f"{stem.name}: held-out data", kind="Calibration", tables=[table])
    write_json(f"{stem}_held_out.json", told)
    save_results(Path(f"{stem}_held_out.npz"), {"latents": found.latents})
    if options.plot:
        from experiments.coverage.plots import held_out_plot

        held_out_plot(Path(f"{stem}_held_out.png"), found.latents, stem.name)
    print("\n".join(found.lines()))
    print(f"Results: {stem}_held_out.*", flush=True)


def write(stem: Path, report: Report, boundaries: list[Boundary], record: Json) -> None:
    """A .json for each stage, the .npz, and surfaces as .ply; boundaries are the first seed's."""
    for stage in STAGES:
        told = report.stage(stage)
        columns = (told[k] for k in ("radii", "mean", "two_sd", "chi_square"))
        rows = list(zip(*columns, strict=True))
        table = ("Share of latents inside", ("radius", "share", "2 sd", "chi-square"), rows)
        content = {**told, **record}
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
        for stage in STAGES:
            boundary.regions[stage].save(Path(f"{stem}_{stage}_r{boundary.radius:g}.ply"))
    save_results(Path(f"{stem}_coverages.npz"), arrays)


def draw(
    stem: Path, report: Report, boundaries: list[Boundary], points: dict[str, np.ndarray], kind: str
) -> None:
    """The coverage plot, and points with what bounds them."""
    from experiments.coverage.plots import bands_plot, boundary_plot, coverage_plot

    title = f"{stem.name}, {kind}"
    coverage_plot(
        Path(f"{stem}_coverages.png"), report,
        f"{title}: {len(report.seeds)} seeds of {report.points}, ± 2 sd",
    )  # fmt: skip
    z = points.pop("z")
    if boundaries:
        boundary_plot(Path(f"{stem}_boundaries.png"), boundaries, points, title)
    elif report.d > 1:
        inside = np.searchsorted(report.radii, np.linalg.norm(z, axis=1))
        bands_plot(Path(f"{stem}_boundaries.png"), points, inside, report.radii, title)
