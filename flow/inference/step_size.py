"""Step sizes that adapt to an acceptance probability."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

GAMMA, T0, KAPPA = 0.05, 10.0, 0.75  # of dual averaging, as published


class DualAveraging(NamedTuple):
    """Nesterov's dual averaging of log step sizes, elementwise.

    Attributes:
        log_step: of the next transition, [n].
        log_average: of what is settled on, [n].
        error: running mean of (target - acceptance), [n].
        updates: so far.
        start: log of the step size at the beginning.
        most: log of the largest step size allowed.
        accept: acceptance probability aimed at.

    Reference: Hoffman and Gelman 2014, "The No-U-Turn sampler", algorithm 5.
    """

    log_step: Tensor
    log_average: Tensor
    error: Tensor
    updates: int
    start: float
    most: float
    accept: float

    @classmethod
    def begin(cls, start: Tensor, most: float, accept: float) -> DualAveraging:
        """Begin with step sizes `start` [n], all alike."""
        log_step = start.log()
        zero = torch.zeros_like(start)
        return cls(log_step, log_step, zero, 0, float(log_step[0]), math.log(most), accept)

    def updated(self, probability: Tensor) -> DualAveraging:
        """What is learnt from acceptance probabilities, [n]; a NaN counts as zero."""
        count = self.updates + 1
        rate, weight = 1 / (count + T0), count**-KAPPA
        missed = self.accept - torch.nan_to_num(probability, nan=0.0)
        error = (1 - rate) * self.error + rate * missed
        target = self.start + math.log(10) - math.sqrt(count) / GAMMA * error
        log_step = target.clamp(max=self.most)
        log_average = weight * log_step + (1 - weight) * self.log_average
        return self._replace(log_step=log_step, log_average=log_average, error=error, updates=count)
