"""What a training step sees: samples, noise, times and labels, by seed and position alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training import seeding
from training.augment import AugmentPipe
from training.precond import sigma_times
from training.schedule import Schedule


class Source(Protocol):
    """Where training samples come from.

    A source of images also has `shape` (C, H, W) and `labels(seed, start, stop, purpose)`, one-hot
    classes [n, classes] or None.
    """

    @property
    def dim(self) -> int:
        """Dimensions of a sample, d."""
        ...

    @property
    def scale(self) -> Tensor:
        """Units of the columns, [d]."""
        ...

    def basis_batches(self) -> Iterator[Tensor]:
        """This rank's share of the samples that the eigenbasis is computed from."""
        ...

    def samples(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor:
        """Samples start..stop of a seed's stream, [stop - start, d]."""
        ...

    def description(self) -> dict:
        """What the network file says about its data."""
        ...


@dataclass
class Batches:
    """The endless sequence of training batches; batch `nimg` starts at sample number nimg.

    Attributes:
        source: samples.
        schedule: its tmax bounds the times.
        seed: of everything drawn here.
        size: samples a batch, over all processes.
        device: where tensors are placed.
        dtype: their precision: that of schedule and basis.
        tmin: times are uniform on (tmin, tmax).
        t_sampling: "uniform" or "lognormal" (EDM).
        augment: augmentation of images; None for none.
    """

    source: Source
    schedule: Schedule
    seed: int
    size: int
    device: torch.device
    dtype: torch.dtype
    tmin: float = 1e-7
    t_sampling: str = "uniform"
    augment: AugmentPipe | None = None

    def times(self, nimg: int) -> Tensor:
        """Stratified random times of a whole batch, [size]."""
        rng = seeding.generator(self.seed, "times", nimg)
        q = torch.from_numpy((rng.permutation(self.size) + rng.random()) / self.size)
        if self.t_sampling == "lognormal":
            return self._place(sigma_times(self.schedule, q))
        return self._place(self.tmin + (self.schedule.tmax - self.tmin) * q)

    def piece(self, nimg: int, part: range) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Positions `part` of a batch: data [n, d], noise [n, d], and labels for the network."""
        lo, hi = nimg + part.start, nimg + part.stop
        x = self.source.samples(self.seed, lo, hi, purpose="training").to(self.device)
        labels: dict[str, Tensor] = {}
        classes = getattr(self.source, "labels", None)
        known = None if classes is None else classes(self.seed, lo, hi, purpose="training")
        if known is not None:
            labels["class_labels"] = known.to(self.device)
        if self.augment is not None:
            images = x.reshape(-1, *self.source.shape)  # type: ignore[attr-defined]
            images, done = self.augment(images, self.augment.draws(self.seed, lo, hi))
            x, labels["augment_labels"] = images.flatten(1), done
        noise = torch.from_numpy(seeding.normals(self.seed, "noise", lo, hi, self.source.dim))
        return self._place(x), self._place(noise), labels

    def _place(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).to(self.device)
