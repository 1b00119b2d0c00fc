"""Network evaluations against latent and round-trip error, beside the paper's Euler-701.

python -m benchmarks.integrators [--quick]
"""

from __future__ import annotations

import click
import torch

from benchmarks.common import Line, quick_option, report, trained
from dnnlib.util import aligned
from flow.flow import Flow, ifs_times
from flow.method import pilots_of
from training.data.toys import ToySource

SAMPLES = 2000
NETWORKS = ("PRP", "PRR to 1-D, rescaled", "PRR to 1-D, orig", "PRR to 1-D, gap 1.02")
QUICK = 2  # of them
REFERENCE_STEPS = 1000  # of RK4: 4,000 evaluations
PAPER = ("euler", 701)
METHODS = [
    PAPER, ("angle_euler", 64), ("ab2", 16), ("ab2", 32), ("ab2", 64), ("angle_heun", 16),
    ("angle_heun", 32), ("rk4", 8), ("rk4", 16), ("rk4", 32), ("rk4", 64), ("reversible", 8),
    ("reversible", 16),
]  # fmt: skip
# What the project set out to reach: (figure, evaluations at most, value at most).
TARGETS = [("round trip", 33, 1e-3), ("round trip", 128, 1e-5), ("latent", 64, 1e-3)]
PASSES = 3  # one way, that share a search for steps: inflation, round trip, generation
LEAST_FEWER = 10.0  # evaluations than the paper's, with no larger error of either kind


def measure(flow: Flow, u: torch.Tensor, exact: torch.Tensor, solver: str, steps: int) -> dict:
    """Evaluations one way, latent rmse (whitened) and round-trip rmse (whitened)."""
    T = flow.schedule.tmax
    times = ifs_times(steps, T / steps) if solver == PAPER[0] else None
    back = times[::-1] if times else None
    flow.evaluations = 0
    z, rows = flow.carry(u, 0.0, T, solver, steps, times=times)
    evaluations = flow.evaluations
    x = flow.integrate(rows, T, 0.0, solver, steps, times=back)
    return {
        "evaluations": evaluations,
        "latent": float((z - exact).square().mean().sqrt()),
        "round trip": float((x - u).square().mean().sqrt()),
    }


def line(name: str, figures: dict[tuple[str, int], dict]) -> Line:
    """The fewest evaluations that are as accurate as the paper's, both ways."""
    paper = figures[PAPER]
    kinds = ("latent", "round trip")
    good = {m: f for m, f in figures.items() if all(f[k] <= paper[k] for k in kinds)}
    (solver, steps), best = min(good.items(), key=lambda item: item[1]["evaluations"])
    return Line(
        f"{name}: evaluations for errors no larger than the paper's",
        f"{best['evaluations']} ({solver}-{steps})",
        f"Euler {paper['evaluations']} (latent {paper['latent']:.0e}, "
        f"round trip {paper['round trip']:.0e})",
        paper["evaluations"] / best["evaluations"],
        LEAST_FEWER,
    )


def with_search(flow: Flow, u: torch.Tensor, exact: torch.Tensor, paper: dict) -> dict:
    """What a script does without --steps: RK4 at the paper's error, the search on pilots counted.

    The search's evaluations of pilots are spread over all samples and the passes of a run.
    """
    tolerance = min(paper["latent"], paper["round trip"])
    pilots = u[: pilots_of(len(u))]
    flow.evaluations = 0
    steps, _ = flow.steps_for(pilots, flow.schedule.tmax, tolerance)
    search = flow.evaluations * len(pilots) / (len(u) * PASSES)
    found = measure(flow, u, exact, "rk4", steps)
    return found | {"steps": steps, "in all": found["evaluations"] + search}


def line_with_search(name: str, found: dict, paper: dict) -> Line:
    """Evaluations at the paper's error, the search for steps among them."""
    return Line(
        f"{name}: the same at --tol, its search on pilots counted",
        f"{found['in all']:.0f} (rk4-{found['steps']})",
        f"Euler {paper['evaluations']}",
        paper["evaluations"] / found["in all"],
        LEAST_FEWER,
    )


@click.command()
@quick_option
def main(quick: bool) -> None:
    """Measure and write the tables."""
    parts, verdicts, lines = [], [], []
    for name in NETWORKS[:QUICK] if quick else NETWORKS:
        flow, _ = trained(name)
        x = ToySource("circles_sharp").samples(0, 0, SAMPLES)
        u = flow.to_whitened(x, 0.0, "unscaled")
        exact = flow.integrate(u, 0.0, flow.schedule.tmax, "rk4", REFERENCE_STEPS)
        figures = {m: measure(flow, u, exact, *m) for m in METHODS}
        paper = figures[PAPER]
        searched = with_search(flow, u, exact, paper)
        lines += [line(name, figures), line_with_search(name, searched, paper)]
        whole = searched | {"evaluations": round(searched["in all"])}
        figures["rk4 at --tol, search counted", searched["steps"]] = whole
        rows = [
            (
                f"{solver}-{steps}",
                f["evaluations"],
                f"{f['latent']:.1e}",
                f"{f['round trip']:.1e}",
                f"{paper['evaluations'] / f['evaluations']:.1f}",
                f"{paper['latent'] / f['latent']:.2g}",
                f"{paper['round trip'] / f['round trip']:.2g}",
            )
            for (solver, steps), f in figures.items()
        ]
        header = ("method", "evals one way", "latent rmse", "round-trip rmse")
        ratios = ("evals: paper/ours", "latent: paper/ours", "round trip: paper/ours")
        parts.append(f"{name}\n" + aligned(header + ratios, rows))
        for figure, most, value in TARGETS:
            within = [
                f for m, f in figures.items() if f["evaluations"] <= most and m[0] != "reversible"
            ]
            best = min(f[figure] for f in within)
            verdicts.append((name, f"{figure} rmse at <= {most} evaluations", f"{value:.0e}",
                             f"{best:.1e}", "yes" if best <= value else "NO"))  # fmt: skip
        exactness = min(f["round trip"] for m, f in figures.items() if m[0] == "reversible")
        verdicts.append((name, "round trip rmse, reversible", "1e-12", f"{exactness:.1e}",
                         "yes" if exactness <= 1e-12 else "NO"))  # fmt: skip
    parts.append("Targets\n" + aligned(("network", "figure", "target", "reached", "met"), verdicts))
    title = (
        f"Integrators on trained circles_sharp networks ({SAMPLES} points, whitened units, errors "
        f"against RK4-{REFERENCE_STEPS})"
    )
    report("integrators", title, parts, lines, quick)


if __name__ == "__main__":
    main()
