r"""When training looks at a sample, and what its error counts there: one object, `Times`.

The likelihood of the flow is bounded by the error of its field,

    -log p <= const + 1/2 integral sum_i r_i cos(phi_i)^2 (F_i - F*_i)^2 dt,

so maximum likelihood weights the error by r_i cos(phi_i)^2 under uniform times. Times drawn with
a density proportional to that weight make it a constant, and the gradient less noisy.

Reference: Zheng et al. 2023 (i-DODE), sections 3.1 and 3.3; here for any schedule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from torch_utils import philox, seeding
from torch_utils.seeding import PHILOX
from training.arc import Arc
from training.edm_precond import LEVELS
from training.schedule import Schedule

NEWTON = 4  # steps, which double the digits of what interpolation gives


class Times:
    """Random times of batches, and weights of the squared error of the field at them.

    With the weight 1 the loss is the paper's weighted denoising loss, rewritten: no weight is left
    to compute, and no terms cancel. EDM's weight gives the same. With cos(phi)^2 it is the error of
    the noise that the field implies, n = sin(phi) u - cos(phi) F, the loss of VP and VE. With
    (dphi_i/da)^2 it is the error of the velocity du/da in arc length, which is what integration
    sees; a dimension that hardly turns hardly counts.

    Args:
        schedule: of the flow, on the device where times are wanted, in their precision.
        t_sampling: "uniform" on (tmin, tmax), "arc" (uniform in arc length), "likelihood" (in
            proportion to that weight), or how noise levels are drawn, a key of `LEVELS`, for a
            schedule of one noise level.
        weighting: "edm" (1), "noise" (cos(phi)^2), "arc" ((dphi/da)^2, its mean over dimensions
            being 1), or "likelihood".
        tmin: first of uniform times.
        straight: whether the network predicts the straight path, see `LikelihoodWeighting`.

    Attributes:
        at: shares q [n] in (0, 1) to times, float64 [n].
        weights: times [n] to weights [n, d]; None where all are 1.

    Reference: Inflationary Flows, eq. 13 and appendix B.2; Salimans and Ho 2022 (v-prediction).
    """

    def __init__(
        self,
        schedule: Schedule,
        t_sampling: str = "uniform",
        weighting: str = "edm",
        tmin: float = 1e-7,
        straight: bool = False,
    ):
        self.schedule = schedule
        self.at: Callable[[Tensor], Tensor] = lambda q: tmin + (schedule.tmax - tmin) * q
        self.weights: Callable[[Tensor], Tensor | None] = lambda t: None
        if weighting == "likelihood":
            likelihood = LikelihoodWeighting(schedule, tmin, straight)
            drawn = t_sampling == "likelihood"
            self.weights = lambda t: likelihood.weights(t, drawn)
            if drawn:
                self.at = likelihood.times
        elif weighting == "noise":
            self.weights = lambda t: schedule.cos_sin(t)[0].square()
        elif weighting == "arc" and not schedule.proportional:  # where all turn alike
            self.weights = lambda t: _turning(schedule, t)
        if t_sampling == "arc":
            self.at = Arc(schedule).times
        elif t_sampling in LEVELS:
            self.at = lambda q: sigma_times(schedule, LEVELS[t_sampling](q)[0])

    def batch(self, seed: int, nimg: int, size: int, generator: str = PHILOX) -> Tensor:
        """Stratified random times of the batch that starts at sample nimg, [size].

        Args:
            seed: of the run.
            nimg: first sample.
            size: of the batch.
            generator: PHILOX, or BLOCKS for runs of before.
        """
        if generator == PHILOX:
            strata = philox.order(seed, "strata", nimg, size)
            offset = float(philox.uniforms(seed, "offset", nimg, nimg + 1, 1))
        else:
            rng = seeding.generator(seed, "times", nimg)
            strata, offset = rng.permutation(size), rng.random()
        t = self.at(torch.from_numpy((strata + offset) / size)).to(self.schedule.xi.dtype)
        if self.schedule.xi.device.type == "cuda":
            t = t.pin_memory()
        return t.to(self.schedule.xi.device, non_blocking=True)


def _turning(schedule: Schedule, t: Tensor) -> Tensor:
    turn = schedule.angle(t)[1].square()
    return turn / turn.mean(1, keepdim=True)


def sigma_times(schedule: Schedule, sigma: Tensor) -> Tensor:
    """Times at which the noise has a given level; the nearest of the schedule's for others.

    Args:
        schedule: one noise level for all dimensions (`Schedule.rates` all equal).
        sigma: noise levels, [n].

    Returns:
        times in [0, tmax], [n].
    """
    log_gamma = 2 * sigma.double().log()
    t = (log_gamma - np.log(float(schedule.gamma0))) / float(schedule.rates[0])
    return t.clamp(0.0, schedule.tmax)


def levels_note(schedule: Schedule, t_sampling: str, weighting: str) -> list[str]:
    """What training at drawn noise levels says: which, and whether the schedule has them all."""
    if t_sampling not in LEVELS:
        return []
    sigma = LEVELS[t_sampling](torch.linspace(5e-5, 1 - 5e-5, 10_000, dtype=torch.float64))[0]
    low, high = (float(schedule.gamma(t)[0][0].sqrt()) for t in (0.0, schedule.tmax))
    there = schedule.gamma(sigma_times(schedule, sigma))[0][:, 0].sqrt()
    moved = float(((there / sigma).log().abs() > 1e-6).double().mean())
    lines = [f"Noise levels: {t_sampling} within {low:.3g} to {high:.3g}; "
             f"loss weighting: {weighting}"]  # fmt: skip
    if moved > 1e-3:
        lines.append(
            f"Warning: {100 * moved:.1f} % of the noise levels of --t_sampling={t_sampling} lie "
            "outside those and are moved to the ends; widen them with --gamma0 and --tmax"
        )
    return lines


class LikelihoodWeighting:
    """Weights of the squared error of the field, and their importance sampling.

    A dimension whose noise shrinks (r_i < 0, when a schedule compresses) has no term in a bound;
    its error still moves the flow at the rate |r_i|, and is weighted by that.

    Args:
        schedule: the schedule; not the proportional one, whose weight is infinite at t = 0.
        tmin: first of the times; the last is tmax.
        straight: draw times so that the weight is constant for the error of a network that predicts
            the straight path's velocity, instead of F itself.
        nodes: of the cumulative weight's spline.

    Raises:
        ValueError: for a proportional schedule.
    """

    def __init__(self, schedule: Schedule, tmin: float, straight: bool = False, nodes: int = 4097):
        if schedule.proportional:
            raise ValueError("likelihood weighting is infinite at t = 0 of g_type=proportional")
        self.schedule, self.straight = schedule, straight
        t = np.linspace(tmin, schedule.tmax, nodes)
        rows = [self._density(torch.tensor(s, dtype=torch.float64)) for s in t]
        weight, density = np.array(rows).T
        self.mean = make_interp_spline(t, weight, k=5).integrate(t[0], t[-1]) / (t[-1] - t[0])
        spline = make_interp_spline(t, density, k=5)
        self.total = float(spline.integrate(t[0], t[-1]))
        self._cumulative, self._density_at, self._knots = spline.antiderivative(), spline, t
        self._shares = self._cumulative(t) - self._cumulative(t[0])
        self._span = t[-1] - t[0]

    def times(self, q: Tensor) -> Tensor:
        """Quantiles q [n] in [0, 1] of the importance density to times [n], float64.

        Newton's steps on the cumulative spline from linear interpolation between its knots, never
        out of the two knots that a quantile lies between.
        """
        wanted = q.cpu().double().numpy() * self.total
        upper = np.searchsorted(self._shares, wanted).clip(1, len(self._shares) - 1)
        low, high = self._knots[upper - 1], self._knots[upper]
        t = np.interp(wanted, self._shares, self._knots)
        for _ in range(NEWTON):
            miss = self._cumulative(t) - self._cumulative(self._knots[0]) - wanted
            t = np.clip(t - miss / np.maximum(self._density_at(t), 1e-300), low, high)
        return torch.from_numpy(t)

    def weights(self, t: Tensor, drawn: bool) -> Tensor:
        """Weights of (F_i - F*_i)^2 at times t [n], [n, d]; their mean over times and i is one.

        Args:
            t: times.
            drawn: whether they come from `times`, or uniformly.
        """
        cos, sin = self.schedule.cos_sin(t)
        weight = self.schedule.rates.abs() * cos.square()
        if not drawn:
            return weight / self.mean
        density = weight.mean(-1, keepdim=True)
        if self.straight:
            density = density * (cos + sin).square().mean(-1, keepdim=True).reciprocal()
        return weight / density * (self.total / (self.mean * self._span))

    def _density(self, t: Tensor) -> tuple[float, float]:
        """Mean weight over dimensions at one time, and the density to draw it with."""
        cos, sin = (v.cpu().double() for v in self.schedule.cos_sin(t))
        weight = float((self.schedule.rates.abs().cpu().double() * cos.square()).mean())
        spread = float((cos + sin).square().mean().reciprocal()) if self.straight else 1.0
        return weight, weight * spread
