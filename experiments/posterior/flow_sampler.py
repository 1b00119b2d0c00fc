r"""The sampler `flow`: candidates in data space, weighed by the flow's own likelihood.

The noiseless datum y_i = f(z_i) has the posterior density N(x_i; y, noise_var I) p(f^-1(y)) |det|,
det = det df^-1/dy. So M candidates y_im ~ q_i, carried to the latent once, give

    L_ik = p(x_i | k)  ~  mean_m g_k(y_im),
    g_k(y) = N(x_i; y, noise_var I) N_k(f^-1(y)) |det df^-1/dy| / q_i(y),

without bias, in up to 16 dimensions (the determinant is exact); `proposals` has q. A
chain alternates

    1. weights and labels given the candidates: Gibbs draws with L (`thinned_weights`);
    2. for one block of data after another: candidate m is kept with probability proportional to
       sum_k w_k g_k(y_im), all others are drawn anew (conditional importance resampling).

Both leave invariant the joint density of weights and candidates

    p(w) prod_i q(y_i1, ..., y_iM) mean_m sum_k w_k g_k(y_im),

q being that of the proposals, whose marginal in w is the exact posterior for any M; the average
over candidates that are never renewed is biased, by a term of order 1/M, so that blocks are renewed
over and over, as often as `refresh` says for every thousand draws. Latents are drawn by the choice
of step 2. The candidates of a datum are a scrambled Sobol set, of which the first coordinate says
where a candidate comes from: a net turned by a random digital shift, which averages better than
independent points. The shift makes each of its points uniform, so a new net, shifted so that a
point of it drawn at random comes to lie on the one that is kept, has just the density that step 2
asks for. Chains share no candidates, so that R-hat and Monte Carlo errors know of the candidates'
part in them; where few candidates count, they know too little, and the run ends in an error.

Reference: Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo methods".
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp

from experiments.posterior.chain_store import ChainStore, fingerprint, gather, kept, my_chains
from experiments.posterior.posterior import Draws, Problem, Truth, start_weights, thinned_weights
from experiments.posterior.proposals import Proposals, proposal_error, proposals
from experiments.posterior.sobol import as_normals, as_uniforms, sobol_bits
from torch_utils import seeding

if TYPE_CHECKING:
    from experiments.posterior.mcmc import Settings

POINTS = 2048  # candidates inflated together
EVERY = 50  # most Gibbs draws between reports
FORMAT = 2  # of saved chains; others are refused
PER = 1000  # draws that `refresh` counts renewals for
# Effective candidates, at the 10 % quantile of the data, under which there is a warning, an error.
FEW, TOO_FEW = 5.0, 2.0


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
        proposed: what candidates are drawn from.
        settings: of the run.
        number: of the chain.

    Attributes:
        step: steps of the plan that are done.
        weights: draws, [draws, K].
        kept_z: draws of the latents, [kept, n, d].
        bits, z, log_g: candidates as Sobol points [n, M, 1 + d], their latents [n, M, d] and
            log g_k [n, M, K].
    """

    def __init__(self, proposed: Proposals, settings: Settings, number: int):
        self.proposed, self.settings, self.number = proposed, settings, number
        self.problem = problem = proposed.problem
        (n, d), M, K = problem.x.shape, settings.proposals, len(problem.concentration)
        digest = f"{FORMAT} {fingerprint(problem, settings)}"
        self.store = ChainStore(settings.checkpoint, "flow", number, digest)
        self.kept = kept(settings)
        self.plan = plan(settings, n)
        self.block = max(1, POINTS // M)
        saved = self.store.load() or {
            "step": np.array(0),
            "w": start_weights(K, self._random(0)),
            "weights": np.empty((settings.draws, K)),
            "kept_z": np.empty((len(self.kept), n, d)),
            "bits": np.zeros((n, M, 1 + d), np.uint32),
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
        if stop == 0 and self.plan[self.step][1] > 0:
            self._check()
        if self.store.due or self.step == len(self.plan):
            self.save()

    def _renew(self, renewal: int, rng: np.random.Generator) -> None:
        """New candidates for a block of data; all but the first ones keep one of the old."""
        n, M, _ = self.log_g.shape
        blocks = -(-n // self.block)
        first = renewal % blocks * self.block
        rows = np.arange(first, min(first + self.block, n))
        keep: list[Any] = [None] * len(rows)
        if renewal >= blocks:
            stay = choose(self.log_g[rows], self.w, rng)
            keep = list(self.bits[rows, stay])
        bits = np.stack([sobol_bits(rng, M, 1 + self.problem.dim, point) for point in keep])
        uniform, normal = as_uniforms(bits[..., 0]), as_normals(bits[..., 1:])
        y = self.proposed.draw(rows, uniform, normal)
        self.bits[rows] = bits
        self.z[rows], self.log_g[rows] = self.proposed.weigh(rows, y)
        lost = rows[np.isneginf(self.log_g[rows]).all((1, 2))]
        if len(lost):
            raise ValueError(
                f"no candidate of datum {lost[0]}, {self.problem.x[lost[0]].tolist()}, can be "
                "carried to the latent: it lies where this flow was not trained; train longer"
            )
        self.log_like[rows] = logsumexp(self.log_g[rows], axis=1) - math.log(M)

    def _check(self) -> None:
        """Refuse first candidates of which too few count, before the long work."""
        effective = effective_candidates(self.log_g, np.full_like(self.w, 1 / len(self.w)))
        if np.quantile(effective, 0.1) < TOO_FEW:
            raise ValueError(few(effective, self.settings))

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
    times in every `PER` draws, evenly spread, while it draws; or never, if that is zero.
    """
    burn, draws = settings.burn, settings.draws
    blocks = -(-n // max(1, POINTS // settings.proposals))
    later = round(settings.refresh * draws / PER * blocks)
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
        ValueError: if a datum cannot be carried to the latent, few candidates count from the
            beginning, or a checkpoint is of another run.
    """
    began = time.monotonic()
    proposed = proposals(problem)
    chains = [Chain(proposed, settings, c) for c in my_chains(settings)]
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
        "renewals": settings.refresh * settings.draws / PER,
        "effective_candidates": {
            "min": float(effective.min()),
            "10%": float(np.quantile(effective, 0.1)),
            "median": float(np.median(effective)),
        },
        "error_of_a_fixed_set_in_posterior_sds": found["error"].mean(0).tolist(),
    }
    line = few(effective, settings)
    fatal = bool(line) and facts["effective_candidates"]["10%"] < TOO_FEW
    return Draws(
        found["weights"],
        found["z"] if settings.keep_z else None,
        None,
        facts,
        evaluations(proposed, settings, steps),
        time.monotonic() - began,
        [line] if line and not fatal else [],
        line if fatal else "",
    )


def few(effective: np.ndarray, settings: Settings) -> str:
    """What to say of effective candidates [...]; nothing where there are enough."""
    lowest = float(np.quantile(effective, 0.1))
    if lowest >= FEW:
        return ""
    return (
        f"of {settings.proposals} candidates a datum, {lowest:.1f} count at the 10 % quantile of "
        f"the data (under {FEW:g}: weights may be biased, unseen by R-hat; under {TOO_FEW:g} they "
        f"are): use --proposals={4 * settings.proposals}, or --sampler=parallel"
    )


def effective_candidates(log_g: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Effective number of candidates of each datum given weights, [n] for log g [n, M, K]."""
    g = mixed(log_g, w)
    return g.sum(1) ** 2 / (g**2).sum(1)


def outcome(chain: Chain) -> dict[str, np.ndarray]:
    """What a finished chain has drawn, and how good its candidates are for its mean weights."""
    w = chain.weights.mean(0)
    return {
        "weights": chain.weights,
        "z": chain.kept_z,
        "effective": effective_candidates(chain.log_g, w),
        "error": proposal_error(chain.log_g, w, chain.problem.concentration),
    }


def evaluations(proposed: Proposals, settings: Settings, steps: list) -> int:
    """Network evaluations of the whole run, of one sample each (their derivatives not counted)."""
    problem = proposed.problem
    before = problem.flow.evaluations
    y, _ = problem.inflate(problem.x[:1])
    inflate = problem.flow.evaluations - before
    problem.generate(y)
    generate = problem.flow.evaluations - before - inflate
    n, block = len(problem.x), max(1, POINTS // settings.proposals)
    blocks = -(-n // block)
    data = sum(min(block, n - j % blocks * block) for *_, j in steps if j is not None)
    each = inflate + (1 - float(proposed.around.mean())) * generate
    return proposed.evaluations + round(each * settings.chains * settings.proposals * data)
