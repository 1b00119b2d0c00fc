"""Chains that survive a kill: each keeps its state in a file of its own, written atomically."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dnnlib.arrays import load_npy, load_npz
from dnnlib.util import atomic_path
from experiments.posterior.posterior import Problem
from torch_utils import distributed

if TYPE_CHECKING:
    from experiments.posterior.mcmc import Settings

SAVE_EVERY = 30.0  # seconds
TRAJECTORY_BYTES = 64 * 2**20  # of one chain's trajectories
NOT_SETTINGS = ("progress", "checkpoint", "chains")  # these do not change a chain


class ChainStore:
    """The state and the recorded trajectories of one chain, in a folder or in memory.

    Files are {sampler}-chain{c}.npz, the one before it as {sampler}-chain{c}-before.npz, and
    {sampler}-chain{c}-trajectory{iteration}.npy, which are written once each. A chain is the same
    whichever process runs it, so that a run may go on with other processes than it began with.

    Args:
        folder: None keeps the trajectories in memory and no state.
        sampler: name in the files.
        chain: number of the chain.
        fingerprint: of what the chain depends on; see `fingerprint`.
        every: record every so many trajectories.
    """

    def __init__(
        self, folder: Path | None, sampler: str, chain: int, fingerprint: str, every: int = 1
    ):
        self.folder = folder
        self.name = f"{sampler}-chain{chain:02d}"
        self.fingerprint = fingerprint
        self.every = every
        self.saved = time.monotonic()
        self.memory: dict[int, np.ndarray] = {}

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays last saved, or those before where they are damaged; None for neither.

        Raises:
            ValueError: if they are of other data or other settings, naming the file.
        """
        if self.folder is None:
            return None
        for path in (self._path, self._before):
            try:
                arrays = load_npz(path)
                mark = str(arrays.pop("fingerprint"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError) as error:
                print(f"Passing over a damaged state of a chain: {path}: {error}", flush=True)
                continue
            if mark != self.fingerprint:
                raise ValueError(
                    f"{path} is a chain of other data or other settings: give the settings that "
                    "it was begun with, or another folder"
                )
            return arrays
        return None

    def save(self, arrays: dict[str, Any]) -> None:
        """Save arrays; the ones before are kept beside."""
        if self.folder is not None:
            with atomic_path(self._path) as path:
                np.savez(path, fingerprint=self.fingerprint, **arrays)
                if self._path.exists():
                    os.replace(self._path, self._before)
            self.saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return self.folder is not None and time.monotonic() - self.saved > SAVE_EVERY

    def records(self, iteration: int) -> bool:
        """Whether the trajectory of this iteration is recorded."""
        return iteration % self.every == 0

    def record(self, iteration: int, trajectory: np.ndarray) -> None:
        """Keep a trajectory, [steps, parameters], in single precision."""
        with np.errstate(over="ignore"):  # one that diverges may end anywhere
            trajectory = trajectory.astype(np.float32)
        if self.folder is None:
            self.memory[iteration] = trajectory
            return
        with atomic_path(self._trajectory(iteration)) as path, open(path, "wb") as file:
            np.save(file, trajectory)

    def trajectories(self, iterations: int) -> np.ndarray:
        """Trajectories recorded in iterations 0 ... iterations, [number, steps, parameters]."""
        numbers = range(0, iterations, self.every)
        if self.folder is None:
            return np.stack([self.memory[i] for i in numbers])
        return np.stack([self._recorded(i) for i in numbers])

    def _recorded(self, iteration: int) -> np.ndarray:
        path = self._trajectory(iteration)
        try:
            return load_npy(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: missing or damaged ({error}); begin the run again") from None

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}.npz"

    @property
    def _before(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}-before.npz"

    def _trajectory(self, iteration: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}-trajectory{iteration:06d}.npy"


def fingerprint(problem: Problem, settings: Settings) -> str:
    """A digest of the data and of all that a chain depends on.

    The data are rounded first: the last digits of a simulation differ between machines.
    """
    names = [f.name for f in fields(settings) if f.name not in NOT_SETTINGS]
    facts = {name: getattr(settings, name) for name in names}
    facts |= {"noise_var": problem.noise_var, "how": problem.how, "shape": tuple(problem.x.shape)}
    facts |= {"concentration": problem.concentration.tolist()}
    digest = hashlib.sha256(repr(sorted(facts.items())).encode())
    digest.update((problem.x.cpu().numpy().round(4) + 0.0).tobytes())
    return digest.hexdigest()


def record_every(problem: Problem, settings: Settings) -> int:
    """Every how many trajectories are recorded: `thin`, or more where they would be too large."""
    parameters = problem.x.numel() + len(problem.concentration)
    size = 4 * parameters * settings.traj_length
    return max(settings.thin, math.ceil(size * (settings.draws + settings.burn) / TRAJECTORY_BYTES))


def kept(settings: Settings) -> list[int]:
    """Which draws, counted after burn-in, keep their latents: `keep_z` of them, evenly spread."""
    number = min(settings.keep_z, settings.draws)
    return [round(i) for i in np.linspace(0, settings.draws - 1, number)]


def my_chains(settings: Settings) -> list[int]:
    """Numbers of the chains that this rank runs."""
    return [c for rows in distributed.share(settings.chains, 1) for c in rows]


def progress_in_turn(settings: Settings, place: int, count: int) -> Callable[[int, dict], None]:
    """What to call with a chain's progress, where `count` of them run one after another.

    Args:
        settings: whose `progress` hears of the iterations done, averaged over these chains.
        place: of the chain among them.
        count: chains of this rank.
    """
    total = settings.burn + settings.draws

    def progress(done: int, facts: dict) -> None:
        if settings.progress is not None:
            settings.progress((place * total + done) // count, facts)

    return progress


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's own generator, which other libraries draw from, seeded; restored after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def gather(mine: list[dict[str, np.ndarray]], chains: int) -> dict[str, np.ndarray] | None:
    """Arrays of all ranks' chains, dealt by `distributed.share(chains, 1)`.

    Args:
        mine: name -> array of each chain of this rank; names and shapes are alike in all.
        chains: of all ranks.

    Returns:
        name -> [chains, ...] in order on rank 0, None on others.
    """
    names = distributed.broadcast(list(mine[0]) if mine else [])  # rank 0 has a chain
    assert isinstance(names, list)
    found: dict[str, np.ndarray] = {}
    for name in names:
        blocks = [torch.from_numpy(np.asarray(m[name]))[None] for m in mine]
        together = distributed.gather_blocks(blocks, chains, 1)
        if together is not None:
            found[name] = together.numpy()
    return found if distributed.is_main() else None
