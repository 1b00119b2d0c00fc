"""Posterior sampling of the calibration experiments: samplers, diagnostics, files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dnnlib.results import Measured, enclosed
from dnnlib.util import Json, atomic_path, write_json
from experiments.posterior.chains import Build, draw
from experiments.posterior.flow_sampler import FlowSampler
from experiments.posterior.hamiltorch_sampler import HamiltorchSampler
from experiments.posterior.nuts_sampler import NutsSampler
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import Draws, Problem, Truth
from experiments.posterior.quadrature import QuadratureSampler
from flow.inference.diagnostics import arviz, inference_data
from torch_utils import distributed
from torch_utils.work import STATE

SAMPLERS: dict[str, Build] = {
    "flow": FlowSampler,
    "quadrature": QuadratureSampler,
    "nuts": NutsSampler,
    "hamiltorch": HamiltorchSampler,
}
TRAJECTORIES = "trajs_outdir"
INTERVAL = (0.025, 0.975)  # quantiles of the credible intervals
TAILS = (0.05, 0.95)  # quantiles whose effective sizes are those of the tails


def run(
    name: str, problem: Problem, truth: Truth, options: SamplerOptions, folder: Path | None = None
) -> tuple[Draws, Json]:
    """Draw with a named sampler, in a session; every rank must call this.

    Args:
        name: of `SAMPLERS`.
        problem: with data.
        truth: what the data were simulated from.
        options: of the sampler.
        folder: where to leave the draws, and what is needed to go on after a kill; None for
            nowhere.

    Returns:
        on rank 0 the draws and a report of plain values; elsewhere no draws and no report.

    Raises:
        ValueError: what the sampler has to say about its options or its checkpoint.
    """
    arviz()
    hidden = None if distributed.is_main() else True
    with tqdm(total=options.burn + options.mcmc_n, desc=name, unit="draw", disable=hidden) as bar:

        def progress(done: int, facts: dict[str, str]) -> None:
            bar.set_postfix(facts, refresh=False)
            bar.update(done - bar.n)

        state = folder / STATE if folder is not None else None
        draws = draw(SAMPLERS[name], problem, truth, options, state, progress)
    if not distributed.is_main():
        return draws, {}
    if folder is not None:  # before anything that may fail
        save_draws(folder, draws)
    return draws, report(draws, truth)


def report(draws: Draws, truth: Truth) -> Json:
    """Posterior of the weights, its diagnostics and its cost, as plain values."""
    found = diagnose(draws.weights)
    least = min(found["ess_bulk"])
    counts = np.bincount(truth.components.cpu().numpy(), minlength=len(truth.weights))
    return {
        "truth": truth.weights.tolist(),
        "share_of_components_in_data": (counts / counts.sum()).tolist(),
        **found,
        "evaluations": draws.evaluations,
        "seconds": draws.seconds,
        "evaluations_per_effective_draw": draws.evaluations / least if least else None,
        "seconds_per_effective_draw": draws.seconds / least if least else None,
        "statistics": draws.statistics,
    }


def diagnose(weights: np.ndarray) -> Json:
    """Means, sds, intervals and what they are worth, of draws [chains, draws, K].

    A single chain is cut into two halves, as R-hat compares chains. One that never moves leaves no
    effective draws, of which arviz counts all. The Monte Carlo error is the
    larger of arviz's, from autocorrelations, and that of the chains' means from each other: the
    first overlooks a part of the state that hardly moves within a chain, such as candidates of
    `flow` that are seldom renewed.
    """
    az = arviz()
    chains = weights
    if len(weights) == 1:
        half = weights.shape[1] // 2
        chains = np.stack([weights[0, :half], weights[0, half : 2 * half]])
    columns = [chains[..., k] for k in range(chains.shape[2])]
    within = [float(az.mcse(c, method="mean")) for c in columns]
    between = chains.mean(1).std(0, ddof=1) / np.sqrt(len(chains))  # [K]
    with np.errstate(invalid="ignore", divide="ignore"):  # of chains that never move
        r_hat = [float(az.rhat(c)) for c in columns]
    moving = (np.ptp(chains, axis=1) > 0).all(0)  # [K]

    def effective(kind: str) -> list[float]:
        prob = TAILS if kind == "tail" else None  # which arviz 1 wants to be told
        sizes = [float(az.ess(c, method=kind, prob=prob)) for c in columns]
        return [size if moves else 0.0 for size, moves in zip(sizes, moving, strict=True)]

    return {
        "mean": weights.mean((0, 1)).tolist(),
        "sd": weights.std((0, 1), ddof=1).tolist(),
        "interval_95": np.quantile(weights, INTERVAL, axis=(0, 1)).T.tolist(),
        "r_hat": r_hat,
        "ess_bulk": effective("bulk"),
        "ess_tail": effective("tail"),
        "mcse_mean": np.maximum(within, between).tolist(),
        "mcse_mean_within_chains": within,
    }


def warnings_of(draws: Draws, found: Json, largest_r_hat: float, least_ess: float) -> list[str]:
    """What a reader of the results must know: chains that disagree, or lost a component."""
    lines = list(draws.warnings)
    worst = float(np.max(found["r_hat"]))
    if np.isnan(worst):
        lines.append("R-hat is not a number: a chain never moves, these are no draws")
    elif worst > largest_r_hat:
        lines.append(f"R-hat {worst:.3f} is over {largest_r_hat}: run longer chains")
    for kind in ("bulk", "tail"):
        if (least := min(found[f"ess_{kind}"])) < least_ess:
            lines.append(f"{kind} ESS {least:.0f} is under {least_ess}: draw more")
    if bool((draws.weights == 0).any()):
        lines.append(
            "a weight has reached zero, from where this prior, flat in the logits, never lets it "
            "return; use --prior=dirichlet"
        )
    return lines


def save_draws(folder: Path, draws: Draws) -> None:
    """Write the published files of all chains' draws."""
    with atomic_path(folder / "sampled_weights.npz") as path:
        np.savez(path, weights=draws.weights)
    if draws.z is not None:
        with atomic_path(folder / "sampled_zs.npz") as path:
            np.savez(path, zs=draws.z.astype(np.float32))
    if draws.trajectories is not None:
        save_trajectories(folder / TRAJECTORIES, draws)


def save(folder: Path, draws: Draws, summary: Json) -> None:
    """Write the summary, plain values, and what arviz reads, beside what `run` has written."""
    figures = [
        Measured(f"w{k + 1}", mean, error=error, yardstick=true, source="truth of the simulation")
        for k, (mean, error, true) in enumerate(
            zip(summary["mean"], summary["mcse_mean"], summary["truth"], strict=True)
        )
    ]
    content = enclosed(summary, "Posterior of the weights", figures, kind="Posteriors")
    write_json(folder / "summary.json", content)
    with atomic_path(folder / "posterior.nc") as path:
        arviz_of(draws.weights).to_netcdf(str(path))


def save_trajectories(folder: Path, draws: Draws) -> None:
    """One file a step, numbered from 0: logits and latents of all chains, [chains, K + n d].

    Steps of one trajectory follow each other; trajectories in burn-in come first.
    """
    assert draws.trajectories is not None
    chains, number, steps, _ = draws.trajectories.shape
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for k, states in enumerate(
        draws.trajectories.reshape(chains, number * steps, -1).swapaxes(0, 1)
    ):
        with atomic_path(folder / f"curr_params_{k:02d}.npz") as path:
            np.savez(
                path,
                curr_params=states,
                components=draws.weights.shape[2],
                trajectory=k // steps,
                step=k % steps,
            )


def arviz_of(weights: np.ndarray) -> Any:
    """Draws [chains, draws, K] as arviz wants them."""
    names = {"component": [f"w{k + 1}" for k in range(weights.shape[2])]}
    return inference_data({"weights": weights}, coords=names, dims={"weights": ["component"]})
