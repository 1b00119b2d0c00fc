r"""The sampler `quadrature`: latents integrated out on a grid, weights by Gibbs.

The likelihood of a datum under a component is an integral over the latent,

    L_ik = p(x_i | k) = int N(x_i; f(z), noise_var I) N_k(z) dz,

here a sum over a regular grid on which f is tabulated once. What is left is the posterior of the
weights given L, which has K - 1 dimensions. Exact but for the grid's resolution, which is checked
against every second point; for at most 2 dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.chains import Chain, Facts, Sampler
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import (
    SWEEPS,
    Draws,
    Mixture,
    Problem,
    Truth,
    gibbs_weights,
    start_weights,
)
from torch_utils import distributed, seeding
from torch_utils.work import Parts, shared_rows

EXTENT = 5.0  # sds of the widest component that the grid reaches beyond the outermost means
ROWS = 200  # data whose likelihoods are computed together
CHUNK = 4096  # grid points at a time in matrix products
COARSE = 0.5  # posterior sds between the grid and every second point of it: a warning
REACH = 40.0  # as NEAR, of a datum that no point of the grid explains
NEAR = 36.0  # squared distance over noise variance beyond which a grid point does not matter
EM_STEPS = 5000
EM_SETTLED = 1e-9  # change of a weight in the last step


@dataclass(frozen=True)
class Grid:
    """f tabulated on a regular grid of latents.

    Attributes:
        z: points, scaled_es, [G, d].
        fz: f(z), [G, d].
        mass: N_k(z) times the volume of a cell, [G, K].
        coarse: the same for the grid of every second point, zero elsewhere, [G, K].
    """

    z: Tensor
    fz: Tensor
    mass: Tensor
    coarse: Tensor


def grid_points(mixture: Mixture, points: int) -> tuple[Tensor, float]:
    """A regular grid that covers the components, [points^d, d], and the volume of a cell.

    Raises:
        ValueError: for more than 2 dimensions.
    """
    d = mixture.means.shape[1]
    if d > 2:
        raise ValueError(
            f"quadrature tabulates the flow on a grid of at most 2 dimensions, these latents have "
            f"{d}: use the sampler flow"
        )
    widest = EXTENT * mixture.sds.max(0).values
    low, high = mixture.means.min(0).values - widest, mixture.means.max(0).values + widest
    axes = [torch.linspace(float(a), float(b), points) for a, b in zip(low, high, strict=True)]
    z = torch.cartesian_prod(*axes).reshape(-1, d).to(mixture.means)
    return z, float(((high - low) / (points - 1)).prod())


def tabulate(problem: Problem, points: int, folder: Path | None = None) -> Grid:
    """f on a grid of points^d latents; all processes share the work.

    Args:
        problem: its flow, mixture and integration.
        points: a dimension.
        folder: keeps finished blocks of the table, for a resumed run.
    """
    z, cell = grid_points(problem.mixture, points)

    def generate(rows: range) -> Tensor:
        return problem.generate(z[rows.start : rows.stop])

    parts = Parts(folder, {"of": z, "flow": problem.flow.model, "how": problem.how})
    fz = shared_rows(generate, len(z), problem.flow.block, "tabulating f", parts).to(z)
    mass = problem.mixture.log_components(z).exp() * cell
    every = torch.arange(points, device=z.device) % 2 == 0
    second = torch.cartesian_prod(*[every] * problem.dim).reshape(len(z), -1).all(1)
    return Grid(z, fz, mass, mass * second[:, None] * 2**problem.dim)


def likelihoods(x: Tensor, grid: Grid, noise_var: float) -> tuple[Tensor, Tensor, Tensor]:
    """log L_ik of data x [n, d] from a grid.

    Returns:
        log L [n, K], the same on the grid of every second point, and which data are off the grid,
        [n]: no point of it generates anything within `REACH`.
    """
    masses = torch.cat([grid.mass, grid.coarse], 1)
    masses = torch.cat([masses, torch.ones_like(masses[:, :1])], 1)
    total = x.new_zeros(len(x), masses.shape[1])
    for first in range(0, len(grid.fz), CHUNK):
        here = slice(first, first + CHUNK)
        square = torch.cdist(x, grid.fz[here], compute_mode="use_mm_for_euclid_dist").square_()
        total += square.mul_(-0.5 / noise_var).exp_() @ masses[here]
    K, d = grid.mass.shape[1], x.shape[1]
    log_like = total.clamp_min(1e-300).log() - d / 2 * math.log(2 * math.pi * noise_var)
    off = total[:, -1] < math.exp(-REACH / 2)
    return log_like[:, :K], log_like[:, K : 2 * K], off


def shared_likelihoods(problem: Problem, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """`likelihoods` of the problem's data, shared by all processes."""

    def work(rows: range) -> Tensor:
        fine, coarse, off = likelihoods(problem.x[rows.start : rows.stop], grid, problem.noise_var)
        return torch.cat([fine, coarse, off[:, None].to(fine)], 1)

    table, K = shared_rows(work, len(problem.x), ROWS, "likelihoods"), grid.mass.shape[1]
    return table[:, :K], table[:, K : 2 * K], table[:, -1] > 0


def warnings_of(points: int, apart: float, off: int, data: int, where: str = "") -> list[str]:
    """What a reader of results from a grid must know.

    Args:
        points: of the grid, a dimension.
        apart: `resolution`, posterior sds.
        off: data that are off the grid.
        data: of how many.
        where: the first of them.
    """
    lines = []
    if not apart <= COARSE:
        lines.append(
            f"--grid={points} is too coarse: with every second point of it the weights are "
            f"{apart:.2g} posterior sds off (over {COARSE:g}); use --grid={2 * points - 1}"
        )
    if off:
        lines.append(
            f"{off} of {data} data{where} lie off the grid: nothing that it generates comes within "
            f"{REACH**0.5:.1f} noise sds, so that their likelihood is a guess; use a larger --grid "
            "or --sampler=flow"
        )
    return lines


def most_likely(log_like: Tensor, concentration: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The most likely weights and the posterior's Gaussian covariance there.

    By expectation maximisation, with `concentration` as prior counts.

    Args:
        log_like: [n, K].
        concentration: [K].

    Returns:
        weights [K], covariance [K, K].
    """
    L = (log_like - log_like.max(1, keepdim=True).values).double().exp().cpu().numpy()
    counts = concentration.cpu().double().numpy()
    K = L.shape[1]
    w = np.full(K, 1 / K)
    for _ in range(EM_STEPS):
        share = L * w
        before, w = w, (share / share.sum(1, keepdims=True)).sum(0) + counts
        w = w / w.sum()
        if np.abs(w - before).max() < EM_SETTLED:
            break
    score = L / (L @ w)[:, None]  # [n, K]
    tangent = np.vstack([np.eye(K - 1), -np.ones(K - 1)])  # weights that keep their sum
    information = (score @ tangent).T @ (score @ tangent)
    prior = tangent.T @ np.diag(counts / np.maximum(w, 1e-12) ** 2) @ tangent
    return w, tangent @ np.linalg.pinv(information + prior) @ tangent.T


def resolution(fine: Tensor, coarse: Tensor, concentration: Tensor) -> float:
    """Largest difference of the weights between two log likelihoods [n, K], posterior sds."""
    w, covariance = most_likely(fine, concentration)
    other, _ = most_likely(coarse, concentration)
    sd = np.sqrt(np.maximum(covariance.diagonal(), 1e-300))
    return float(np.max(np.abs(w - other) / sd))


def draw_latents(
    problem: Problem, grid: Grid, weights: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Grid latents of every datum given weights.

    Args:
        problem: with data x [n, d].
        grid: of the latents.
        weights: [s, K].
        rng: random numbers.

    Returns:
        [s, n, d].
    """
    prior = (grid.mass @ torch.from_numpy(weights).to(grid.mass).T).cpu().numpy()  # [G, s]
    fz, z, x = (a.cpu().numpy() for a in (grid.fz, grid.z, problem.x))
    drawn = np.empty((len(weights), *x.shape))
    for i, datum in enumerate(x):
        misfit = ((fz - datum) ** 2).sum(1) / problem.noise_var
        near = np.flatnonzero(misfit < misfit.min() + NEAR)
        edges = np.cumsum(np.exp(-0.5 * misfit[near])[:, None] * prior[near], axis=0)  # [m, s]
        picks = (edges < rng.random(len(weights)) * edges[-1]).sum(0)
        drawn[:, i] = z[near[np.minimum(picks, len(near) - 1)]]
    return drawn


class State(NamedTuple):
    """A chain has none: it is one step."""


class QuadratureSampler(Sampler):
    """Weights, and latents of the grid, from the exact posterior; a chain is one step.

    Raises:
        ValueError: for more than 2 dimensions.
    """

    name, state = "quadrature", State

    def __init__(
        self, problem: Problem, truth: Truth, options: SamplerOptions, folder: Path | None = None
    ):
        super().__init__(problem, options, 1)
        before = problem.flow.evaluations
        self.grid = tabulate(problem, options.grid, folder)
        mine = len(distributed.share(len(self.grid.z), problem.flow.block))
        calls = (problem.flow.evaluations - before) / max(1, mine)  # for each point
        self.evaluations = round(calls * len(self.grid.z))
        self.log_like, self.coarse, self.off = shared_likelihoods(problem, self.grid)

    def step(self, state: State, number: int, chain: Chain) -> tuple[State, int, Facts]:
        """A whole chain."""
        problem, o = self.problem, self.options
        rng = seeding.generator(o.seed, "quadrature chain", chain.number)
        start = start_weights(chain.weights.shape[1], rng)
        w = gibbs_weights(
            self.log_like, problem.concentration, o.mcmc_n, o.burn, rng, start, SWEEPS
        )
        chain.draw(0, w, lambda draws: draw_latents(problem, self.grid, w[draws], rng))
        return state, o.burn + o.mcmc_n, {}

    def summary(self, found: dict[str, np.ndarray]) -> Draws:
        """The draws, with how well the grid serves."""
        apart = resolution(self.log_like, self.coarse, self.problem.concentration)
        outside = torch.nonzero(self.off).flatten().tolist()
        statistics = {
            "grid_points": len(self.grid.z),
            "coarser_grid_differs_by_posterior_sds": apart,
            "mass_on_grid": self.grid.mass.sum(0).tolist(),
            "data_off_the_grid": outside,
        }
        where = f" (the first: number {outside[0]})" if outside else ""
        warnings = warnings_of(self.options.grid, apart, len(outside), len(self.off), where)
        return Draws(
            found["weights"], statistics=statistics, evaluations=self.evaluations,
            warnings=warnings,
        )  # fmt: skip
