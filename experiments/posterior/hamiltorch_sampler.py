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

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.chain_store import (
    ChainStore,
    fingerprint,
    gather,
    kept,
    my_chains,
    progress_in_turn,
    record_every,
    seeded,
)
from experiments.posterior.energy import affordable, log_joint
from experiments.posterior.posterior import Draws, Problem, Truth
from torch_utils import distributed, seeding

if TYPE_CHECKING:
    from experiments.posterior.mcmc import Settings

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
            "(or use --sampler=parallel, which needs nothing)"
        ) from None
    return library


def step_size(problem: Problem, settings: Settings) -> float:
    """The step size given, or the paper's for flows of this kind."""
    if settings.step_size is not None:
        return settings.step_size
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


class Chain:
    """One chain, saved when it is finished: the library cannot go on with half of one.

    Args:
        problem: with data.
        truth: where the chain starts.
        settings: of the run.
        number: of the chain.
    """

    def __init__(self, problem: Problem, truth: Truth, settings: Settings, number: int):
        self.problem, self.truth, self.settings, self.number = problem, truth, settings, number
        every, digest = record_every(problem, settings), fingerprint(problem, settings)
        self.store = ChainStore(settings.checkpoint, "hamiltorch", number, digest, every)
        self.K = len(problem.concentration)
        self.evaluations = 0

    def log_density(self, position: Tensor) -> Tensor:
        """log p(logits, z | x) up to a constant, of a vector [K + n d]; -inf rejects."""
        self.evaluations += 1
        log_w = torch.log_softmax(position[: self.K], 0)
        return log_joint(self.problem, position[self.K :].reshape(self.problem.x.shape), log_w)

    def run(self, library: Any, progress: Callable[[int, dict], None]) -> dict[str, np.ndarray]:
        """The finished chain's weights, latents, acceptance and number of evaluations."""
        saved = self.store.load()
        if saved is not None:
            return saved
        s = self.settings

        def finished(number: int, path: Tensor) -> None:
            if self.store.records(number):
                self.store.record(number, path.cpu().numpy())
            progress(min(number + 1, s.burn + s.draws), {})

        recorder = Recorder(s.traj_length, finished)

        def log_prob(position: Tensor) -> Tensor:
            recorder.see(position)
            return self.log_density(position)

        start = torch.cat([self.truth.weights.log(), self.truth.z.flatten()])
        seed = seeding.integer(s.seed, "hamiltorch", self.number)
        with seeded(start.device, seed):
            drawn = library.sample(
                log_prob_func=log_prob,
                params_init=start,
                num_samples=s.burn + s.draws + 1,  # the library counts the start among them
                num_steps_per_sample=s.traj_length,
                step_size=step_size(self.problem, s),
                burn=s.burn,
                desired_accept_rate=s.accept,
                sampler=library.Sampler.HMC_NUTS,
            )
        if len(drawn) < s.draws:
            raise ValueError(f"hamiltorch gave {len(drawn)} draws where {s.draws} were asked for")
        states = torch.stack([p.detach().cpu() for p in drawn[-s.draws :]])  # [draws, K + n d]
        moved = (states[1:] != states[:-1]).any(1).double()
        found = {
            "weights": torch.softmax(states[:, : self.K], 1).numpy(),
            "z": states[kept(s), self.K :].reshape(-1, *self.problem.x.shape).numpy(),
            "acceptance": np.array(float(moved.mean()) if len(moved) else 1.0),
            "evaluations": np.array(float(self.evaluations)),
            "recorded": np.array(float(recorder.number)),
        }
        self.store.save(found)
        return found


def sample(problem: Problem, truth: Truth, settings: Settings) -> Draws:
    """Draw weights and latents as the paper did.

    Processes share the chains, and each runs its own one after another. A checkpoint keeps the
    chains that are finished.

    Args:
        problem: with data x [n, d].
        truth: where chains start.
        settings: `draws`, `burn` (at least 1, for the step size), `chains`, `seed`, `step_size`
            (None for the paper's), `traj_length`, `accept`, `thin`, `keep_z`, `checkpoint`,
            `progress`.

    Returns:
        the draws on rank 0, none on other ranks; seconds are those since the start or resume.

    Raises:
        ValueError: if hamiltorch is missing, there is no burn-in, or a checkpoint is of another
            run.
    """
    library = hamiltorch()
    if settings.burn < 1:
        raise ValueError("--burn=0: hamiltorch adapts its step size in burn-in; give at least 1")
    began = time.monotonic()
    problem, cost = affordable(problem)
    total = settings.burn + settings.draws
    chains = [Chain(problem, truth, settings, number) for number in my_chains(settings)]
    results = [
        chain.run(library, progress_in_turn(settings, place, len(chains)))
        for place, chain in enumerate(chains)
    ]
    found = gather(results, settings.chains)
    complete = not distributed.any_rank(any(r["recorded"] < total for r in results))
    recorded = None
    if complete:
        recorded = gather(
            [{"trajectories": c.store.trajectories(total)} for c in chains], settings.chains
        )
    if found is None:
        return Draws(np.empty((0, settings.draws, len(problem.concentration))))
    statistics = {
        "acceptance": found["acceptance"].tolist(),
        "step_size_at_start": step_size(problem, settings),
        "integration": problem.how,
        "evaluations_per_gradient": cost,
        "trajectory_every": record_every(problem, settings),
    }
    return Draws(
        found["weights"],
        found["z"] if settings.keep_z else None,
        recorded["trajectories"] if recorded else None,
        statistics,
        cost * len(problem.x) * int(found["evaluations"].sum()),
        time.monotonic() - began,
    )
