r"""The sampler `flow`: candidates for each datum's latent, weighed by the flow's own likelihood.

M candidates z_im ~ q_i of datum i, which `proposals` draws from about its posterior, give

    L_ik = p(x_i | k)  ~  mean_m g_k(z_im),    g_k(z) = N(x_i; f(z), noise_var I) N_k(z) / q_i(z),

without bias, in any number of dimensions. A chain alternates

    1. weights and labels given the candidates: Gibbs draws with L (`gibbs_weights`);
    2. for one block of data after another: candidate m is kept with probability proportional to
       sum_k w_k g_k(z_im), all others are drawn anew (conditional importance resampling).

Both leave invariant the joint density of weights and candidates

    p(w) prod_i q(z_i1, ..., z_iM) mean_m sum_k w_k g_k(z_im),

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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp

from experiments.posterior.chains import Chain, Facts, Sampler
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import (
    SWEEPS,
    Draws,
    Problem,
    Truth,
    gibbs_weights,
    start_weights,
)
from experiments.posterior.proposals import Proposals, proposal_error, proposals
from experiments.posterior.sobol import as_normals, as_uniforms, sobol_bits

POINTS = 2048  # candidates generated together
EVERY = 50  # most Gibbs draws between reports
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


Step = tuple[int, int, int | None]  # draws start ... stop, then a block of data to renew


class State(NamedTuple):
    """A chain's weights, and its candidates.

    Attributes:
        w: weights, [K].
        bits: candidates as Sobol points, [n, M, 1 + d].
        z: their latents, [n, M, d].
        log_g: log g_k of them, [n, M, K].
        log_like: what they say of log L, [n, K].
    """

    w: np.ndarray
    bits: np.ndarray
    z: np.ndarray
    log_g: np.ndarray
    log_like: np.ndarray


class FlowSampler(Sampler):
    """Candidates of each datum from `proposals`, renewed as `refresh` says.

    Raises:
        ValueError: if a datum cannot be carried to the latent, or few candidates count from the
            beginning.
    """

    name, state = "flow", State

    def __init__(
        self, problem: Problem, truth: Truth, options: SamplerOptions, folder: Path | None = None
    ):
        self.proposed = proposals(problem, options.seed, folder)
        self.plan = plan(options, len(problem.x))
        super().__init__(problem, options, len(self.plan))

    def init(self, chain: Chain) -> State:
        """Weights to begin with; candidates are drawn by the first steps."""
        (n, d), M, K = self.problem.x.shape, self.options.proposals, chain.weights.shape[1]
        w, bits = start_weights(K, self.random(chain.number, 0)), np.zeros((n, M, 1 + d), np.uint32)
        return State(w, bits, np.zeros((n, M, d)), np.zeros((n, M, K)), np.zeros((n, K)))

    def step(self, state: State, number: int, chain: Chain) -> tuple[State, int, Facts]:
        """One step of the plan: Gibbs draws given the candidates, then a block's renewal."""
        rng = self.random(chain.number, number + 1)
        start, stop, renewal = self.plan[number]
        if stop > start:
            like, prior = torch.from_numpy(state.log_like), self.problem.concentration
            w = gibbs_weights(like, prior, stop - start, 0, rng, state.w, SWEEPS)

            def latents(draws: list[int]) -> np.ndarray:
                picks = [choose(state.log_g, w[i], rng) for i in draws]
                return np.stack([state.z[np.arange(len(p)), p] for p in picks])

            chain.draw(start - self.options.burn, w, latents)
            state = state._replace(w=w[-1])
        if renewal is not None:
            state = renewed(self.proposed, state, renewal, rng)
        if stop == 0 and self.plan[number + 1][1] > 0:
            check(state, self.options)
        return state, stop, {"candidates": f"{(number + 1) / self.steps:.0%}"}

    def outcome(self, state: State, chain: Chain) -> dict[str, np.ndarray]:
        """How good the candidates of a finished chain are for its mean weights."""
        w = chain.weights.mean(0)
        error = proposal_error(state.log_g, w, self.problem.concentration)
        return {"effective": effective_candidates(state.log_g, w), "error": error}

    def summary(self, found: dict[str, np.ndarray]) -> Draws:
        """The draws, with how many candidates count."""
        effective, options = found["effective"], self.options  # [chains, n]
        lowest = float(np.quantile(effective, 0.1))
        facts = {
            "candidates": options.proposals,
            "renewals": options.refresh * options.mcmc_n / PER,
            "effective_candidates": {
                "min": float(effective.min()),
                "10%": lowest,
                "median": float(np.median(effective)),
            },
            "error_of_a_fixed_set_in_posterior_sds": found["error"].mean(0).tolist(),
        }
        line, cost = few(effective, options), evaluations(self.proposed, options, self.plan)
        fatal = lowest < TOO_FEW
        return Draws(
            found["weights"], statistics=facts, evaluations=cost,
            warnings=[line] if line and not fatal else [], fatal=line if fatal else "",
        )  # fmt: skip


def renewed(proposed: Proposals, state: State, renewal: int, rng: np.random.Generator) -> State:
    """New candidates for a block of data; all but the first ones keep one of the old."""
    bits, z, log_g, log_like = (a.copy() for a in state[1:])
    n, M, d = z.shape
    block = max(1, POINTS // M)
    blocks = -(-n // block)
    first = renewal % blocks * block
    rows = np.arange(first, min(first + block, n))
    keep: list[Any] = [None] * len(rows)
    if renewal >= blocks:
        keep = list(bits[rows, choose(log_g[rows], state.w, rng)])
    bits[rows] = np.stack([sobol_bits(rng, M, 1 + d, point) for point in keep])
    drawn = proposed.draw(rows, as_uniforms(bits[rows, :, 0]), as_normals(bits[rows, :, 1:]))
    z[rows], log_g[rows] = proposed.weigh(rows, drawn)
    lost = rows[np.isneginf(log_g[rows]).all((1, 2))]
    if len(lost):
        raise ValueError(
            f"no candidate of datum {lost[0]}, {proposed.problem.x[lost[0]].tolist()}, "
            "generates finite data: this flow was not trained there; train longer"
        )
    log_like[rows] = logsumexp(log_g[rows], axis=1) - math.log(M)
    return State(state.w, bits, z, log_g, log_like)


def check(state: State, options: SamplerOptions) -> None:
    """Refuse first candidates of which too few count, before the long work."""
    effective = effective_candidates(state.log_g, np.full_like(state.w, 1 / len(state.w)))
    if np.quantile(effective, 0.1) < TOO_FEW:
        raise ValueError(few(effective, options))


def plan(options: SamplerOptions, n: int) -> list[Step]:
    """Steps of a chain: draws start..stop, then a block of data to renew, or None.

    The first steps draw nothing and give every block its first candidates. All are renewed once
    while the chain burns in, which leaves little of the first ones' bias, and `refresh` times in
    every `PER` draws, evenly spread, while it draws; or never, if that is zero.
    """
    burn, draws = options.burn, options.mcmc_n
    blocks = -(-n // max(1, POINTS // options.proposals))
    later = round(options.refresh * draws / PER * blocks)
    at = [burn + round((j + 1) * draws / (later + 1)) for j in range(later)]
    if options.refresh > 0:
        at = [burn * (blocks + 4 * (j + 1)) // (5 * blocks) for j in range(blocks)] + at
    total, renewals = burn + draws, len(at)
    steps: list[Step] = [(0, 0, j) for j in range(blocks)]
    start = 0
    for stop in sorted({*at, *range(EVERY, total, EVERY), total}):
        due: list[int | None] = [blocks + j for j in range(renewals) if at[j] == stop]
        for number in due or [None]:
            steps.append((start, stop, number))
            start = stop
    return steps


def few(effective: np.ndarray, options: SamplerOptions) -> str:
    """What to say of effective candidates [...]; nothing where there are enough."""
    lowest = float(np.quantile(effective, 0.1))
    if lowest >= FEW:
        return ""
    return (
        f"of {options.proposals} candidates a datum, {lowest:.1f} count at the 10 % quantile of "
        f"the data (under {FEW:g}: weights may be biased, unseen by R-hat; under {TOO_FEW:g} they "
        f"are): use --proposals={4 * options.proposals}, or --sampler=nuts"
    )


def effective_candidates(log_g: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Effective number of candidates of each datum given weights, [n] for log g [n, M, K]."""
    g = mixed(log_g, w)
    return g.sum(1) ** 2 / (g**2).sum(1)


def evaluations(proposed: Proposals, options: SamplerOptions, steps: list[Step]) -> int:
    """Network evaluations of the whole run, of one sample each (their derivatives not counted)."""
    problem = proposed.problem
    before = problem.flow.evaluations
    problem.generate(problem.mixture.means[:1])
    each = problem.flow.evaluations - before
    n, block = len(problem.x), max(1, POINTS // options.proposals)
    blocks = -(-n // block)
    data = sum(min(block, n - j % blocks * block) for *_, j in steps if j is not None)
    return proposed.evaluations + round(each * options.chains * options.proposals * data)
