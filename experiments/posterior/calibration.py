"""The experiments of toy_MCMC_exps.py: what each computes, writes, prints and draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.util import atomic_path, format_time, write_json
from experiments.posterior import mcmc
from experiments.posterior import plots as posterior_plots
from experiments.posterior.mcmc import STATE, Settings
from experiments.posterior.options import McmcOptions
from experiments.posterior.posterior import Problem, simulate_data
from experiments.posterior.sbc import calibrate
from experiments.posterior.tarp import expected_coverage
from torch_utils import distributed

CONVERGED = 1.01  # largest R-hat that passes without a warning
LEAST_ESS = 400


def settings_of(options: McmcOptions) -> Settings:
    """What the samplers are told."""
    return Settings(
        seed=options.seed,
        chains=options.chains,
        draws=options.mcmc_n,
        burn=options.burn,
        thin=options.thin,
        step_size=options.step_size,
        traj_length=options.traj_length,
        accept=options.acpt,
        proposals=options.proposals,
        grid=options.grid,
        keep_z=options.keep_z,
        refresh=options.refresh,
    )


def weights(problem: Problem, options: McmcOptions, summary: dict[str, Any], folder: Path) -> None:
    """The posterior of the weights of one simulated data set.

    Raises:
        ValueError: after all is written, if the draws are not of the posterior.
    """
    settings = settings_of(options)
    problem, truth = simulate_data(problem, options.gt_n, options.seed)
    draws, report = mcmc.run(options.sampler, problem, truth, settings, folder)
    if not distributed.is_main():
        return
    warnings = mcmc.warnings_of(draws, report, CONVERGED, LEAST_ESS)
    summary |= {"settings": settings.plain(), "prior": options.prior, **report}
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


def table(report: dict[str, Any]) -> str:
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


def sbc(problem: Problem, options: McmcOptions, summary: dict[str, Any], folder: Path) -> None:
    """Simulation-based calibration of the posterior of the weights."""
    settings = replace(settings_of(options), checkpoint=folder / STATE)
    found = calibrate(problem, options.sims, options.sim_n, settings)
    if not distributed.is_main():
        return
    arrays = {k: v for k, v in found.items() if k != "summary"}
    with atomic_path(folder / "sbc.npz") as path:
        np.savez(path, **arrays)
    write_json(folder / "sbc.json", summary | {"results": found["summary"]})
    for name, tests in found["summary"]["ranks"].items():
        print(f"{name}: chi-square p {tests['chi_square_p']:.3f}, {verdict(tests)}")
    for warning in found["summary"]["warnings"]:
        print(f"Warning: {warning}")
    if options.plot:
        title = f"{problem.flow.schedule.name}: ranks in {options.sims} simulated data sets"
        posterior_plots.ranks(folder / "sbc.png", found["ranks"], title, options.seed)


def tarp(problem: Problem, options: McmcOptions, summary: dict[str, Any], folder: Path) -> None:
    """Expected coverage of latent posteriors."""
    settings = replace(settings_of(options), checkpoint=folder / STATE)
    found = expected_coverage(problem, options.sims, settings)
    if not distributed.is_main():
        return
    with atomic_path(folder / "tarp.npz") as path:
        np.savez(path, **found["credibility"])
    write_json(folder / "tarp.json", summary | {"results": found["summary"]})
    for name in found["credibility"]:
        print(f"{name}: {verdict(found['summary'][name])}")
    if options.plot:
        title = f"{problem.flow.schedule.name}: expected coverage of {options.sims} latents"
        path = folder / "tarp.png"
        posterior_plots.coverage(path, found["credibility"], title, options.seed)


def verdict(tests: dict[str, Any]) -> str:
    """What the tests of uniformity found, as text."""
    return (
        f"Kolmogorov-Smirnov p {tests['kolmogorov_smirnov_p']:.3f}, "
        f"{tests['share_of_ecdf_outside_band']:.0%} of the ECDF outside its 95 % band"
    )
