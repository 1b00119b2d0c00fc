r"""The inference problem of the calibration experiments: mixture weights seen through a flow.

    w ~ prior;   k_i ~ w;   z_i ~ N_k = N(mean_k, diag sd_k^2);   x_i ~ N(f(z_i), noise_var I)

z are latents and x data, both in the paper's scaled eigenbasis coordinates, and f is the flow's
generation. Given are x; wanted is the posterior of the weights w, with the latents z as nuisance.

Reference: Inflationary Flows, appendix B.7.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flow.arguments import How
from flow.flow import Flow
from flow.likelihood import inflate_with_volume
from torch_utils import seeding

WEIGHTS = (0.5, 0.25, 0.25)
MEANS = (0.0, -0.05, 0.05)  # of the components, along the first dimension
WIDE, NARROW, COMMON = 1.0, 0.1, 0.75  # sds of the components, in units of the latent sd
SWEEPS = 5  # Gibbs sweeps for each draw that is kept; they are cheap and correlated


@dataclass(frozen=True)
class Mixture:
    """The components N_k of the latents' prior.

    Attributes:
        means: [K, d], scaled eigenbasis coordinates.
        sds: [K, d].
    """

    means: Tensor
    sds: Tensor

    def log_components(self, z: Tensor) -> Tensor:
        """log N_k(z), [n, K], for latents z [n, d]."""
        v = (z[:, None] - self.means) / self.sds
        constant = self.sds.log().sum(1) + self.means.shape[1] / 2 * np.log(2 * np.pi)
        return -0.5 * v.square().sum(2) - constant

    def log_prob(self, z: Tensor, log_weights: Tensor) -> Tensor:
        """log sum_k w_k N_k(z), [n], for log weights [K] or [n, K]."""
        return torch.logsumexp(self.log_components(z) + log_weights, 1)


def paper_mixture(variances: Tensor) -> Mixture:
    """The three components of appendix B.7: one round, one thin in each of two directions.

    Args:
        variances: of the latents, [d]: 1 for kept dimensions, eps for compressed ones. Beyond the
            second dimension, which the paper does not have, the thin components are wide.
    """
    sd = variances.sqrt()
    d = len(sd)
    means, sds = sd.new_zeros(3, d), sd.new_full((3, d), WIDE)
    means[:, 0] = means.new_tensor(MEANS)
    sds[0] = COMMON
    sds[1, 0] = NARROW
    sds[2, min(1, d - 1)] = NARROW
    return Mixture(means, sds * sd)


@dataclass(frozen=True)
class Problem:
    """One data set and the model that it comes from.

    Attributes:
        flow: f and its inverse.
        mixture: components of the latents' prior.
        noise_var: variance of the observation noise.
        concentration: of the Dirichlet prior on the weights, [K]. Zero is the paper's improper
            prior: flat in the logits.
        x: data, [n, d]; empty until simulated.
        how: solver, steps, ... of every integration.
    """

    flow: Flow
    mixture: Mixture
    noise_var: float
    concentration: Tensor
    x: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    how: How = field(default_factory=How)

    @property
    def dim(self) -> int:
        """Dimensions of a latent and of a datum, d."""
        return self.mixture.means.shape[1]

    def generate(self, z: Tensor, differentiable: bool = False) -> Tensor:
        """f(z): latents to data, both scaled_es, [n, d]; differentiable on request."""
        t0, T = self.flow.ends(**self.how)
        u = self.flow.to_whitened(z, T, "scaled_es")
        blocks = u.split(self.flow.block)
        how: How = {**self.how, "differentiable": differentiable}
        u = torch.cat([self.flow.integrate(b, T, t0, **how) for b in blocks])
        return self.flow.from_whitened(u, t0, "scaled_es")

    def inflate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f^-1(x) and log |det df^-1/dx|: data [n, d] to latents [n, d] and [n]."""
        t0, T = self.flow.ends(**self.how)
        u = self.flow.to_whitened(x, t0, "scaled_es")
        inflated = inflate_with_volume(self.flow, u, **self.how)
        z = self.flow.from_whitened(inflated.u, T, "scaled_es")
        volume = self.flow.log_volume(T, "scaled_es") - self.flow.log_volume(t0, "scaled_es")
        return z, inflated.log_det + volume

    def log_likelihood(self, x: Tensor, fz: Tensor) -> Tensor:
        """log N(x; f(z), noise_var I), [n], given f(z) [n, d]."""
        constant = self.dim / 2 * np.log(2 * np.pi * self.noise_var)
        return -0.5 * (x - fz).square().sum(1) / self.noise_var - constant


def paper_problem(
    flow: Flow,
    noise_var: float = 1e-2,
    eps: float | None = None,
    proper: bool = True,
    how: How | None = None,
) -> Problem:
    """The problem of appendix B.7 for a flow, without data.

    Args:
        flow: the flow.
        noise_var: variance of the observation noise.
        eps: latent variance of compressed dimensions; None for the schedule's own.
        proper: Dirichlet(1) prior on the weights, or the paper's improper one.
        how: solver, steps, ... of every integration.
    """
    variances = flow.schedule.latent_variance().double().clone()
    keep = flow.schedule.dims_to_keep
    variances[:keep] = flow.schedule.A0**2
    if eps is not None:
        variances[keep:] = eps
    mixture = paper_mixture(variances.to(flow.device, flow.dtype))
    concentration = mixture.means.new_full((len(mixture.means),), float(proper))
    return Problem(flow, mixture, noise_var, concentration, how=how or How())


@dataclass
class Truth:
    """What a data set was simulated from: weights [K], component of each datum [n], z [n, d]."""

    weights: Tensor
    components: Tensor
    z: Tensor


def simulate_data(
    problem: Problem, n: int, seed: int, weights: Tensor | None = None
) -> tuple[Problem, Truth]:
    """Draw latents, generate and add noise.

    Args:
        problem: the model.
        n: data to draw.
        seed: of components, latents and noise; datum i is the same whatever n is.
        weights: true weights, [K]; None for the paper's.

    Returns:
        the problem with its data, and what they came from.
    """
    d, mixture = problem.dim, problem.mixture
    w = mixture.means.new_tensor(WEIGHTS) if weights is None else weights.to(mixture.means)
    uniform = seeding.rows(lambda m, rng: rng.random((m, 1)), seed, "components", 0, n)[:, 0]
    edges = w.cumsum(0)[:-1].contiguous()
    k = torch.bucketize(torch.from_numpy(uniform).to(edges), edges, right=True)
    normal = torch.from_numpy(seeding.normals(seed, "mixture", 0, n, d)).to(w)
    noise = torch.from_numpy(seeding.normals(seed, "noise", 0, n, d)).to(w)
    z = mixture.means[k] + mixture.sds[k] * normal
    x = problem.generate(z) + problem.noise_var**0.5 * noise
    return replace(problem, x=x), Truth(w, k, z)


@dataclass
class Draws:
    """What a sampler returns.

    Attributes:
        weights: posterior draws of the weights after burn-in, [chains, draws, K].
        z: draws of the latents, [chains, kept draws, n, d] or None; thinned to stay small.
        trajectories: states of a gradient sampler within its steps, or None.
        statistics: name -> value for the results: acceptance, step sizes, effective sizes, ...
        evaluations: network evaluations, of one sample each.
        seconds: wall time of sampling.
        warnings: what a reader of the results must know, one line each.
        fatal: one line if the draws are not of the posterior; the results are kept, as evidence.
    """

    weights: np.ndarray
    z: np.ndarray | None = None
    trajectories: np.ndarray | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    fatal: str = ""


def gibbs_weights(
    log_like: Tensor,
    concentration: Tensor,
    draws: int,
    burn: int,
    generator: np.random.Generator,
    start: np.ndarray | None = None,
    sweeps: int = 1,
) -> np.ndarray:
    """Draw mixture weights given the data's likelihood under each component.

    Alternates component labels given weights and Dirichlet weights given the labels' counts.

    Args:
        log_like: log p(x_i | component k), up to a constant for each datum, [n, K].
        concentration: of the Dirichlet prior, [K].
        draws, burn: draws kept, and discarded before.
        generator: random numbers.
        start: weights to begin with, [K]; None for equal ones.
        sweeps: iterations for each draw, kept or discarded.

    Returns:
        weights, [draws, K].
    """
    L = np.exp((log_like - log_like.max(1, keepdim=True).values).cpu().double().numpy())
    prior = concentration.cpu().double().numpy()
    K = L.shape[1]
    w = np.full(K, 1 / K) if start is None else start
    kept = np.empty((burn + draws, K))
    for draw in range(burn + draws):
        for _ in range(sweeps):
            edges = np.cumsum(L * w, axis=1)
            labels = (edges < generator.random((len(L), 1)) * edges[:, -1:]).sum(1)
            w = dirichlet(np.bincount(labels, minlength=K) + prior, generator)
        kept[draw] = w
    return kept[burn:]


def start_weights(components: int, generator: np.random.Generator) -> np.ndarray:
    """Where a chain begins: apart from others, but with no component next to nothing, [K].

    With a prior that is flat in the logits, a component that has lost all its data never gets any
    back: that prior's posterior is improper at weights of zero.
    """
    return generator.dirichlet(np.full(components, 5.0))


def dirichlet(alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A Dirichlet draw that allows zeros in alpha: the weight of such a component is zero."""
    gamma = np.array([generator.standard_gamma(a) if a > 0 else 0.0 for a in alpha])
    return gamma / gamma.sum()
