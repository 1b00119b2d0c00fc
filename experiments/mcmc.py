"""Posterior sampling of the calibration experiments: samplers, chains, diagnostics, files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from experiments.posterior import Draws, Problem, Truth

SAMPLERS = {
    "flow": "experiments.flow_sampler:sample",
    "quadrature": "experiments.quadrature:sample",
    "parallel": "experiments.gradient_samplers:sample",
    "nuts": "experiments.nuts_sampler:sample",
    "hamiltorch": "experiments.hamiltorch_sampler:sample",
}


@dataclass(frozen=True)
class Settings:
    """What a sampler is told; each takes what concerns it.

    Attributes:
        seed: of all random numbers of sampling; chain c of a seed is the same however many run.
        chains: independent chains.
        draws: draws kept of each chain.
        burn: draws discarded (or used to adapt) before.
        thin: every how many gradient trajectories go to files.
        step_size: of gradient samplers, to begin with; None lets the sampler choose.
        traj_length: leapfrog steps of a gradient trajectory.
        accept: acceptance rate that step sizes are adapted to.
        proposals: candidates a datum of `flow`.
        grid: points a dimension of `quadrature`.
        keep_z: draws of the latents kept of each chain.
        progress: called with (draws made so far, facts to show beside) or None.
        checkpoint: folder where a sampler may keep what it needs to go on after a kill, or None.
    """

    seed: int = 123
    chains: int = 4
    draws: int = 1500
    burn: int = 500
    thin: int = 5
    step_size: float | None = None
    traj_length: int = 15
    accept: float = 0.8
    proposals: int = 64
    grid: int = 400
    keep_z: int = 0
    progress: Callable[[int, dict], None] | None = None
    checkpoint: Path | None = None


Sampler = Callable[[Problem, Truth, Settings], Draws]


def sampler_of(name: str) -> Sampler:
    """The sampler of a name of `SAMPLERS`, imported only now."""
    module, function = SAMPLERS[name].split(":")
    return cast(Sampler, getattr(importlib.import_module(module), function))
