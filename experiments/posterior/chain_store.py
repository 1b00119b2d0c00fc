"""Chains that survive a kill: each keeps its state in a file of its own, written atomically."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from dnnlib.arrays import load_npy, load_npz
from dnnlib.util import atomic_path

SAVE_EVERY = 30.0  # seconds


class ChainStore:
    """The state and the recorded trajectories of one chain, in a folder or in memory.

    Files are {name}.npz, the one before it as {name}-before.npz, and
    {name}-trajectory{iteration}.npy, which are written once each.

    Args:
        folder: None keeps the trajectories in memory and no state.
        sampler: name in the files.
        chain: number of the chain.
        fingerprint: of what the chain depends on; see `chains.fingerprint`.
        every: record every so many trajectories.
    """

    def __init__(
        self, folder: Path | None, sampler: str, chain: int, fingerprint: str, every: int = 1
    ):
        self.kept = folder is not None
        self.name = (folder or Path()) / f"{sampler}-chain{chain:02d}"
        self.fingerprint = fingerprint
        self.every = every
        self.saved = time.monotonic()
        self.memory: dict[int, np.ndarray] = {}

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays last saved, or those before where they are damaged; None for neither.

        Raises:
            ValueError: if they are of other data or other settings, naming the file.
        """
        for path in (self._path(".npz"), self._path("-before.npz")) if self.kept else ():
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
        if self.kept:
            with atomic_path(self._path(".npz")) as path:
                np.savez(path, fingerprint=self.fingerprint, **arrays)
                if self._path(".npz").exists():
                    os.replace(self._path(".npz"), self._path("-before.npz"))
            self.saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return self.kept and time.monotonic() - self.saved > SAVE_EVERY

    def records(self, iteration: int) -> bool:
        """Whether the trajectory of this iteration is recorded."""
        return iteration % self.every == 0

    def record(self, iteration: int, trajectory: np.ndarray) -> None:
        """Keep a trajectory, [steps, parameters], in single precision."""
        with np.errstate(over="ignore"):  # one that diverges may end anywhere
            trajectory = trajectory.astype(np.float32)
        if not self.kept:
            self.memory[iteration] = trajectory
            return
        with atomic_path(self._trajectory(iteration)) as path, open(path, "wb") as file:
            np.save(file, trajectory)

    def trajectories(self, iterations: int) -> np.ndarray:
        """Trajectories recorded in iterations 0 ... iterations, [number, steps, parameters]."""
        read = self._recorded if self.kept else self.memory.__getitem__
        return np.stack([read(i) for i in range(0, iterations, self.every)])

    def _recorded(self, iteration: int) -> np.ndarray:
        path = self._trajectory(iteration)
        try:
            return load_npy(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: missing or damaged ({error}); begin the run again") from None

    def _path(self, end: str) -> Path:
        return self.name.with_name(self.name.name + end)

    def _trajectory(self, iteration: int) -> Path:
        return self._path(f"-trajectory{iteration:06d}.npy")


def packed(state: Any) -> dict[str, np.ndarray]:
    """A NamedTuple of tensors, arrays and numbers as arrays: state.field -> array."""
    values = state._asdict().items()
    return {
        f"state.{name}": x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        for name, x in values
    }


def unpacked(kind: Any, arrays: dict[str, np.ndarray], device: torch.device) -> Any:
    """Undo `packed`: the NamedTuple of a type, its tensors on a device."""

    def field(name: str, hint: Any) -> Any:
        array = arrays[f"state.{name}"]
        if hint is Tensor:
            return torch.from_numpy(array).to(device)
        return array if hint is np.ndarray else hint(array)

    return kind(**{name: field(name, hint) for name, hint in get_type_hints(kind).items()})
