r"""The sampler `flow`: latents proposed in data space, through the flow's own likelihood.

The noiseless datum y_i = f(z_i) has the posterior density N(x_i; y, noise_var I) p(f^-1(y)) |det|,
det = det df^-1/dy. So M candidates y_im ~ N(x_i, noise_var I), carried to the latent once, give

    L_ik = p(x_i | k)  ~  mean_m g_k(y_im),        g_k(y) = N_k(f^-1(y)) |det df^-1/dy|,

without bias, in any number of dimensions and without a gradient. A chain alternates

    1. weights and labels given the candidates: Gibbs draws with L (`thinned_weights`);
    2. for one block of data after another: candidate m is kept with probability proportional to
       sum_k w_k g_k(y_im), all others are drawn anew (conditional importance resampling).

Both leave invariant the joint density of weights and candidates

    p(w) prod_i q(y_i1, ..., y_iM) mean_m sum_k w_k g_k(y_im),

q being that of the proposals, whose marginal in w is the exact posterior for any M; the average
over candidates that are never renewed is biased, by a term of order 1/M. Latents are drawn by the
choice of step 2. The candidates of a datum are a scrambled Sobol set, a net turned by a random
digital shift, which averages better than independent points. The shift makes each of its points
uniform, so a new net, shifted so that a point of it drawn at random comes to lie on the one that is
kept, has just the density that step 2 asks for. Chains share no candidates, so that R-hat and
Monte Carlo errors know of the candidates' part in them.

Reference: Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo methods".
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from experiments.chain_store import ChainStore, fingerprint, gather, kept, my_chains
from experiments.posterior import Draws, Problem, Truth, start_weights, thinned_weights
from experiments.quadrature import most_likely
from experiments.sobol import as_normals, sobol_bits
from training import seeding

if TYPE_CHECKING:
    from experiments.mcmc import Settings

POINTS = 2048  # candidates inflated together
EVERY = 50  # most Gibbs draws between reports


def weigh(problem: Problem, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Latents of candidates and log g_k(y).

    Args:
        problem: its flow and mixture.
        y: candidates, scaled_es, [m, d].

    Returns:
        z [m, d] and log g [m, K]; a candidate that the flow cannot carry gets z = 0, log g = -inf.
    """
    z, log_det = problem.inflate(y)
    log_g = problem.mixture.log_components(z) + log_det[:, None]
    lost = ~(torch.isfinite(z).all(1) & torch.isfinite(log_g).all(1))[:, None]
    z, log_g = z.masked_fill(lost, 0.0), log_g.masked_fill(lost, -math.inf)
    return z.cpu().numpy(), log_g.cpu().numpy()


def mixed(log_g: np.ndarray, w: np.ndarray) -> np.ndarray:
    """sum_k w_k g_k of candidates, [n, M] for log g [n, M, K], up to a factor for each datum."""
    return np.exp(log_g - log_g.max((1, 2), keepdims=True)) @ w


def choose(log_g: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A candidate of each datum, with probability proportional to sum_k w_k g_k, [n]."""
    edges = np.cumsum(mixed(log_g, w), axis=1)
    return (edges < rng.random((len(edges), 1)) * edges[:, -1:]).sum(1)


class Chain:
    """One chain: its weights, its candidates, and how both are renewed.

    Every step of `plan` has random numbers of its own, so that a saved chain needs no random state.

    Args:
        problem: with data.
        settings: of the run.
        number: of the chain.

    Attributes:
        step: steps of the plan that are done.
        weights: draws, [draws, K].
        kept_z: draws of the latents, [kept, n, d].
        bits, z, log_g: candidates as Sobol points [n, M, d], their latents [n, M, d] and
            log g_k [n, M, K].
    """

    def __init__(self, problem: Problem, settings: Settings, number: int):
        self.problem, self.settings, self.number = problem, settings, number
        (n, d), M, K = problem.x.shape, settings.proposals, len(problem.concentration)
        self.store = ChainStore(settings.checkpoint, "flow", number, fingerprint(problem, settings))
        self.kept = kept(settings)
        self.plan = plan(settings, n)
        self.block = max(1, POINTS // M)
        saved = self.store.load() or {
            "step": np.array(0),
            "w": start_weights(K, self._random(0)),
            "weights": np.empty((settings.draws, K)),
            "kept_z": np.empty((len(self.kept), n, d)),
            "bits": np.zeros((n, M, d), np.uint32),
            "z": np.zeros((n, M, d)),
            "log_g": np.zeros((n, M, K)),
        }
        self.step, self.w, self.weights = int(saved["step"]), saved["w"], saved["weights"]
        self.kept_z, self.bits = saved["kept_z"], saved["bits"]
        self.z, self.log_g = saved["z"], saved["log_g"]
        self.log_like = logsumexp(self.log_g, axis=1) - math.log(M)  # [n, K]

    def advance(self) -> None:
        """One step of the plan: Gibbs draws given the candidates, then a block's renewal."""
        rng, burn = self._random(self.step + 1), self.settings.burn
        start, stop, renewal = self.plan[self.step]
        if stop > start:
            like, prior = torch.from_numpy(self.log_like), self.problem.concentration
            w = thinned_weights(like, prior, stop - start, 0, rng, self.w)
            self.w = w[-1]
            self.weights[max(0, start - burn) : max(0, stop - burn)] = w[max(0, burn - start) :]
            for place, which in enumerate(self.kept):
                if start <= which + burn < stop:
                    picks = choose(self.log_g, w[which + burn - start], rng)
                    self.kept_z[place] = self.z[np.arange(len(picks)), picks]
        if renewal is not None:
            self._renew(renewal, rng)
        self.step += 1
        if self.store.due or self.step == len(self.plan):
            self.save()

    def _renew(self, renewal: int, rng: np.random.Generator) -> None:
        """New candidates for a block of data; all but the first ones keep one of the old."""
        n, M, K = self.log_g.shape
        blocks = -(-n // self.block)
        first = renewal % blocks * self.block
        rows = np.arange(first, min(first + self.block, n))
        keep: list[Any] = [None] * len(rows)
        if renewal >= blocks:
            stay = choose(self.log_g[rows], self.w, rng)
            keep = list(self.bits[rows, stay])
        d = self.problem.dim
        self.bits[rows] = np.stack([sobol_bits(rng, M, d, point) for point in keep])
        x = self.problem.x[first : first + len(rows), None]
        normal = torch.from_numpy(as_normals(self.bits[rows])).to(x)
        z, log_g = weigh(self.problem, (x + self.problem.noise_var**0.5 * normal).reshape(-1, d))
        self.z[rows], self.log_g[rows] = z.reshape(-1, M, d), log_g.reshape(-1, M, K)
        lost = rows[np.isneginf(self.log_g[rows]).all((1, 2))]
        if len(lost):
            raise ValueError(
                f"no candidate of datum {lost[0]}, {self.problem.x[lost[0]].tolist()}, can be "
                "carried to the latent: it lies where this flow was not trained; train longer"
            )
        self.log_like[rows] = logsumexp(self.log_g[rows], axis=1) - math.log(M)

    def _random(self, step: int) -> np.random.Generator:
        return seeding.generator(self.settings.seed, f"flow chain {self.number}", step)

    def save(self) -> None:
        """Save everything that the rest of the chain depends on."""
        names = ("step", "w", "weights", "kept_z", "bits", "z", "log_g")
        self.store.save({name: getattr(self, name) for name in names})


def plan(settings: Settings, n: int) -> list[tuple[int, int, int | None]]:
    """Steps of a chain: draws start..stop, then a block of data to renew, or None.

    The first steps draw nothing and give every block its first candidates. All are renewed once
    while the chain burns in, which leaves little of the first ones' bias, and `settings.refresh`
    times, evenly spread, while it draws; or never, if that is zero.
    """
    burn, draws = settings.burn, settings.draws
    blocks = -(-n // max(1, POINTS // settings.proposals))
    later = round(settings.refresh * blocks)
    at = [burn + round((j + 1) * draws / (later + 1)) for j in range(later)]
    if settings.refresh > 0:
        at = [burn * (blocks + 4 * (j + 1)) // (5 * blocks) for j in range(blocks)] + at
    total, renewals = burn + draws, len(at)
    steps: list[tuple[int, int, int | None]] = [(0, 0, j) for j in range(blocks)]
    start = 0
    for stop in sorted({*at, *range(EVERY, total, EVERY), total}):
        due: list[int | None] = [blocks + j for j in range(renewals) if at[j] == stop]
        for number in due or [None]:
            steps.append((start, stop, number))
            start = stop
    return steps


def sample(problem: Problem, truth: Truth, settings: Settings) -> Draws:
    """Draw weights and latents with candidates in data space.

    Processes share the chains. A chain does not depend on how many others there are, or where
    they run.

    Args:
        problem: with data x [n, d].
        truth: not used.
        settings: `proposals`, `refresh`, `draws`, `burn`, `chains`, `seed`, `keep_z`,
            `checkpoint`, `progress`.

    Returns:
        the draws on rank 0, none on other ranks; seconds are those since the start or resume.

    Raises:
        ValueError: if a datum cannot be carried to the latent, or a checkpoint is of another run.
    """
    began = time.monotonic()
    chains = [Chain(problem, settings, c) for c in my_chains(settings)]
    steps = plan(settings, len(problem.x))
    for number, (_, stop, _) in enumerate(steps):
        for chain in chains:
            if chain.step == number:
                chain.advance()
        if settings.progress is not None:
            settings.progress(stop, {"candidates": f"{(number + 1) / len(steps):.0%}"})
    found = gather([outcome(chain) for chain in chains], settings.chains)
    if found is None:
        return Draws(np.empty((0, settings.draws, len(problem.concentration))))
    effective = found["effective"]  # [chains, n]
    facts = {
        "candidates": settings.proposals,
        "renewals": settings.refresh,
        "effective_candidates": {
            "min": float(effective.min()),
            "10%": float(np.quantile(effective, 0.1)),
            "median": float(np.median(effective)),
        },
        "error_of_a_fixed_set_in_posterior_sds": found["error"].mean(0).tolist(),
    }
    return Draws(
        found["weights"],
        found["z"] if settings.keep_z else None,
        None,
        facts,
        evaluations(problem, settings, steps),
        time.monotonic() - began,
    )


def outcome(chain: Chain) -> dict[str, np.ndarray]:
    """What a finished chain has drawn, and how good its candidates are for its mean weights."""
    w = chain.weights.mean(0)
    g = mixed(chain.log_g, w)
    return {
        "weights": chain.weights,
        "z": chain.kept_z,
        "effective": g.sum(1) ** 2 / (g**2).sum(1),
        "error": proposal_error(chain.log_g, w, chain.problem.concentration),
    }


def evaluations(problem: Problem, settings: Settings, steps: list) -> int:
    """Network evaluations of the whole run, of one sample each (their derivatives not counted)."""
    before = problem.flow.evaluations
    problem.inflate(problem.x[:1])
    cost = problem.flow.evaluations - before
    n, block = len(problem.x), max(1, POINTS // settings.proposals)
    blocks = -(-n // block)
    data = sum(min(block, n - j % blocks * block) for *_, j in steps if j is not None)
    return cost * settings.chains * settings.proposals * data


def proposal_error(log_g: np.ndarray, w: np.ndarray, concentration: Tensor) -> np.ndarray:
    """Standard error of the posterior means from one set of candidates that is never renewed, [K].

    In posterior sds, to first order, as if candidates were independent: for Sobol sets it is an
    upper bound. The bias of order 1/M is not in it.

    Args:
        log_g: [n, M, K].
        w: posterior means, [K].
        concentration: of the prior, [K].
    """
    g = np.exp(log_g - log_g.max((1, 2), keepdims=True))  # [n, M, K]
    M, K = g.shape[1:]
    mean = g.mean(1)
    total = mean @ w  # [n]
    share = mean / total[:, None]
    # To first order a candidate pulls the score g_k / sum_j w_j g_j of its datum by this.
    pull = (g - share[:, None] * (g @ w)[..., None]) / total[:, None, None]
    flat = pull.reshape(-1, K)
    noise = flat.T @ flat / (M * max(1, M - 1))
    _, covariance = most_likely(torch.from_numpy(logsumexp(log_g, axis=1)), concentration)
    shift = covariance @ noise @ covariance
    return np.sqrt(shift.diagonal() / np.maximum(covariance.diagonal(), 1e-300))
