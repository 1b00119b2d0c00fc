"""Samplers of the calibration experiment beside the exact posterior, and what a draw of each costs.

`flow` and `quadrature` share nothing but the flow: one weighs draws of the posteriors of the data
one by one, the other tabulates the latents. Where both are run, the difference of their means is
given in posterior sds and in Monte Carlo standard errors of the two.

python -m benchmarks.mcmc [--data=2000] [--data=500] [--data=50] [--quick]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import numpy as np

from benchmarks.common import Line, quick_option, report, trained
from dnnlib.util import aligned
from experiments.posterior import mcmc
from experiments.posterior.nuts_sampler import tree_depth
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import paper_problem, simulate_data
from flow.flow import Flow
from flow.method import angle_method
from torch_utils import distributed

NETWORKS = ("PRP", "PRR to 1-D, rescaled")
TOLERANCE = 5e-3  # the script's default
SEED = 123
# Data -> samplers with what is not a default; the prior is Dirichlet(1).
RUNS: dict[int, dict[str, SamplerOptions]] = {
    2000: {"quadrature": SamplerOptions(), "flow": SamplerOptions()},
    50: {
        "quadrature": SamplerOptions(),
        "flow": SamplerOptions(refresh=5.0),
        "nuts": SamplerOptions(mcmc_n=60, burn=40, chains=2),
    },
}
EXACT = "quadrature"
# One network, with fewer data and draws.
QUICK: dict[int, dict[str, SamplerOptions]] = {
    500: {"quadrature": SamplerOptions(), "flow": SamplerOptions()},
    50: {
        "quadrature": SamplerOptions(),
        "flow": RUNS[50]["flow"],
        "nuts": SamplerOptions(mcmc_n=60, burn=40, chains=2),
    },
}
# What the project set out to reach, for `flow` at 2,000 data.
MOST_ERRORS, MOST_SDS, MOST_R_HAT, LEAST_ESS, MOST_SECONDS = 3.0, 0.25, 1.01, 400.0, 600.0


def runs(flow: Flow, n: int, samplers: dict[str, SamplerOptions]) -> dict[str, dict[str, Any]]:
    """Reports of some samplers on n data."""
    pilot = flow.integrate(flow.latents(256, SEED), flow.schedule.tmax, 0.0)
    method = angle_method(flow, lambda: pilot, None, None, TOLERANCE)
    problem = paper_problem(flow, how=method.how())
    problem, truth = simulate_data(problem, n, SEED)
    return {
        name: mcmc.run(name, problem, truth, replace(settings, seed=SEED, keep_z=0))[1]
        for name, settings in samplers.items()
    }


def differences(found: dict[str, Any], exact: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Of the means, in posterior sds and in Monte Carlo standard errors of the two, [K] each."""
    d = np.abs(np.array(found["mean"]) - exact["mean"])
    return d / exact["sd"], d / np.hypot(found["mcse_mean"], exact["mcse_mean"])


def row(n: int, name: str, found: dict[str, Any], exact: dict[str, Any]) -> tuple:
    """One line of the table."""
    sds, errors = differences(found, exact)
    beside = ("", "") if name == EXACT else (f"{sds.max():.3f}", f"{errors.max():.1f}")
    return (
        n, name,
        ", ".join(f"{m:.4f}" for m in found["mean"]),
        ", ".join(f"{s:.4f}" for s in found["sd"]),
        *beside,
        f"{max(found['r_hat']):.4f}", f"{min(found['ess_bulk']):.0f}",
        f"{found['evaluations_per_effective_draw']:,.0f}",
        f"{found['seconds']:.0f}", f"{found['seconds_per_effective_draw']:.3g}",
    )  # fmt: skip


def verdicts(name: str, found: dict[str, Any], exact: dict[str, Any]) -> list[tuple]:
    """What was to be reached, and whether it was."""
    sds, errors = differences(found, exact)
    rows = [
        ("difference, posterior sds", MOST_SDS, sds.max(), sds.max() <= MOST_SDS),
        ("difference, Monte Carlo errors", MOST_ERRORS, errors.max(), errors.max() <= MOST_ERRORS),
        ("R-hat", MOST_R_HAT, max(found["r_hat"]), max(found["r_hat"]) <= MOST_R_HAT),
        ("bulk ESS", LEAST_ESS, min(found["ess_bulk"]), min(found["ess_bulk"]) >= LEAST_ESS),
        ("seconds", MOST_SECONDS, found["seconds"], found["seconds"] <= MOST_SECONDS),
    ]
    return [
        (name, what, f"{goal:g}", f"{v:.4g}", "yes" if met else "NO") for what, goal, v, met in rows
    ]


def lines_of(network: str, n: int, found: dict[str, dict[str, Any]]) -> list[Line]:
    """What `flow` comes down to: its distance from the exact posterior, its cost beside `nuts`."""
    if "flow" not in found:
        return []
    sds, _ = differences(found["flow"], found[EXACT])
    lines = [
        Line(f"{network}, {n} data: posterior means apart, sds", f"{sds.max():.3f}",
             f"bound {MOST_SDS:g}, from exact quadrature", MOST_SDS / float(sds.max()), 1.0)
    ]  # fmt: skip
    if "nuts" in found:
        ours, theirs = (found[k]["seconds_per_effective_draw"] for k in ("flow", "nuts"))
        r_hat = max(found["nuts"]["r_hat"])
        cap = tree_depth(SamplerOptions().traj_length)
        yardstick = f"joint NUTS of depth {cap} {theirs:.3g} (R-hat {r_hat:.2f})"
        what = f"{network}, {n} data: s an effective draw"
        lines.append(Line(what, f"{ours:.3g}", yardstick, theirs / ours))
    return lines


@click.command()
@click.option("--data", type=click.Choice([str(n) for n in RUNS]), multiple=True,
              help="sizes of the data set  [all]")  # fmt: skip
@quick_option
def main(data: tuple[str, ...], quick: bool) -> None:
    """Measure and write the tables."""
    parts, checks, lines = [], [], []
    plan = QUICK if quick else RUNS
    with distributed.session("cpu"):
        for network in NETWORKS[:1] if quick else NETWORKS:
            flow, _ = trained(network)
            rows = []
            for n in [n for n in plan if not data or str(n) in data]:
                found = runs(flow, n, plan[n])
                rows += [row(n, name, r, found[EXACT]) for name, r in found.items()]
                lines += lines_of(network, n, found)
                if n == 2000:
                    checks += verdicts(network, found["flow"], found[EXACT])
            header = (
                "n", "sampler", "means", "sds", "difference, sds", "MC errors", "R-hat",
                "bulk ESS", "evaluations/draw", "seconds", "seconds/draw",
            )  # fmt: skip
            parts.append(f"{network}\n" + aligned(header, rows))
    if checks:
        goals = ("network", "flow beside quadrature, 2000 data", "goal", "reached", "met")
        parts.append(aligned(goals, checks))
    parts.append(
        "Costs are of one effective draw, by the smallest bulk ESS of the three weights.\n"
        "Evaluations are of the network for one sample; derivatives (nuts: of the energy) are not\n"
        "counted, but take their time.\n"
        f"Trees of nuts are of depth {tree_depth(SamplerOptions().traj_length)} at most, and with "
        "R-hat above 1.01 it has not mixed: then its cost is no more than a lower bound."
    )
    title = "Posterior of the weights of circles mixtures, noise variance .01"
    report("mcmc", title, parts, lines, quick)


if __name__ == "__main__":
    main()
