r"""The sampler `hamiltorch`: the paper's, through the library that it used.

Hamiltonian Monte Carlo on one vector of 3 logits and all latents, in the paper's own coordinates:
15 leapfrog steps, a step size that dual averaging adapts in burn-in to an acceptance of 0.8, all
latents accepted or rejected together, started at the truth. A step must suit the steepest of all
directions, so that it is tiny and the chain crawls: the paper burnt in for weeks.

This file has been run with a stand-in for hamiltorch only, written by us after its documentation
(see the tests): the library is in no package index.

Reference: Inflationary Flows, appendix B.7; https://github.com/AdamCobb/hamiltorch
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.chains import Chain, Facts, Sampler, of_gradients, seeded
from experiments.posterior.energy import affordable, log_joint
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import Draws, Problem, Truth
from torch_utils import seeding

INSTALL = "pip install git+https://github.com/AdamCobb/hamiltorch.git"
STEP_PRESERVING, STEP_REDUCING = 1e-2, 1e-3  # the paper's


def hamiltorch() -> Any:
    """The library. Importing it seeds the global generators: seed them after this.

    Raises:
        ValueError: saying how to install it, where it is missing.
    """
    try:
        import hamiltorch as library
    except ImportError:
        raise ValueError(
            f"--sampler=hamiltorch needs hamiltorch, which is not installed: {INSTALL} "
            "(or use --sampler=flow, which needs nothing)"
        ) from None
    return library


def step_size(problem: Problem, options: SamplerOptions) -> float:
    """The step size given, or the paper's for flows of this kind."""
    if options.step_size is not None:
        return options.step_size
    schedule = problem.flow.schedule
    preserving = schedule.dims_to_keep == schedule.data_dim
    return STEP_PRESERVING if preserving else STEP_REDUCING


class Recorder:
    """Sorts the positions at which the library asks for log densities into trajectories.

    It asks several times at the same place, and after a rejection again at the start.

    Args:
        steps: leapfrog steps of a trajectory.
        finished: called with (number of the trajectory, its positions [steps, P]).
    """

    def __init__(self, steps: int, finished: Callable[[int, Tensor], Any]):
        self.steps, self.finished = steps, finished
        self.number = 0
        self.start: Tensor | None = None
        self.last: Tensor | None = None
        self.path: list[Tensor] = []

    def see(self, position: Tensor) -> None:
        """Take note of one evaluation."""
        position = position.detach().clone()
        if self.last is None:
            self.start = self.last = position
        if _same(position, self.last):
            return
        if not self.path and self.start is not None and _same(position, self.start):
            self.last = position  # the trajectory before was rejected
            return
        if not self.path:
            self.start = self.last
        self.path.append(position)
        self.last = position
        if len(self.path) == self.steps:
            self.finished(self.number, torch.stack(self.path))
            self.number += 1
            self.path = []


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


class State(NamedTuple):
    """What there is to know of a chain once it is finished; the library cannot go on with half.

    Attributes:
        acceptance: share of draws that differ from the one before.
        evaluations: of the log density.
    """

    acceptance: float = 0.0
    evaluations: int = 0


class HamiltorchSampler(Sampler):
    """The paper's sampler, from the truth on; a chain is one step, saved when it is finished.

    Raises:
        ValueError: if hamiltorch is missing, or there is no burn-in.
    """

    name, state = "hamiltorch", State

    def __init__(
        self, problem: Problem, truth: Truth, options: SamplerOptions, folder: Path | None = None
    ):
        self.library = hamiltorch()
        if options.burn < 1:
            raise ValueError(
                "--burn=0: hamiltorch adapts its step size in burn-in; give at least 1"
            )
        problem, self.cost = affordable(problem)
        self.start = torch.cat([truth.weights.log(), truth.z.flatten()])
        super().__init__(problem, options, 1)

    def step(self, state: State, number: int, chain: Chain) -> tuple[State, int, Facts]:
        """A whole chain."""
        o, problem, K = self.options, self.problem, chain.weights.shape[1]
        total, evaluations = o.burn + o.mcmc_n, 0

        def finished(number: int, path: Tensor) -> None:
            if number < total and chain.store.records(number):
                chain.record(number, path.cpu().numpy())
            chain.tell(min(number + 1, total), {})

        recorder = Recorder(o.traj_length, finished)

        def log_prob(position: Tensor) -> Tensor:
            nonlocal evaluations
            recorder.see(position)
            evaluations += 1
            z = position[K:].reshape(problem.x.shape)
            return log_joint(problem, z, torch.log_softmax(position[:K], 0))

        with seeded(self.start.device, seeding.integer(o.seed, "hamiltorch", chain.number)):
            drawn = self.library.sample(
                log_prob_func=log_prob,
                params_init=self.start,
                num_samples=total + 1,  # the library counts the start among them
                num_steps_per_sample=o.traj_length,
                step_size=step_size(problem, o),
                burn=o.burn,
                desired_accept_rate=o.acpt,
                sampler=self.library.Sampler.HMC_NUTS,
            )
        if len(drawn) < o.mcmc_n:
            raise ValueError(f"hamiltorch gave {len(drawn)} draws where {o.mcmc_n} were asked for")
        states = torch.stack([p.detach().cpu() for p in drawn[-o.mcmc_n :]])  # [draws, K + n d]
        z = states[:, K:].reshape(-1, *problem.x.shape)
        chain.draw(0, torch.softmax(states[:, :K], 1).numpy(), lambda draws: z[draws].numpy())
        moved = (states[1:] != states[:-1]).any(1).double()
        acceptance = float(moved.mean()) if len(moved) else 1.0
        return State(acceptance, evaluations), total, {}

    def summary(self, found: dict[str, np.ndarray]) -> Draws:
        """The draws, with what there is to know about the chains."""
        statistics = {
            "acceptance": found["acceptance"].tolist(),
            "step_size_at_start": step_size(self.problem, self.options),
            **of_gradients(self, self.cost),
        }
        evaluations = self.cost * len(self.problem.x) * int(found["evaluations"].sum())
        return Draws(found["weights"], statistics=statistics, evaluations=evaluations)
