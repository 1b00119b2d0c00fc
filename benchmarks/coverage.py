"""Coverage on trained networks, and the time of counting beside a point-by-point loop.

The loop asks the same shapes about one point at a time. It is timed on a few points, in the same
run, and scaled to all; in two dimensions with the polygon as it is and prepared (shapely.prepare).

python -m benchmarks.coverage [--quick]
"""

from __future__ import annotations

import time

import click
import numpy as np
import shapely
import torch

from benchmarks.common import Line, quick_option, report, trained
from dnnlib.util import aligned
from experiments.coverage.coverage import (
    STAGES,
    Boundary,
    Carrier,
    Report,
    binomial_error,
    coverages,
    transported,
)
from experiments.coverage.run import BOUNDARY_TOLERANCE
from flow.method import angle_method
from training.data.toys import ToySource

NETWORKS = {
    "PRP": "circles_sharp",
    "PRR to 1-D, rescaled": "circles_sharp",
    "S-curve, PRP": "s_curve_sharp",
    "S-curve, PRR to 2-D": "s_curve_sharp",
}
POINTS, SEEDS, RADII = 20_000, [0, 1, 2], np.linspace(0.5, 3.5, 7)
QUICK = 2  # networks
TOLERANCE, BOUNDARY_POINTS = 1e-3, 200  # the script's defaults
LOOP_POINTS = 100
MOST_ERRORS, MOST_CHANGE, LEAST_FASTER = 3.0, 0.5, 20.0


def loop_seconds(
    boundaries: list[Boundary], points: dict[str, np.ndarray], prepared: bool
) -> float:
    """Seconds that a loop over single points takes for all of them, from LOOP_POINTS of each."""
    took = 0.0
    for boundary in boundaries:
        for stage in STAGES:
            region, some = boundary.regions[stage], points[stage][:LOOP_POINTS]
            if not region.flat:
                before = time.perf_counter()
                for p in some:
                    region.shape.contains(p[None])
            else:
                polygon = shapely.from_wkb(shapely.to_wkb(region.shape))  # not prepared
                if prepared:
                    shapely.prepare(polygon)
                before = time.perf_counter()
                for p in some:
                    polygon.contains(shapely.Point(p))
            took += time.perf_counter() - before
    return took * POINTS / LOOP_POINTS


def measure(name: str) -> tuple[list[object], list[object], list[str], list[Line]]:
    """Rows of the two tables, the coverages as text, and what they come down to."""
    flow, _ = trained(name)
    pilots = flow.to_whitened(ToySource(NETWORKS[name]).samples(0, 0, 256), 0.0, "unscaled")
    carrier = Carrier(flow, angle_method(flow, lambda: pilots, None, None, TOLERANCE))
    before = time.perf_counter()
    errors = binomial_error(RADII, flow.schedule.data_dim, POINTS)
    boundaries = transported(carrier, RADII, BOUNDARY_POINTS, BOUNDARY_TOLERANCE * errors)
    building = time.perf_counter() - before
    shares, counting, points = [], [], {}
    for seed in SEEDS:
        z = carrier.points(POINTS, seed)
        points = carrier.stages(z, *carrier.passage(z, f"{name}, seed {seed}"))
        before = time.perf_counter()
        shares.append(coverages(boundaries, points, "counting"))
        counting.append(time.perf_counter() - before)
    found = Report(flow.schedule.data_dim, RADII, SEEDS, POINTS, np.array(shares))
    errors = np.abs(found.shares[:, 0] - found.theory) / found.standard_error
    change = 100 * np.abs(found.shares - found.shares[:, :1]).max((0, 2))
    loops = [loop_seconds(boundaries, points, prepared) for prepared in (False, True)]
    flat = found.d == 2
    faster = min(loops) / max(counting)
    vertices = [len(b.vertices["gen"]) for b in boundaries]
    met = bool(errors.max() <= MOST_ERRORS and change.max() <= MOST_CHANGE)
    label = f"{NETWORKS[name]}: {name}"
    first: list[object] = [
        label, f"{errors.max():.2f}", f"{change[1]:.2f}", f"{change[2]:.2f}",
        f"{min(vertices)} - {max(vertices)}", f"{building:.0f}", "met" if met else "MISSED",
    ]  # fmt: skip
    second: list[object] = [
        label, f"{max(counting):.2f}", f"{loops[0]:.0f}", f"{loops[1]:.0f}" if flat else "-",
        f"{loops[0] / max(counting):.0f}", f"{loops[1] / max(counting):.0f}" if flat else "-",
        "met" if faster >= LEAST_FASTER else "MISSED",
    ]  # fmt: skip
    lines = [
        Line(f"{label}: counting {POINTS:,} points, s", f"{max(counting):.2f}",
             f"loop{' (prepared)' if flat else ''} {min(loops):.0f}", faster, LEAST_FASTER),
        Line(f"{label}: largest change of coverage, there and back, points", f"{change[2]:.3f}",
             f"bound {MOST_CHANGE:g}", MOST_CHANGE / max(change[2], 1e-9), 1.0),
    ]  # fmt: skip
    return first, second, [label, *found.lines()], lines


@click.command()
@quick_option
def main(quick: bool) -> None:
    """Measure and write the tables."""
    torch.set_num_threads(1)
    measured = [measure(name) for name in list(NETWORKS)[: QUICK if quick else None]]
    header = (
        "network", "latent: largest error, binomial se", "change, generated", "inflated back",
        "vertices", "boundaries, s", f"<= {MOST_ERRORS:g} se, <= {MOST_CHANGE:g}",
    )  # fmt: skip
    times = (
        "network", "counting, s", "loop, s", "loop, prepared, s", "loop / ours",
        "prepared loop / ours", f">= {LEAST_FASTER:g}",
    )  # fmt: skip
    parts = [
        "Largest error and change over radii and seeds; changes in points of percent\n"
        + aligned(header, [m[0] for m in measured]),
        f"Counting {POINTS:,} points, {len(RADII)} radii, {len(STAGES)} stages; the loop is timed "
        f"on {LOOP_POINTS} points of each and scaled\n" + aligned(times, [m[1] for m in measured]),
        *("\n".join(m[2]) for m in measured),
    ]
    title = f"Coverage, transported boundaries, {len(SEEDS)} seeds of {POINTS:,} points"
    report("coverage", title, parts, [line for m in measured for line in m[3]], quick)


if __name__ == "__main__":
    main()
