r"""Likelihood weighting of the loss, and times drawn in proportion to it.

The likelihood of the flow is bounded by the error of its field,

    -log p <= const + 1/2 integral sum_i r_i cos(phi_i)^2 (F_i - F*_i)^2 dt,

so maximum likelihood weights the error by r_i cos(phi_i)^2 under uniform times. Times drawn with
a density proportional to that weight make it a constant, and the gradient less noisy.

Reference: Zheng et al. 2023 (i-DODE), sections 3.1 and 3.3; here for any schedule.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from training.schedule import Schedule

BISECTIONS = 60


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
        self._cumulative, self._ends = spline.antiderivative(), (t[0], t[-1])
        self._span = t[-1] - t[0]

    def times(self, q: Tensor) -> Tensor:
        """Quantiles q [n] in [0, 1] of the importance density to times [n], by bisection."""
        wanted = q.double().cpu().numpy() * self.total
        low, high = (np.full(len(wanted), end) for end in self._ends)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            below = self._cumulative(middle) - self._cumulative(self._ends[0]) < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return torch.from_numpy(0.5 * (low + high))

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
        cos, sin = (v.double().cpu() for v in self.schedule.cos_sin(t))
        weight = float((self.schedule.rates.abs().double().cpu() * cos.square()).mean())
        spread = float((cos + sin).square().mean().reciprocal()) if self.straight else 1.0
        return weight, weight * spread
