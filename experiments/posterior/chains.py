"""The one driver of all samplers: it runs their chains, saves, resumes and gathers them.

A sampler is an `init` and a `step` (as in blackjax): what a chain is between two steps is a
NamedTuple, which is saved as it is, and every step draws from generators of its own, seeded by
chain and step, so that a saved chain needs no random state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.util import Json
from experiments.posterior.chain_store import ChainStore, packed, unpacked
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import Draws, Problem, Truth
from torch_utils import distributed, seeding
from torch_utils.work import digest

TRAJECTORY_BYTES = 64 * 2**20  # of one chain's trajectories
FREE = ("chains",)  # settings that do not change a chain
Facts = dict[str, str]  # to show beside a progress bar
Progress = Callable[[int, Facts], None]  # told the draws made so far, and facts


class Sampler:
    """How chains begin, move, and are summed up: the base class of all samplers.

    They are made of a problem with data x [n, d], what these were simulated from, options, and a
    folder (or none) for what is needed to go on after a kill.

    Attributes:
        name: in the files of chains, and in the seeds of their random numbers.
        state: the type of a chain's state, a NamedTuple.
        problem: as the sampler integrates it.
        options: of the sampler.
        steps: of a chain.
    """

    name: str
    state: type

    def __init__(self, problem: Problem, options: SamplerOptions, steps: int):
        self.problem, self.options, self.steps = problem, options, steps

    def init(self, chain: Chain) -> Any:
        """The state that a chain begins with."""
        return self.state()

    def step(self, state: Any, number: int, chain: Chain) -> tuple[Any, int, Facts]:
        """One step of a chain, which gets draws and trajectories.

        Returns:
            the next state, iterations done so far (burn-in included), and facts.
        """
        raise NotImplementedError

    def outcome(self, state: Any, chain: Chain) -> dict[str, np.ndarray]:
        """What there is to know of a finished chain beside its draws: the numbers of its state."""
        numbers = {k: v for k, v in state._asdict().items() if isinstance(v, (int, float))}
        return {name: np.array(float(value)) for name, value in numbers.items()}

    def summary(self, found: dict[str, np.ndarray]) -> Draws:
        """Draws with statistics, evaluations and warnings, of the outcomes of all chains.

        Args:
            found: name -> [chains, ...], with "weights".
        """
        raise NotImplementedError

    def random(self, chain: int, index: int) -> np.random.Generator:
        """Random numbers of one step of a chain, or of its beginning."""
        return seeding.generator(self.options.seed, f"{self.name} chain {chain}", index)


Build = Callable[[Problem, Truth, SamplerOptions, Path | None], Sampler]


class Chain:
    """One chain: its state, what it has drawn, and the file of both.

    A chain is the same whichever process runs it, and however many there are.

    Args:
        sampler: of the chain.
        number: of the chain.
        folder: for its files; None for none.

    Attributes:
        weights: draws, [draws, K].
        z: latents of the draws `kept`, [kept, n, d].
        at: iterations done, burn-in included.
        steps: done.
        recorded: trajectories.
    """

    def __init__(self, sampler: Sampler, number: int, folder: Path | None = None):
        problem, options = sampler.problem, sampler.options
        self.sampler, self.number = sampler, number
        mark, every = fingerprint(problem, options), record_every(problem, options)
        self.store = ChainStore(folder, sampler.name, number, mark, every)
        self.kept = kept(options)
        self.weights = np.empty((options.mcmc_n, len(problem.concentration)))
        self.z = np.empty((len(self.kept), *problem.x.shape))
        self.at = self.steps = self.recorded = 0
        self.state: Any = None
        self.progress: Callable[[Facts], None] = lambda facts: None

    def begin(self) -> None:
        """Take up the saved chain, or make a new one."""
        saved = self.store.load()
        if saved is None:
            self.state = self.sampler.init(self)
            self.save()
            return
        self.state = unpacked(self.sampler.state, saved, self.sampler.problem.x.device)
        self.weights, self.z = saved["weights"], saved["z"]
        self.at, self.steps, self.recorded = (int(i) for i in saved["done"])

    def advance(self) -> None:
        """One step."""
        self.state, self.at, facts = self.sampler.step(self.state, self.steps, self)
        self.steps += 1
        if self.store.due or self.steps == self.sampler.steps:
            self.save()
        self.progress(facts)

    def save(self) -> None:
        """Save everything that the rest of the chain depends on."""
        done = np.array([self.at, self.steps, self.recorded])
        self.store.save({"done": done, "weights": self.weights, "z": self.z, **packed(self.state)})

    def tell(self, iterations: int, facts: Facts) -> None:
        """Say how far the chain is."""
        self.at = iterations
        self.progress(facts)

    def draw(
        self, first: int, weights: np.ndarray, latents: Callable[[list[int]], np.ndarray]
    ) -> None:
        """Leave draws.

        Args:
            first: number of the first of them; negative in burn-in, whose draws are not kept.
            weights: [m, K].
            latents: numbers of draws, from 0 to m -> their latents, [s, n, d].
        """
        last = first + len(weights)
        self.weights[max(0, first) : max(0, last)] = weights[max(0, -first) :]
        places = [i for i, which in enumerate(self.kept) if first <= which < last]
        if places:
            self.z[places] = latents([self.kept[i] - first for i in places])

    def record(self, iteration: int, path: np.ndarray) -> None:
        """Leave the trajectory of an iteration, [steps, K + n d]."""
        self.store.record(iteration, path)
        self.recorded += 1


def draw(
    build: Build,
    problem: Problem,
    truth: Truth,
    options: SamplerOptions,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Draws:
    """Run a sampler's chains, in a session; every rank must call this, and runs its share of them.

    Args:
        build: the sampler.
        problem: with data x [n, d].
        truth: what they were simulated from.
        options: of the sampler.
        folder: for what is needed to go on after a kill; None for nowhere.
        progress: told the iterations done, a chain of this rank on average.

    Returns:
        the draws on rank 0, none on other ranks; seconds are those since the start or resume.

    Raises:
        ValueError: what the sampler has to say of its options, or if a saved chain is of another
            run.
    """
    began = time.monotonic()
    sampler = build(problem, truth, options, folder)
    numbers = [c for rows in distributed.share(options.chains, 1) for c in rows]
    chains = [Chain(sampler, c, folder) for c in numbers]

    def tell(facts: Facts) -> None:
        if progress is not None:
            progress(sum(chain.at for chain in chains) // len(chains), facts)

    for chain in chains:
        chain.progress = tell
        chain.begin()
    for step in range(sampler.steps):
        for chain in chains:
            if chain.steps == step:
                chain.advance()
    found = gather([_found(chain) for chain in chains], options.chains)
    if found is None:
        return Draws(np.empty((0, options.mcmc_n, len(problem.concentration))))
    return replace(
        sampler.summary(found),
        z=found["z"] if options.keep_z else None,
        trajectories=found.get("trajectories"),
        seconds=time.monotonic() - began,
    )


def _found(chain: Chain) -> dict[str, np.ndarray]:
    """What a finished chain has drawn, and its trajectories where it has recorded all of them."""
    found = {"weights": chain.weights, "z": chain.z} | chain.sampler.outcome(chain.state, chain)
    total = chain.sampler.options.burn + chain.sampler.options.mcmc_n
    if chain.recorded == len(range(0, total, chain.store.every)):
        found["trajectories"] = chain.store.trajectories(total)
    return found


def gather(mine: list[dict[str, np.ndarray]], chains: int) -> dict[str, np.ndarray] | None:
    """Arrays of all ranks' chains, dealt by `distributed.share(chains, 1)`.

    Args:
        mine: name -> array of each chain of this rank; shapes are alike in all.
        chains: of all ranks.

    Returns:
        name -> [chains, ...] in order on rank 0, of the names that every chain has; None on others.
    """
    names = [list(m) for rank in distributed.gather_objects([list(m) for m in mine]) for m in rank]
    found: dict[str, np.ndarray] = {}
    for name in (name for name in names[0] if all(name in other for other in names)):
        blocks = [torch.from_numpy(np.asarray(m[name]))[None] for m in mine]
        together = distributed.gather_blocks(blocks, chains, 1)
        if together is not None:
            found[name] = together.numpy()
    return found if distributed.is_main() else None


def fingerprint(problem: Problem, options: SamplerOptions) -> str:
    """A digest of the data and of all that a chain depends on.

    The data are rounded first: the last digits of a simulation differ between machines.
    """
    facts: Json = {k: v for k, v in options.settings().items() if k not in FREE}
    facts |= {"noise_var": problem.noise_var, "how": problem.how}
    return digest([facts, problem.concentration, problem.x.cpu().numpy().round(4) + 0.0])


def record_every(problem: Problem, options: SamplerOptions) -> int:
    """Every how many trajectories are recorded: `thin`, or more where they would be too large."""
    parameters = problem.x.numel() + len(problem.concentration)
    size = 4 * parameters * options.traj_length * (options.mcmc_n + options.burn)
    return max(options.thin, math.ceil(size / TRAJECTORY_BYTES))


def of_gradients(sampler: Sampler, cost: int) -> Json:
    """What the results of every gradient sampler say, `cost` evaluations being one gradient."""
    return {
        "integration": sampler.problem.how,
        "evaluations_per_gradient": cost,
        "trajectory_every": record_every(sampler.problem, sampler.options),
    }


def kept(options: SamplerOptions) -> list[int]:
    """Which draws, counted after burn-in, keep their latents: `keep_z` of them, evenly spread."""
    number = min(options.keep_z, options.mcmc_n)
    return [round(i) for i in np.linspace(0, options.mcmc_n - 1, number)]


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's own generator, which other libraries draw from, seeded; restored after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
