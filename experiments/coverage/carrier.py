"""Points of a coverage experiment on their way through the flow: latent, generated, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flow.flow import Flow
from flow.method import Method
from torch_utils import seeding
from torch_utils.work import NOTHING_KEPT, Parts, shared_rows

STAGES = ("latent", "gen", "roundtrip")
CAPTIONS = {"latent": "latent", "gen": "after generation", "roundtrip": "after inflating back"}
LEAST_KEPT = 1000  # rows whose passage is kept on disk


@dataclass
class Carrier:
    """The flow of one experiment. Its methods share points among ranks: all ranks must call them.

    Attributes:
        flow: the flow.
        method: how to integrate.
        eps: variance of the compressed latents in the paper's coordinates; None for the schedule's.
        parts: keeps what has been carried; its identity says nothing of flow, method and eps.
    """

    flow: Flow
    method: Method
    eps: float | None = None
    parts: Parts = NOTHING_KEPT

    def __post_init__(self) -> None:
        if self.parts.folder is not None:
            self.parts = self.parts.also(
                flow=self.flow.model, method=self.method.how(), eps=self.eps
            )

    def kept(self, rows: np.ndarray, **identity: Any) -> Parts:
        """What keeps the outcome of so many rows; few are sooner carried again than read."""
        if len(rows) < LEAST_KEPT:
            return NOTHING_KEPT
        return self.parts.also(rows=rows, **identity)

    def points(self, n: int, seed: int) -> np.ndarray:
        """Test points of a seed, standard normal, [n, d]."""
        return seeding.normals(seed, "latents", 0, n, self.flow.schedule.data_dim)

    def latents(self, z: np.ndarray) -> Tensor:
        """Standard normal coordinates z [n, d] to whitened latents."""
        return self.flow.colour(torch.from_numpy(z), self.eps, self.method.stop)

    def passage(self, z: np.ndarray, label: str = "boundary") -> tuple[np.ndarray, np.ndarray]:
        """Latents z [n, d] to data in its own units, and those back to latents z, [n, d] each."""
        u = self.latents(z)

        def there_and_back(rows: range) -> Tensor:
            block = u[rows.start : rows.stop]
            x = self.flow.generate(block, coords="whitened", **self.method.how())
            back = self.flow.inflate(x, coords="whitened", **self.method.how())
            return torch.stack([x, back], 1)

        parts = self.kept(z, way="there and back")
        states = shared_rows(there_and_back, len(z), self.flow.block, label, parts)
        return states[:, 0].numpy(), self._normal(states[:, 1])

    def stages(self, z: np.ndarray, x: np.ndarray, back: np.ndarray) -> dict[str, np.ndarray]:
        """Points of the three stages in the coordinates of the geometry, [n, d] each."""
        flow, method = self.flow, self.method
        data = flow.to_whitened(x, method.start, "unscaled")
        return {
            "latent": self._scaled(z),
            "gen": flow.from_whitened(data, method.start, "scaled").cpu().numpy(),
            "roundtrip": self._scaled(back),
        }

    def _scaled(self, z: np.ndarray) -> np.ndarray:
        u = self.latents(z)
        return self.flow.from_whitened(u, self.method.stop, "scaled_es").cpu().numpy()

    def _normal(self, u: Tensor) -> np.ndarray:
        """Whitened latents [n, d] to z: the inverse of `latents`."""
        return (u / self.latents(np.ones((1, u.shape[1]))).to(u)).numpy()
