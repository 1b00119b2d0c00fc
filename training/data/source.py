"""What a source of samples is: toy sets, tables of vectors and sets of images are all of this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor


class Source(Protocol):
    """Where samples come from, in an order that a seed and a position decide."""

    @property
    def dim(self) -> int:
        """Dimensions of a sample, d."""
        ...

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Channels, height and width (C, H, W) of images; None for samples that are none."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes; 0 for samples without labels."""
        ...

    @property
    def count(self) -> int | None:
        """How many samples there are; None for an endless stream."""
        ...

    @property
    def scale(self) -> Tensor:
        """Units of the columns, float64 [d]."""
        ...

    def samples(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor:
        """Samples start..stop of a seed's stream, [stop - start, d].

        Args:
            seed: of the order, or of the samples themselves.
            start, stop: range; that of "training" goes on for ever.
            purpose: name of the stream; "training" is what networks are trained on.

        Raises:
            ValueError: if more samples than there are are asked for outside training.
        """
        ...

    def labels(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor | None:
        """One-hot classes of the same samples, [stop - start, classes]; None without classes."""
        ...

    def basis_batches(self) -> Iterator[Tensor]:
        """This rank's share of the samples that the eigenbasis is computed from."""
        ...

    def description(self) -> dict[str, Any]:
        """What the network file says about its data."""
        ...

    def content_hash(self) -> str:
        """SHA-256 of what the data are, wherever they lie."""
        ...


class Unlabelled:
    """What samples have that are neither images nor of classes."""

    shape = None
    classes = 0

    def labels(self, seed: int, start: int, stop: int, purpose: str = "data") -> None:
        """No classes."""
