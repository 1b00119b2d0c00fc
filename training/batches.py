"""What a training step sees: samples, noise and labels, by seed and position alone."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import in_order
from torch_utils import seeding
from training.augment import AugmentPipe
from training.data.source import Source

Piece = tuple[Tensor, Tensor, dict[str, Tensor]]  # data [n, d], noise [n, d], network's labels


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
    """

    source: Source
    seed: int
    size: int
    device: torch.device
    dtype: torch.dtype
    augment: AugmentPipe | None = None
    probes: bool = False

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
                yield self._finish(*piece)
        finally:
            drawn.close()

    def piece(self, nimg: int, part: range) -> Piece:
        """Positions `part` of a batch: data [n, d], noise [n, d], and labels for the network."""
        return self._finish(*self._draw(nimg, part))

    def _draw(self, nimg: int, part: range) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What the CPU does for a piece; any thread may."""
        lo, hi = nimg + part.start, nimg + part.stop
        x = self.source.samples(self.seed, lo, hi, purpose="training")
        noise = torch.from_numpy(seeding.normals(self.seed, "noise", lo, hi, self.source.dim))
        more: dict[str, Tensor] = {}
        known = self.source.labels(self.seed, lo, hi, purpose="training")
        if known is not None:
            more["class_labels"] = known
        if self.probes:
            more["probe"] = seeding.rademacher(self.seed, "probe", lo, hi, self.source.dim)
        if self.augment is not None:
            more["augment"] = self.augment.draws(self.seed, lo, hi)
        if self.device.type == "cuda":  # from pinned memory, copies do not wait
            return x.pin_memory(), noise.pin_memory(), {k: v.pin_memory() for k, v in more.items()}
        return x, noise, more

    def _finish(self, x: Tensor, noise: Tensor, more: dict[str, Tensor]) -> Piece:
        """What the device does for it."""
        x = x.to(self.device, non_blocking=True)
        labels: dict[str, Tensor] = {
            name: more[name].to(self.device, non_blocking=True)
            for name in ("class_labels", "probe")
            if name in more
        }
        if self.augment is not None:
            images = x.unflatten(1, self.source.shape or ())
            images, done = self.augment(images, more["augment"])
            x, labels["augment_labels"] = images.flatten(1), done
        return self._place(x), self._place(noise), labels

    def _place(self, x: Tensor) -> Tensor:
        if self.device.type == "mps":  # which has no float64
            return x.to(self.dtype).to(self.device)
        return x.to(self.device, non_blocking=True).to(self.dtype)
