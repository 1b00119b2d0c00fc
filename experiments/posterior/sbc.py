"""Simulation-based calibration of the posterior of the weights.

Weights are drawn from their prior, data from the weights, and posterior draws from the data, by
`quadrature`. Over many repetitions the rank of the true weight among its posterior draws is
uniform, if and only if model, flow table and sampler agree.

Reference: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based
calibration".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.options import McmcOptions
from experiments.posterior.posterior import (
    SWEEPS,
    Problem,
    gibbs_weights,
    simulate_data,
    start_weights,
)
from experiments.posterior.quadrature import Grid, likelihoods, resolution, tabulate, warnings_of
from experiments.posterior.uniformity import Calibration, assess
from torch_utils import seeding
from torch_utils.work import Parts, shared_rows

RANKS = 99  # posterior draws that a true weight is ranked among
APART = 4  # draws (of several sweeps each) from one of them to the next
BURN = 50


def calibrate(problem: Problem, options: McmcOptions, folder: Path | None = None) -> Calibration:
    """Ranks of true weights over simulated data sets, in a session; every rank must call this.

    Args:
        problem: without data, with a proper prior.
        options: `sims`, data sets to simulate, of `sim_n` data each; `grid`, `seed`.
        folder: keeps what is needed to go on after a kill.

    Returns:
        "ranks" [sets, K] in 0..RANKS, "weights", "posterior_mean", "posterior_sd" [sets, K].

    Raises:
        ValueError: if the prior is improper, or there are more than 2 dimensions.
    """
    if not bool((problem.concentration > 0).all()):
        raise ValueError(
            "calibration draws weights from their prior, so that must be proper: give "
            "--prior=dirichlet"
        )
    sets, n, seed = options.sims, options.sim_n, options.seed
    assert sets is not None
    grid = tabulate(problem, options.grid, folder)

    def work(rows: range) -> Tensor:
        return torch.stack([one_set(problem, grid, n, seed, j) for j in rows])

    parts = Parts(folder, {"sbc": n, "settings": options.settings(), "fz": grid.fz})
    found = shared_rows(work, sets, 1, "simulated data sets", parts).numpy()
    ranks, weights, mean, sd = (found[:, j] for j in range(4))
    apart, off = float(found[:, 4, 0].max()), int(found[:, 5, 0].sum())
    points = np.arange(1, RANKS + 1) / (RANKS + 1)
    tests = {f"w{k + 1}": assess(unit_ranks(r), points, seed) for k, r in enumerate(ranks.T)}
    error = (mean - weights) / sd
    summary = {
        "data_sets": sets,
        "data_of_each": n,
        "posterior_draws_of_each": RANKS,
        "ranks": tests,
        "mean_of_standardised_error": error.mean(0).tolist(),
        "sd_of_standardised_error": error.std(0).tolist(),
        "coarser_grid_differs_by_posterior_sds_at_most": apart,
        "data_off_the_grid": off,
        "warnings": warnings_of(options.grid, apart, off, sets * n),
    }
    arrays = {"weights": weights, "posterior_mean": mean, "posterior_sd": sd}
    return Calibration({"ranks": ranks.astype(int), **arrays}, tests, summary)


def unit_ranks(ranks: np.ndarray) -> np.ndarray:
    """Ranks in 0..RANKS as the middles of equal cells of (0, 1)."""
    return (ranks + 0.5) / (RANKS + 1)


def one_set(problem: Problem, grid: Grid, n: int, seed: int, number: int) -> Tensor:
    """One repetition: rank, truth, posterior mean and sd of each weight, grid checks; [6, K]."""
    own = seeding.integer(seed, "calibration", number)
    rng = np.random.default_rng(own)
    w = rng.dirichlet(problem.concentration.cpu().numpy())
    data, _ = simulate_data(problem, n, own, torch.from_numpy(w))
    log_like, coarse, off = likelihoods(data.x, grid, problem.noise_var)
    start, prior = start_weights(len(w), rng), problem.concentration
    draws = gibbs_weights(log_like, prior, RANKS * APART, BURN, rng, start, SWEEPS)
    rank = (draws[APART - 1 :: APART] < w).sum(0)
    apart = np.full(len(w), resolution(log_like, coarse, problem.concentration))
    outside = np.full(len(w), float(off.sum()))
    rows = [rank, w, draws.mean(0), draws.std(0), apart, outside]
    return torch.from_numpy(np.stack(rows).astype(float))
