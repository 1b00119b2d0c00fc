r"""The sampler `flow`: latents proposed in data space, through the flow's own likelihood.

The noiseless datum y_i = f(z_i) has the posterior density N(x_i; y, noise_var I) p(f^-1(y)) |det|,
det = det df^-1/dy. So M candidates y_im ~ N(x_i, noise_var I), carried to the latent once, give

    L_ik = p(x_i | k)  ~  mean_m g_k(y_im),        g_k(y) = N_k(f^-1(y)) |det df^-1/dy|,

without bias, in any number of dimensions and without a gradient. A chain alternates

    1. weights and labels given the candidates: Gibbs draws with L (`thinned_weights`);
    2. for one block of data after another: candidate m is chosen with probability proportional to
       sum_k w_k g_k(y_im), all others are drawn anew (conditional importance resampling).

Both leave invariant the joint density of weights and candidates
p(w) prod_i [prod_m N(y_im; x_i, noise_var I)] [mean_m sum_k w_k g_k(y_im)], whose marginal in w is
the exact posterior for any M: an average over candidates that are never renewed is biased, of order
1/M. Latents are drawn by step 1's choice as well. All chains begin with the same candidates, a
scrambled Sobol set for each datum, whose averages are more accurate than those of independent ones;
renewed candidates are independent, each chain's own.

Reference: Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo methods".
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp, ndtri
from scipy.stats import qmc
from torch import Tensor

from experiments.chain_store import ChainStore, fingerprint, gather, kept
from experiments.posterior import Draws, Problem, Truth, start_weights, thinned_weights
from experiments.quadrature import most_likely
from experiments.shared_work import shared_rows
from torch_utils import distributed
from training import seeding

if TYPE_CHECKING:
    from experiments.mcmc import Settings

POINTS = 2048  # candidates inflated together
EVERY = 50  # most Gibbs draws between reports
SMALLEST = 2.0**-33  # keeps Sobol points away from 0 and 1, where normals are infinite


def sobol_normals(seed: int, rows: range, points: int, d: int) -> np.ndarray:
    """Normal points of a scrambled Sobol set for each datum, [len(rows), points, d].

    Each point on its own is standard normal; together they are spread more evenly.
    """
    power = max(0, math.ceil(math.log2(points)))
    sets = []
    for i in rows:
        rng = seeding.generator(seed, "candidates", i)
        sets.append(qmc.Sobol(d, scramble=True, rng=rng).random_base2(power)[:points])
    return ndtri(np.clip(np.stack(sets), SMALLEST, 1 - SMALLEST))


def weigh(problem: Problem, y: Tensor) -> tuple[Tensor, Tensor]:
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
    return z.masked_fill(lost, 0.0), log_g.masked_fill(lost, -math.inf)


def first_candidates(problem: Problem, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The candidates that every chain begins with; all processes share the work.

    Returns:
        z [n, M, d] and log g [n, M, K].

    Raises:
        ValueError: if no candidate of a datum can be carried to the latent, naming it.
    """
    n, d = problem.x.shape
    M, digest = settings.proposals, fingerprint(problem, settings)

    def piece(rows: range) -> Tensor:
        store = ChainStore(settings.checkpoint, "flow-candidates", rows.start, digest)
        saved = store.load()
        if saved is None:
            x = problem.x[rows.start : rows.stop, None]
            normal = torch.from_numpy(sobol_normals(settings.seed, rows, M, d)).to(x)
            z, log_g = weigh(problem, (x + problem.noise_var**0.5 * normal).reshape(-1, d))
            saved = {"both": torch.cat([z, log_g], 1).reshape(len(rows), M, -1).cpu().numpy()}
            store.save(saved)
        return torch.from_numpy(saved["both"])

    both = shared_rows(piece, n, max(1, POINTS // M), "first candidates").numpy()
    lost = np.flatnonzero(np.isneginf(both[..., d:]).all((1, 2)))
    if len(lost):
        raise ValueError(
            f"no candidate of datum {lost[0]}, {problem.x[lost[0]].tolist()}, can be carried to "
            "the latent: it lies where this flow was not trained; train longer, or leave it out"
        )
    return both[..., :d].copy(), both[..., d:].copy()


def choose(log_g: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A candidate of each datum, with probability proportional to sum_k w_k g_k, [n].

    Args:
        log_g: [n, M, K].
        w: weights, [K].
        rng: random numbers.
    """
    g = np.exp(log_g - log_g.max((1, 2), keepdims=True)) @ w
    edges = np.cumsum(g, axis=1)
    return (edges < rng.random((len(g), 1)) * edges[:, -1:]).sum(1)


class Chain:
    """One chain: its weights, its candidates, and how both are renewed.

    Every segment of draws between two renewals has random numbers of its own, so that a saved
    chain needs no random state.

    Args:
        problem: with data.
        settings: of the run.
        number: of the chain.
        z, log_g: the candidates to begin with, [n, M, d] and [n, M, K].
    """

    def __init__(
        self, problem: Problem, settings: Settings, number: int, z: np.ndarray, log_g: np.ndarray
    ):
        self.problem, self.settings, self.number = problem, settings, number
        n, M, K = log_g.shape
        self.store = ChainStore(settings.checkpoint, "flow", number, fingerprint(problem, settings))
        self.kept = kept(settings)
        self.segments = segments(settings, n)
        self.block = max(1, POINTS // M)
        saved = self.store.load() or {
            "segment": np.array(0),
            "w": start_weights(K, self._random(0)),
            "weights": np.empty((settings.draws, K)),
            "kept_z": np.empty((len(self.kept), n, z.shape[2])),
            "z": z,
            "log_g": log_g,
        }
        self.segment, self.w, self.weights = int(saved["segment"]), saved["w"], saved["weights"]
        self.kept_z, self.z, self.log_g = saved["kept_z"], saved["z"].copy(), saved["log_g"].copy()
        self.log_like = logsumexp(self.log_g, axis=1) - math.log(M)

    def advance(self) -> None:
        """One segment: Gibbs draws given the candidates, then new candidates for a block."""
        rng, burn = self._random(self.segment + 1), self.settings.burn
        start, stop, renew = self.segments[self.segment]
        if stop > start:
            like, prior = torch.from_numpy(self.log_like), self.problem.concentration
            w = thinned_weights(like, prior, stop - start, 0, rng, self.w)
            self.w = w[-1]
            first = max(0, burn - start)
            self.weights[max(0, start - burn) : max(0, stop - burn)] = w[first:]
            for place, which in enumerate(self.kept):
                if start <= which + burn < stop:
                    picks = choose(self.log_g, w[which + burn - start], rng)
                    self.kept_z[place] = self.z[np.arange(len(picks)), picks]
        if renew is not None:
            self._renew(renew, rng)
        self.segment += 1
        if self.store.due or (self.segment == len(self.segments)):
            self.save()

    def _renew(self, number: int, rng: np.random.Generator) -> None:
        """Keep one candidate of each datum of a block, draw the others anew."""
        n, M, K = self.log_g.shape
        first = number * self.block % (-(-n // self.block) * self.block)
        rows = np.arange(first, min(first + self.block, n))
        stay = choose(self.log_g[rows], self.w, rng)
        self.z[rows, 0] = self.z[rows, stay]
        self.log_g[rows, 0] = self.log_g[rows, stay]
        if M > 1:
            x = self.problem.x[torch.from_numpy(rows), None]
            normal = torch.from_numpy(rng.standard_normal((len(rows), M - 1, x.shape[2]))).to(x)
            y = x + self.problem.noise_var**0.5 * normal
            z, log_g = weigh(self.problem, y.reshape(-1, x.shape[2]))
            self.z[rows, 1:] = z.cpu().numpy().reshape(len(rows), M - 1, -1)
            self.log_g[rows, 1:] = log_g.cpu().numpy().reshape(len(rows), M - 1, K)
        self.log_like[rows] = logsumexp(self.log_g[rows], axis=1) - math.log(M)

    def _random(self, segment: int) -> np.random.Generator:
        return seeding.generator(self.settings.seed, f"flow chain {self.number}", segment)

    def save(self) -> None:
        """Save everything that the rest of the chain depends on."""
        names = ("segment", "w", "weights", "kept_z", "z", "log_g")
        self.store.save({name: getattr(self, name) for name in names})


def segments(settings: Settings, n: int) -> list[tuple[int, int, int | None]]:
    """Stretches of draws (start, stop, block of data renewed after it or None).

    Renewals are spread evenly over the whole chain, so that each datum has its candidates renewed
    `settings.refresh` times.
    """
    total = settings.burn + settings.draws
    blocks = -(-n // max(1, POINTS // settings.proposals))
    number = round(settings.refresh * blocks)
    at = [round((j + 1) * total / (number + 1)) for j in range(number)]
    stops = sorted({*at, *range(EVERY, total, EVERY), total})
    found: list[tuple[int, int, int | None]] = []
    start, renewal = 0, 0
    for stop in stops:
        due = [j for j in range(renewal, number) if at[j] == stop]
        found.append((start, stop, due[0] if due else None))
        found += [(stop, stop, j) for j in due[1:]]
        start, renewal = stop, renewal + len(due)
    return found


def sample(problem: Problem, truth: Truth, settings: Settings) -> Draws:
    """Draw weights and latents with candidates in data space.

    Processes share the first candidates and the chains.

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
    z, log_g = first_candidates(problem, settings)
    mine = [c for r in distributed.share(settings.chains, 1) for c in r]
    chains = [Chain(problem, settings, c, z, log_g) for c in mine]
    plan = segments(settings, len(problem.x))
    for number, (_, stop, _) in enumerate(plan):
        for chain in chains:
            if chain.segment == number:
                chain.advance()
        if settings.progress is not None:
            settings.progress(stop, {})
    found = gather([{"weights": c.weights, "z": c.kept_z} for c in chains], settings.chains)
    K = log_g.shape[2]
    if found is None:
        return Draws(np.empty((0, settings.draws, K)))
    return Draws(
        found["weights"],
        found["z"] if settings.keep_z else None,
        None,
        statistics(problem, log_g, found["weights"].mean((0, 1)), settings),
        evaluations(problem, settings, plan),
        time.monotonic() - began,
    )


def evaluations(problem: Problem, settings: Settings, plan: list) -> int:
    """Network evaluations of the whole run, of one sample each (their derivatives not counted)."""
    before = problem.flow.evaluations
    problem.inflate(problem.x[:1])
    cost = problem.flow.evaluations - before
    n, M = len(problem.x), settings.proposals
    block = max(1, POINTS // M)
    blocks = -(-n // block)
    sizes = [min(block, n - (j % blocks) * block) for *_, j in plan if j is not None]
    return cost * (n * M + settings.chains * sum(sizes) * (M - 1))


def statistics(
    problem: Problem, log_g: np.ndarray, w: np.ndarray, settings: Settings
) -> dict[str, Any]:
    """How good the first candidates are, for weights w [K]."""
    n, M, _ = log_g.shape
    g = np.exp(log_g - log_g.max((1, 2), keepdims=True)) @ w
    effective = g.sum(1) ** 2 / (g**2).sum(1)
    return {
        "candidates": M,
        "renewals": settings.refresh,
        "effective_candidates": {
            "min": float(effective.min()),
            "10%": float(np.quantile(effective, 0.1)),
            "median": float(np.median(effective)),
        },
        "proposal_error_in_posterior_sds": proposal_error(log_g, w, problem).tolist(),
        "integration": problem.how,
    }


def proposal_error(log_g: np.ndarray, w: np.ndarray, problem: Problem) -> np.ndarray:
    """Standard error of the posterior means from candidates that are never renewed, [K].

    In posterior sds, to first order, as if candidates were independent: for Sobol sets it is an
    upper bound. The bias of order 1/M is not in it.

    Args:
        log_g: [n, M, K].
        w: posterior means, [K].
        problem: for its prior.
    """
    g = np.exp(log_g - log_g.max((1, 2), keepdims=True))  # [n, M, K]
    mean = g.mean(1)
    total = (mean @ w)[:, None, None]
    share = mean / (mean @ w)[:, None]
    # Each candidate's pull on the score g_k / sum_j w_j g_j of its datum, to first order.
    pull = g / total - share[:, None] * (g @ w)[..., None] / total
    M, K = g.shape[1:]
    flat = pull.reshape(-1, K)
    noise = flat.T @ flat / (M * max(1, M - 1))
    log_like = torch.from_numpy(logsumexp(log_g, axis=1))
    _, covariance = most_likely(log_like, problem.concentration)
    shift = covariance @ noise @ covariance
    return np.sqrt(shift.diagonal() / np.maximum(covariance.diagonal(), 1e-300))
