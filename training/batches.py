"""What a training step sees: samples, noise and labels, by seed and position alone."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.util import in_order
from torch_utils import philox, seeding
from torch_utils.seeding import BLOCKS, PHILOX
from training.augment import AugmentPipe, Changes
from training.data.source import Source

CPU = torch.device("cpu")
Piece = tuple[Tensor, Tensor, dict[str, Tensor]]  # data [n, d], noise [n, d], network's labels


class Drawn(NamedTuple):
    """What the CPU prepares of a piece: positions in the stream, data, more by name, changes."""

    rows: range
    x: Tensor
    more: dict[str, Tensor]
    changes: Changes | None


@dataclass
class Batches:
    """The endless sequence of training batches; batch `nimg` starts at sample number nimg.

    Attributes:
        source: samples.
        seed: of everything drawn here.
        size: samples a batch, over all processes.
        device: where tensors are placed.
        dtype: their precision: that of schedule and basis.
        augment: augmentation of images; None for none.
        probes: also give each sample a Rademacher "probe" [n, d] among its labels.
        dropout: also give each sample a key [n] of its dropout masks, "dropout_keys".
        generator: PHILOX, or BLOCKS for runs of before, which have no such keys.
    """

    source: Source
    seed: int
    size: int
    device: torch.device
    dtype: torch.dtype
    augment: AugmentPipe | None = None
    probes: bool = False
    dropout: bool = False
    generator: str = PHILOX

    def stream(
        self, nimg: int, parts: list[range], workers: int = 0
    ) -> Generator[Piece, None, None]:
        """Pieces of the batches from `nimg` on, for ever: the given positions of each, in order.

        Args:
            nimg: first batch.
            parts: positions within a batch.
            workers: threads that read and draw ahead of the consumer; 0 for none. What they draw
                is the same, since it depends on positions alone.
        """
        wanted = ((n, part) for n in itertools.count(nimg, self.size) for part in parts)
        if not workers:
            for n, part in wanted:
                yield self.piece(n, part)
            return
        drawn = in_order(lambda where: self._draw(*where), wanted, workers, ahead=2)
        try:
            for piece in drawn:
                yield self._finish(piece)
        finally:
            drawn.close()

    def piece(self, nimg: int, part: range) -> Piece:
        """Positions `part` of a batch: data [n, d], noise [n, d], and labels for the network."""
        return self._finish(self._draw(nimg, part))

    def _draw(self, nimg: int, part: range) -> Drawn:
        """What the CPU does for a piece; any thread may."""
        rows = range(nimg + part.start, nimg + part.stop)
        at = (self.seed, rows.start, rows.stop)
        x = self.source.samples(*at, purpose="training")
        more = {} if self._on_device else self._noise(rows, CPU)
        known = self.source.labels(*at, purpose="training")
        if known is not None:
            more["class_labels"] = known
        if self.dropout and self.generator == PHILOX:
            more["dropout_keys"] = philox.words(self.seed, "dropout", rows.start, rows.stop, 1)[
                :, 0
            ]
        changes = None
        if self.augment is not None:
            _, height, width = self.source.shape or ()
            draws = self.augment.draws(*at, self.generator)
            changes = self.augment.changes(draws, (height, width))
            more["augment_labels"] = changes.labels
        if self.device.type == "cuda":  # from pinned memory, copies do not wait
            x = x.pin_memory()
            more = {name: value.pin_memory() for name, value in more.items()}
            changes = changes and Changes(*(value.pin_memory() for value in changes))
        return Drawn(rows, x, more, changes)

    def _finish(self, drawn: Drawn) -> Piece:
        """What the device does for it, without waiting."""
        x = self._place(drawn.x)
        labels = {name: self._place(value) for name, value in drawn.more.items()}
        if self._on_device:
            labels |= self._noise(drawn.rows, self.device)
        if drawn.changes is not None:
            changes = Changes(*(self._place(value) for value in drawn.changes))
            x = changes(x.unflatten(1, self.source.shape or ())).flatten(1)
        return x.to(self.dtype), labels.pop("noise").to(self.dtype), labels

    @property
    def _on_device(self) -> bool:
        return self.generator == PHILOX and self.device.type == "cuda"

    def _noise(self, rows: range, device: torch.device) -> dict[str, Tensor]:
        """Noise of some samples, and probes, [n, d]."""
        at, d = (rows.start, rows.stop), self.source.dim
        if self.generator == BLOCKS:
            drawn = {"noise": torch.from_numpy(seeding.normals(self.seed, "noise", *at, d))}
            if self.probes:
                drawn["probe"] = seeding.rademacher(self.seed, "probe", *at, d)
            return drawn
        drawn = {"noise": philox.normals(self.seed, "noise", *at, d, device)}
        if self.probes:
            drawn["probe"] = philox.signs(self.seed, "probe", *at, d, device)
        return drawn

    def _place(self, x: Tensor) -> Tensor:
        if self.device.type == "mps" and x.dtype == torch.float64:  # which has none
            x = x.to(self.dtype)
        return x.to(self.device, non_blocking=True)
