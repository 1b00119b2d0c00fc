"""The experiments of toy_MCMC_exps.py: what each computes, writes, prints and draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dnnlib.results import enclosed
from dnnlib.util import Json, atomic_path, format_time, write_json
from experiments.posterior import mcmc
from experiments.posterior import plots as posterior_plots
from experiments.posterior.options import McmcOptions
from experiments.posterior.posterior import Problem, simulate_data
from experiments.posterior.sbc import calibrate
from experiments.posterior.tarp import expected_coverage
from torch_utils import distributed
from torch_utils.work import STATE

CONVERGED = 1.01  # largest R-hat that passes without a warning
LEAST_ESS = 400


def weights(problem: Problem, options: McmcOptions, summary: Json, folder: Path) -> None:
    """The posterior of the weights of one simulated data set.

    Raises:
        ValueError: after all is written, if the draws are not of the posterior.
    """
    problem, truth = simulate_data(problem, options.gt_n, options.seed)
    draws, report = mcmc.run(options.sampler, problem, truth, options, folder)
    if not distributed.is_main():
        return
    warnings = mcmc.warnings_of(draws, report, CONVERGED, LEAST_ESS)
    summary |= {"settings": options.settings(), "prior": options.prior, **report}
    summary["warnings"] = [*warnings, *([draws.fatal] if draws.fatal else [])]
    mcmc.save(folder, draws, summary)
    print(table(report))
    for warning in warnings:
        print(f"Warning: {warning}")
    if options.plot:
        title = f"{problem.flow.schedule.name}, {options.gt_n} data, {options.sampler}"
        posterior_plots.posterior(folder / "posterior.png", draws.weights, report, title)
        posterior_plots.traces(folder / "traces.png", draws.weights, report["truth"], title)
    if draws.fatal:
        raise ValueError(f"{draws.fatal}. What was drawn is in {folder}")


def table(report: Json) -> str:
    """The posterior and its diagnostics as text."""
    lines = ["      truth    mean     sd       95 %             MC error  R-hat   bulk, tail ESS"]
    for k, true in enumerate(report["truth"]):
        low, high = report["interval_95"][k]
        lines.append(
            f"w{k + 1}    {true:.4f}   {report['mean'][k]:.4f}   {report['sd'][k]:.4f}   "
            f"{low:.4f}, {high:.4f}   {report['mcse_mean'][k]:.1e}   {report['r_hat'][k]:.4f}  "
            f"{report['ess_bulk'][k]:.0f}, {report['ess_tail'][k]:.0f}"
        )
    cost = f"{report['evaluations']:,} network evaluations, {format_time(report['seconds'])}"
    return "\n".join([*lines, cost])


def calibration(problem: Problem, options: McmcOptions, summary: Json, folder: Path) -> None:
    """Self-consistency: ranks of simulated weights, or expected coverage of latent posteriors."""
    name = options.experiment
    check = {"sbc": calibrate, "tarp": expected_coverage}[name]
    found = check(problem, options, folder / STATE)
    if not distributed.is_main():
        return
    with atomic_path(folder / f"{name}.npz") as path:
        np.savez(path, **found.arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own argument
    title = f"{problem.flow.schedule.name}: {name}"
    content = enclosed(summary | {"results": found.summary}, title, kind="Self-consistency")
    write_json(folder / f"{name}.json", content)
    for what, tests in found.tests.items():
        chi = f"chi-square p {tests['chi_square_p']:.3f}, " if name == "sbc" else ""
        print(f"Self-consistency, {what}: {chi}{verdict(tests)}")
    for warning in found.summary.get("warnings", []):
        print(f"Warning: {warning}")
    if options.plot:
        path, schedule = folder / f"{name}.png", problem.flow.schedule.name
        if name == "sbc":
            title = f"{schedule}: ranks in {options.sims} simulated data sets"
            posterior_plots.ranks(path, found.arrays["ranks"], title, options.seed)
        else:
            title = f"{schedule}: expected coverage of {options.sims} latents"
            posterior_plots.coverage(path, found.arrays, title, options.seed)


def verdict(tests: Json) -> str:
    """What the tests of uniformity found, as text."""
    return (
        f"Kolmogorov-Smirnov p {tests['kolmogorov_smirnov_p']:.3f}, "
        f"{tests['share_of_ecdf_outside_band']:.0%} of the ECDF outside its 95 % band"
    )
