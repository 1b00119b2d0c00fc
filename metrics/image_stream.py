"""Images read a few at a time, from a folder, a .zip or a .npz, however many there are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dnnlib.arrays import load_npz
from dnnlib.util import in_order
from torch_utils import distributed
from training.data.image_decode import kind_of
from training.data.image_files import ImageSet, open_images
from training.data.image_sets import array_set


@dataclass(frozen=True)
class ImageStream:
    """Images of one size, in colour; the first one says what the others must be like.

    Attributes:
        images: all images of the source.
        picks: numbers of those in the stream, [count].
        first: image 0.
    """

    images: ImageSet
    picks: np.ndarray
    first: Image.Image

    @property
    def count(self) -> int:
        """How many images the stream has."""
        return len(self.picks)

    @property
    def kind(self) -> str:
        """What messages call an image: "32x32 colour"."""
        return kind_of(self.first)

    def read(self, block: range) -> np.ndarray:
        """A range of the stream, uint8 [n, 3, H, W].

        Raises:
            ValueError: naming an image that cannot be used.
        """
        picks = self.picks[block.start : block.stop]
        pixels = [np.asarray(self.images.sure(i).convert("RGB")) for i in picks]
        return np.stack(pixels).transpose(0, 3, 1, 2)

    def flaw(self) -> str | None:
        """A line on the first image of the source that cannot be used, or None."""
        names, (w0, h0) = self.images.names, self.first.size

        def look(i: int) -> str | None:
            try:
                w, h = self.images.sure(i).size
            except ValueError as error:
                return str(error)
            said = f"{self.images.path}: {names[i]} is {w}x{h}, {names[0]} is {w0}x{h0}"
            return None if (w, h) == (w0, h0) else said

        n = len(names)
        return next(filter(None, tqdm(in_order(look, range(n)), "checking", n, disable=None)), None)

    def digest(self) -> str:
        """SHA-256 of all images of the source as they are stored."""
        found = hashlib.sha256()
        for i in range(len(self.images.names)):
            found.update(self.images.raw(i))
        return found.hexdigest()

    def chosen(self, count: int, seed: int) -> ImageStream:
        """`count` of the images, in their order, chosen by the seed as published: the same ones.

        The choice is that of the EDM family: NumPy's legacy generator shuffles all.
        """
        if count >= self.count:
            return self
        order = np.arange(self.count)
        np.random.RandomState(seed % 2**31).shuffle(order)
        return replace(self, picks=self.picks[np.sort(order[:count])])


def open_stream(path: str | Path) -> ImageStream:
    """The images of a folder, a .zip, or a .npz with a uint8 array.

    The array is the one named "images", else the first; [n, H, W], [n, H, W, C] or [n, C, H, W].
    Where some images of a folder are in colour, grey ones become so.

    Raises:
        ValueError: one line that says what is wrong.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return of_array(path, _load(path))
    images = open_images(path)
    for note in images.notes():
        distributed.print0(note)
    return _stream(images)


def _stream(images: ImageSet) -> ImageStream:
    return ImageStream(images, np.arange(len(images.names)), images.sure(0))


def _load(path: Path) -> np.ndarray:
    try:
        arrays = load_npz(path)
        if not arrays:
            raise ValueError("it is empty")
        return arrays["images" if "images" in arrays else next(iter(arrays))]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error})") from None


def of_array(path: Path, x: np.ndarray) -> ImageStream:
    """A stream of the images of an array, see `open_stream`.

    Raises:
        ValueError: if it is no array of images.
    """
    held = f"{x.dtype} {list(x.shape)}"
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    if x.ndim == 4 and x.shape[3] == 1:
        x = x[..., 0]
    if x.dtype != np.uint8 or not x.size or not (x.ndim == 3 or x.shape[3:] == (3,)):
        raise ValueError(
            f"{path}: holds {held}; images are uint8 [n, H, W, 3], [n, 3, H, W], or grey"
        )
    return _stream(array_set(path, x))
