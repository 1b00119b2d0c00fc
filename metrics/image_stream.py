"""Images read a few at a time, from a folder, a .zip or a .npz, however many there are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dnnlib.arrays import load_npz
from dnnlib.util import in_order
from torch_utils import distributed
from training.data.image_decode import BadImageError, kind_of
from training.data.image_files import ImageSet, open_images


@dataclass
class ImageStream:
    """Images of one size.

    Attributes:
        count: how many.
        kind: what messages call one of them: "32x32 colour".
        read: gives a range of them, uint8 [n, C, H, W] with C = 3 or 1.
        flaw: looks at every image and gives a line on the first that cannot be used, or None.
        parts: bytes of all of them, in any pieces, for a digest.
    """

    count: int
    kind: str
    read: Callable[[range], np.ndarray]
    flaw: Callable[[], str | None] = lambda: None
    parts: Callable[[], Iterable[bytes]] = tuple

    def digest(self) -> str:
        """SHA-256 of all images as they are stored."""
        found = hashlib.sha256()
        for part in self.parts():
            found.update(part)
        return found.hexdigest()

    def chosen(self, count: int, seed: int) -> ImageStream:
        """`count` of the images, in their order, chosen by the seed as published: the same ones.

        The choice is that of the EDM family: NumPy's legacy generator shuffles all.
        """
        if count >= self.count:
            return self
        order = np.arange(self.count)
        np.random.RandomState(seed % 2**31).shuffle(order)
        picks = np.sort(order[:count]).tolist()

        def read(block: range) -> np.ndarray:
            return np.concatenate(
                [self.read(range(i, i + 1)) for i in picks[block.start : block.stop]]
            )

        return ImageStream(count, self.kind, read, self.flaw)


def open_stream(path: str | Path) -> ImageStream:
    """The images of a folder, a .zip, or a .npz with a uint8 array.

    The array is the one named "images", else the first; [n, H, W], [n, H, W, C] or [n, C, H, W].
    Where some images of a folder are in colour, grey ones become so.

    Raises:
        ValueError: one line that says what is wrong.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return _from_array(path, _load(path))
    return _from_files(path, open_images(path))


def _from_files(path: Path, images: ImageSet) -> ImageStream:
    """Stream a folder or archive: the first image says what the others must be like."""

    def image(i: int) -> Image.Image:
        try:
            return images.image(i)
        except BadImageError as error:
            raise ValueError(f"{path}: {images.names[i]} is {error}") from None

    for note in images.notes(path):
        distributed.print0(note)
    first = image(0)

    def read(block: range) -> np.ndarray:
        pixels = [np.asarray(image(i).convert("RGB")) for i in block]
        return np.stack(pixels).transpose(0, 3, 1, 2)

    def flaw() -> str | None:
        def look(i: int) -> str | None:
            try:
                size = image(i).size
            except ValueError as error:
                return str(error)
            if size == first.size:
                return None
            (w, h), (w0, h0) = size, first.size
            return f"{path}: {images.names[i]} is {w}x{h}, {images.names[0]} is {w0}x{h0}"

        n = len(images.names)
        return next(filter(None, tqdm(in_order(look, range(n)), "checking", n, disable=None)), None)

    n, raw = len(images.names), images.raw
    assert raw is not None  # folders and archives are made of files
    return ImageStream(n, kind_of(first), read, flaw, lambda: map(raw, range(n)))


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


def _from_array(path: Path, x: np.ndarray) -> ImageStream:
    held = f"{x.dtype} {list(x.shape)}"
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3) or not x.size:
        raise ValueError(
            f"{path}: holds {held}; images are uint8 [n, H, W, 3], [n, 3, H, W], or grey"
        )
    kind = f"{x.shape[3]}x{x.shape[2]} {'grey' if x.shape[1] == 1 else 'colour'}"
    return ImageStream(
        len(x), kind, lambda block: x[block.start : block.stop].copy(),
        parts=lambda: (image.tobytes() for image in x),
    )  # fmt: skip
