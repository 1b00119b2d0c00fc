"""What a source of samples is: toy sets, tables of vectors and sets of images are all of this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Source(ABC):
    """Where samples come from, in an order that a seed and a position decide.

    Attributes:
        dim: dimensions of a sample, d.
        scale: units of the columns, float64 [d].
        shape: channels, height and width (C, H, W) of images; None for samples that are none.
        classes: number of classes; 0 without labels.
        count: how many samples there are; None for an endless stream.
    """

    dim: int
    scale: Tensor
    shape: tuple[int, ...] | None = None
    classes: int = 0
    count: int | None = None

    @abstractmethod
    def samples(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor:
        """Samples start..stop of a seed's stream, [stop - start, d].

        Args:
            seed: of the order, or of the samples themselves.
            start, stop: range; that of "training" goes on for ever.
            purpose: name of the stream; "training" is what networks are trained on.

        Raises:
            ValueError: if more samples than there are are asked for outside training.
        """

    def labels(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor | None:
        """One-hot classes of the same samples, float32 [stop - start, classes]; None without."""
        return None

    @abstractmethod
    def basis_batches(self) -> Iterator[Tensor]:
        """This rank's share of the samples that the eigenbasis is computed from."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What the network file says about its data."""

    @abstractmethod
    def content_hash(self) -> str:
        """SHA-256 of what the data are, wherever they lie."""
