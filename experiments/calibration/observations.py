r"""Calibration of a posterior sampler for a user's own observation model, by held-out data.

Truths x are data that the prior, the flow, has not seen; observations are simulated from them, and
posterior draws from the observations. If prior, model and sampler are right, the rank of each
coordinate of the truth among its draws is uniform, that of its likelihood, which tells most of the
model's noise, and so is its credibility (TARP): the share of draws nearer to a reference point
than the truth is. Truths drawn from the flow itself would test the sampler alone.

References must depend on the observation: with independent ones a sampler that returns the prior
passes. Draws must be independent and unweighted: a right posterior with self-normalised weights
looks overconfident, and so does one whose draws repeat each other.

References: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based
calibration"; Lemos et al. 2023, "Sampling-based accuracy testing of posterior estimators";
Modrak et al. 2023, "Simulation-based calibration checking ... data-dependent test quantities".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import Json
from experiments.posterior.uniformity import LEVEL, assess
from torch_utils import seeding
from torch_utils.work import Parts, shared_rows

Simulate = Callable[[np.ndarray, np.random.Generator], Any]  # truth [d] -> observation
# (observation, n, seed) -> draws [n, d], or what has them as .x and may have .effective
Sample = Callable[[Any, int, int], Any]
LogLikelihood = Callable[[Any, np.ndarray], Any]  # (observation, data [n, d]) -> [n]
RIDGE = 1e-3  # of the regression of truths on observations, in units of their variances
LEAST_SHARE = 0.5  # of the draws that their effective number must be, in 19 of 20 observations


@dataclass
class Verdict:
    """What held-out data say of a sampler.

    Attributes:
        ranks: of the truth's coordinates, and of its likelihood where that is known, among the
            draws, over draws + 1, in (0, 1), [n, d] or [n, d + 1].
        credibility: of the truth by TARP, [n].
        effective: independent draws of each observation, as far as is known, [n].
        draws: of each observation.
        least: effective draws that were asked for.
        tests: of what -> `uniformity.assess`.
    """

    ranks: np.ndarray
    credibility: np.ndarray
    effective: np.ndarray
    draws: int
    least: float
    tests: dict[str, Json]

    @property
    def failures(self) -> list[str]:
        """Why it fails, a few words each; empty if it passes."""
        few = float(np.quantile(self.effective, 0.05))
        found = [f"effective draws {few:.0f}, fewer than {self.least:.0f}"]
        return found[few >= self.least :] + [
            f"{name}: {t['share_of_ecdf_outside_band']:.0%} of the ECDF outside its band"
            for name, t in self.tests.items()
            if t["share_of_ecdf_outside_band"] > 0
        ]

    @property
    def passed(self) -> bool:
        """Whether all ECDFs are in their bands, and draws are independent enough to tell."""
        return not self.failures

    def line(self) -> str:
        """The result in one line, which says PASS or FAIL."""
        n, why = len(self.credibility), self.failures
        what = f"TARP and ranks of {n} held-out truths, {self.draws} draws each"
        return f"{what}: " + (f"FAIL ({'; '.join(why[:3])})" if why else "PASS")

    def summary(self) -> Json:
        """Plain values for a .json file."""
        low, middle = np.quantile(self.effective, [0.05, 0.5]).tolist()
        return {
            "passed": self.passed,
            "failures": self.failures,
            "truths": len(self.credibility),
            "draws_of_each": self.draws,
            "effective_draws": {"5 %": low, "median": middle, "least": self.least},
            "tests": self.tests,
        }


def calibrate(
    truths: np.ndarray,
    simulate: Simulate,
    sample: Sample,
    draws: int = 99,
    seed: int = 0,
    log_likelihood: LogLikelihood | None = None,
    reference: Simulate | None = None,
    folder: Path | None = None,
) -> Verdict:
    """Check a sampler, in a session; every rank must call this. Goes on after a kill.

    Args:
        truths: held-out data, with the flow's noise of t = 0, [n, d].
        simulate: truth [d] and generator -> observation, numbers of one shape.
        sample: observation, how many, seed -> posterior draws [draws, d], unweighted.
        draws: of each observation.
        seed: of all random numbers.
        log_likelihood: observation, data [n, d] -> [n], up to a constant: of the right model, whose
            ranks are tested too. None where there is none.
        reference: observation and generator -> TARP's reference point [d]; None for a regression
            of the truths on the observations, fitted to the other half of them, plus noise.
        folder: keeps what is needed to go on; None for nowhere.

    Returns:
        the verdict. All tests together are passed by a right sampler 95 times in a hundred.

    Raises:
        ValueError: if draws are not [draws, d] or not finite, or there are few truths.
    """
    n, d = truths.shape
    if n < 20:
        raise ValueError(f"{n} truths cannot tell; give 20 at least, better 200")
    seen = [simulate(x, seeding.generator(seed, "observation", i)) for i, x in enumerate(truths)]
    points = references(truths, seen, seed, reference)
    scale = spreads(truths)

    def one(i: int) -> Tensor:
        found = sample(seen[i], draws, seeding.integer(seed, "draws", i))
        x, effective = drawn(found, draws, d, i)
        rng = seeding.generator(seed, "ties", i)
        both = np.concatenate([x, truths[i : i + 1]])
        likely = () if log_likelihood is None else (np.asarray(log_likelihood(seen[i], both)),)
        places = placed(np.column_stack([both, *likely]), (both - points[i]) / scale, rng)
        return torch.from_numpy(np.array([[*places, effective]]))

    mark = {"calibration": truths, "seen": [np.asarray(y) for y in seen], "draws": draws}
    parts = Parts(folder, {**mark, "seed": seed, "references": points})
    found = shared_rows(lambda rows: one(rows[0]), n, 1, "observations", parts)
    return judged(found.numpy(), scale, draws, seed)


def spreads(truths: np.ndarray) -> np.ndarray:
    """Sds of coordinates [n, d], infinite where they do not vary, [d]."""
    spread = truths.std(0)
    return np.where(spread > 1e-6 * max(spread.max(), 1e-300), spread, np.inf)


def judged(found: np.ndarray, scale: np.ndarray, draws: int, seed: int) -> Verdict:
    """The verdict on ranks, credibilities and effective draws, the columns of `found`.

    Args:
        found: of each truth, [n, d + 2], or [n, d + 3] with ranks of the likelihood.
        scale: sds of the truths' coordinates, infinite for those that do not vary, [d].
        draws: of each observation.
        seed: of the bands.
    """
    ranks, credibility, effective = found[:, :-2], found[:, -2], found[:, -1]
    values = {"tarp": credibility}
    if ranks.shape[1] > len(scale):
        values["likelihood"] = ranks[:, -1]
    values |= {f"x{j + 1}": ranks[:, j] for j in np.flatnonzero(np.isfinite(scale)).tolist()}
    level = 1 - (1 - LEVEL) / len(values)
    grid = np.arange(1, draws + 1) / (draws + 1)
    tests = {name: assess(v, grid, seed, level) for name, v in values.items()}
    return Verdict(ranks, credibility, effective, draws, LEAST_SHARE * draws, tests)


def placed(values: np.ndarray, away: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ranks of a truth's values among those of its draws, and its credibility, in (0, 1), [k + 1].

    Args:
        values: of the draws, and of the truth last, [draws + 1, k].
        away: what they are from the reference point, [draws + 1, d].
        rng: decides ties.
    """
    rank = position(values[:-1], values[-1], rng) + rng.random(values.shape[1])
    far = np.linalg.norm(away, axis=-1)
    nearer = position(far[:-1], far[-1], rng) + rng.random()
    return np.array([*rank, nearer]) / len(values)


def position(x: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many draws [n, ...] are below the truth [...], ties at random."""
    below, same = (x < truth).sum(0), (x == truth).sum(0)
    return below + rng.integers(0, same + 1)


def drawn(found: Any, draws: int, d: int, i: int) -> tuple[np.ndarray, float]:
    """Draws [draws, d] of what `sample` has returned, and how many of them are independent.

    Repeated draws count once; where the sampler says how many are effective, no more than these.

    Raises:
        ValueError: if they are not what they should be.
    """
    x = np.asarray(getattr(found, "x", found), dtype=np.float64)
    if x.shape != (draws, d) or not np.isfinite(x).all():
        raise ValueError(
            f"sample() returned {x.shape} for observation {i}, "
            f"{(~np.isfinite(x)).sum()} values not finite; wanted are {(draws, d)}, unweighted"
        )
    told = np.min(getattr(found, "effective", np.inf))
    return x, float(min(len(np.unique(x, axis=0)), told))


def references(
    truths: np.ndarray, seen: list[Any], seed: int, reference: Simulate | None
) -> np.ndarray:
    """Reference points [n, d], each made from its own observation and not from its truth."""
    n = len(truths)
    if reference is not None:
        rngs = [seeding.generator(seed, "reference", i) for i in range(n)]
        return np.stack([reference(y, rng) for y, rng in zip(seen, rngs, strict=True)])
    y = np.nan_to_num(np.stack([np.asarray(y, dtype=np.float64).ravel() for y in seen]))
    y = np.column_stack([np.ones(n), (y - y.mean(0)) / np.maximum(y.std(0), 1e-12)])
    half = np.arange(n) % 2 == 0
    points = np.empty_like(truths)
    for fit in (half, ~half):
        A = y[fit].T @ y[fit] + RIDGE * n * np.eye(y.shape[1])
        points[~fit] = y[~fit] @ np.linalg.solve(A, y[fit].T @ truths[fit])
    noise = seeding.normals(seed, "references", 0, n, truths.shape[1])
    return points + noise * (truths - points).std(0)
