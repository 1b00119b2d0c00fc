"""The arc length of the inflation angles, which the flow is integrated in."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from training.schedule import Schedule

# Growth of solver steps from data to latent, see `Arc.grid`: measured, for sharp data sets of few
# dimensions (benchmarks/integrators.py) and for images (benchmarks/image_round_trips.py).
STEP_GROWTH, IMAGE_STEP_GROWTH = 5.0, 2.0


class Arc:
    """The arc length a of the angles, da/dt = rms_i dphi_i/dt: the flow's integration variable.

    Steps in `a` turn the state by comparable amounts, so fixed-step methods need few of them. The
    map t(a) is a quintic spline whose own derivative enters the field, so that what is integrated
    is the exact flow whatever the spline's (tiny) error.

    Args:
        schedule: the schedule; its values are read once, on the CPU, in float64.
        nodes: spline knots, uniform in t.
        growth: of solver steps along the whole arc, see `grid`; more than 1.
    """

    def __init__(self, schedule: Schedule, nodes: int = 2049, growth: float = STEP_GROWTH):
        self.growth = growth
        self.rho = float(schedule.rho)
        self.proportional = schedule.proportional
        self._half_rates = schedule.rates.cpu().double().numpy() / 2
        self._v0 = np.sqrt(float(schedule.gamma0) / schedule.xi.cpu().double().numpy())
        self.tmax = schedule.tmax
        if self.proportional:
            self.length = self._proportional_angle(self.tmax)
            return
        t = np.linspace(0.0, self.tmax, nodes)
        rms = np.array([np.sqrt(np.mean(self._angle_rate(s) ** 2)) for s in t])
        self._a = make_interp_spline(t, rms, k=5).antiderivative()
        self._t = make_interp_spline(self._a(t), t, k=5)
        self._dt = self._t.derivative()
        self.length = float(self._a(self.tmax))

    def grid(self, start: float, stop: float, steps: int) -> list[float]:
        """Arc positions of `steps` + 1 states from time `start` to time `stop`.

        Steps grow geometrically towards the latent, the last of the whole arc being `growth`
        times the first: data has structure finer than the noise only where there is little noise.
        A grid from stop to start is the same one reversed, to the last bit.
        """
        r = self.growth
        ends = np.array([self.position(t) / self.length for t in sorted((start, stop))])
        low, high = np.log1p((r - 1) * ends) / np.log(r)
        tau = np.linspace(low, high, steps + 1)
        grid = (self.length * np.expm1(tau * np.log(r)) / (r - 1)).tolist()
        return grid if stop >= start else grid[::-1]

    def position(self, t: float) -> float:
        """Arc length at time t."""
        return self._proportional_angle(t) if self.proportional else float(self._a(t))

    def time(self, a: float) -> float:
        """Time at arc length a."""
        if self.proportional:
            return -2.0 * float(np.log(np.cos(a))) / self.rho
        return float(np.clip(self._t(min(max(a, 0.0), self.length)), 0.0, self.tmax))

    def times(self, q: Tensor) -> Tensor:
        """Times at which the shares q [n] of the whole arc are covered, [n]."""
        a = q.cpu().double().numpy() * self.length
        if self.proportional:
            return torch.from_numpy(-2.0 * np.log(np.cos(a)) / self.rho)
        t = self._t(np.clip(a, 0.0, self.length))
        return torch.from_numpy(np.clip(t, 0.0, self.tmax))

    def turn(self, a: float) -> np.ndarray:
        """dphi/da at arc length a, float64 [d]; zero where a dimension's noise does not grow."""
        if self.proportional:
            return np.ones_like(self._half_rates)
        a = min(max(a, 0.0), self.length)
        return self._angle_rate(float(self._t(a))) * float(self._dt(a))

    def _angle_rate(self, t: float) -> np.ndarray:
        v = self._v0 * np.exp(self._half_rates * t)
        return self._half_rates * v / (1 + v * v)

    def _proportional_angle(self, t: float) -> float:
        return float(np.arctan(np.sqrt(np.expm1(self.rho * t))))
