r"""Expected coverage of latent posteriors that are carried from data (TARP).

A datum x = f(z) + noise with z ~ N(0, I) is turned into a posterior of its latent by carrying the
ball x' ~ N(x, noise_var I) to z' = f^-1(x'). Taken as it is, that is the posterior under a flat
prior of the noiseless datum; with importance weights N(z'; 0, I) |det df^-1/dx'| it is that under
the flow's own prior, from which the truth came. For a random point r, the credibility of the truth
is the posterior's mass nearer to r than the truth is. Over many data it is uniform if the
posterior is right: the share of credibilities below a equals a for every a.

Reference: Lemos et al. 2023, "Sampling-based accuracy testing of posterior estimators".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.options import McmcOptions
from experiments.posterior.posterior import Problem
from experiments.posterior.uniformity import Calibration, assess
from flow.likelihood import log_normal
from torch_utils import seeding
from torch_utils.work import Parts, shared_rows

BOX = 3.0  # half-width of the box of reference points, whitened latents
POINTS = 2048  # carried together
POSTERIORS = ("exact", "flat")
LEVELS = np.linspace(0.0, 1.0, 101)[1:-1]


def expected_coverage(
    problem: Problem, options: McmcOptions, folder: Path | None = None
) -> Calibration:
    """Credibilities of true latents, in a session; every rank must call this.

    Args:
        problem: its flow, noise and integration; data and mixture are not used.
        options: `sims`, latents to simulate; `proposals`, draws of each posterior; `seed`.
        folder: keeps what is needed to go on after a kill.

    Returns:
        credibilities "exact", weighted, and "flat", unweighted, [n] each.
    """
    n, draws, seed = options.sims, options.proposals, options.seed
    assert n is not None

    def work(rows: range) -> Tensor:
        return credibilities(problem, rows, draws, seed)

    identity = {"tarp": n, "settings": options.settings(), "flow": problem.flow.model}
    identity |= {"noise_var": problem.noise_var, "how": problem.how}
    block, parts = max(1, POINTS // draws), Parts(folder, identity)
    found = shared_rows(work, n, block, "latent posteriors", parts).numpy()
    credibility = {name: found[:, j] for j, name in enumerate(POSTERIORS)}
    tests = {name: assess(c, LEVELS, seed) for name, c in credibility.items()}
    effective = found[:, 2]
    summary = {
        "latents": n,
        "draws_of_each": draws,
        "noise_var": problem.noise_var,
        "effective_draws": {"min": float(effective.min()), "median": float(np.median(effective))},
        **tests,
    }
    return Calibration(credibility, tests, summary)


def credibilities(problem: Problem, rows: range, draws: int, seed: int) -> Tensor:
    """Of latents `rows`: weighted and unweighted credibility, effective draws, [len(rows), 3]."""
    flow, d = problem.flow, problem.dim
    T = flow.ends(**problem.how)[1]
    first, last = rows.start, rows.stop
    truth = flow.latents(len(rows), seed, start=first)  # whitened, [n, d]
    noise = seeding.normals(seed, "observation", first, last, d)
    ball = seeding.normals(seed, "ball", first * draws, last * draws, d)
    sd = problem.noise_var**0.5
    x = problem.generate(flow.from_whitened(truth, T, "scaled_es"))
    x = x + sd * torch.from_numpy(noise).to(x)
    near = x.repeat_interleave(draws, 0) + sd * torch.from_numpy(ball).to(x)
    z, log_det = problem.inflate(near)
    u = flow.to_whitened(z, T, "scaled_es").reshape(len(rows), draws, d)
    log_weight = (log_normal(u.reshape(-1, d)) + log_det).reshape(len(rows), draws)
    lost = ~(torch.isfinite(log_weight) & torch.isfinite(u).all(2))
    weight = torch.softmax(log_weight.masked_fill(lost, -torch.inf), 1)
    reference = seeding.rows(
        lambda m, rng: rng.uniform(-BOX, BOX, (m, d)), seed, "reference", first, last
    )
    r = torch.from_numpy(reference).to(u)
    nearer = (u - r[:, None]).norm(dim=2) < (truth - r).norm(dim=1)[:, None]
    nearer = (nearer & ~lost).to(u)
    return torch.stack([(weight * nearer).sum(1), nearer.mean(1), 1 / weight.square().sum(1)], 1)
