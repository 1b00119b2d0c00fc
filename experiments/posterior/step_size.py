"""Step sizes that adapt to an acceptance rate, one for each of many targets at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GAMMA, T0, KAPPA = 0.05, 10.0, 0.75  # as published


@dataclass
class DualAveraging:
    """Nesterov's dual averaging of log step sizes, elementwise.

    Attributes:
        log_step: of the next transition, [n].
        log_average: of what is settled on, [n].
        error: running mean of (target - acceptance), [n].
        count: updates so far.
        start: log of the step size at the beginning.
        most: log of the largest step size allowed.
        accept: acceptance probability aimed at.

    Reference: Hoffman and Gelman 2014, "The No-U-Turn sampler", algorithm 5.
    """

    log_step: Tensor
    log_average: Tensor
    error: Tensor
    count: int
    start: float
    most: float
    accept: float

    @classmethod
    def begin(cls, start: Tensor, most: float, accept: float) -> DualAveraging:
        """Begin with step sizes `start` [n], all alike."""
        log_step = start.log()
        first = float(log_step[0])
        zero = torch.zeros_like(start)
        return cls(log_step, log_step.clone(), zero, 0, first, math.log(most), accept)

    def update(self, probability: Tensor) -> None:
        """Learn from acceptance probabilities, [n]; a NaN counts as zero."""
        probability = torch.nan_to_num(probability, nan=0.0)
        self.count += 1
        rate = 1 / (self.count + T0)
        self.error = (1 - rate) * self.error + rate * (self.accept - probability)
        target = self.start + math.log(10) - math.sqrt(self.count) / GAMMA * self.error
        self.log_step = target.clamp(max=self.most)
        weight = self.count**-KAPPA
        self.log_average = weight * self.log_step + (1 - weight) * self.log_average
