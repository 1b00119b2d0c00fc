"""Images as a training source: decoded once, shared by the processes of a machine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.cache import cache_dir
from dnnlib.host import printable
from dnnlib.util import atomic_path, in_order
from torch_utils import distributed, seeding
from torch_utils.peers import local_world_size
from training.data.image_decode import kind, kind_of
from training.data.image_files import ImageSet, open_images
from training.data.image_labels import spelled
from training.data.source import Source

CACHE_VERSION = 1
CACHE_MIN = 2**25  # bytes of pixels: less is decoded in a second or two
CACHE_WAIT = 3600.0  # seconds that a process waits for the one that decodes
BASIS_BLOCK = 2048


class ImageSource(Source):
    """Images of a .zip or folder, all of one size, as vectors in [-1, 1].

    Args:
        path: made by dataset_tool.py, or any folder or .zip of equal images.
        use_labels: whether `labels` gives classes; otherwise it gives None.
        xflip: also use every image mirrored: images n..2n-1 are those of 0..n-1, flipped.
        max_size: use only so many images, drawn by `seed`, in the file's order; None for all.
        seed: of the choice of `max_size`.
        cache: whether decoded pixels may be kept in the cache folder, where the next process finds
            them; sets of less than CACHE_MIN bytes are kept only for processes that run together.
        class_labels: labels of the classes that a network knows, in its order; None for those of
            the file, in increasing order.

    Attributes:
        shape: channels, height and width of an image, (C, H, W).
        dim: C H W, the dimensions d of a sample.
        kind: what messages call an image: "32x32 colour".
        count: how many images there are, mirrored ones included.
        scale: units of the columns: ones, float64 [d].
        pixels: the images without mirroring, read-only uint8 [n, C, H, W].
        classes: number of classes, 0 without labels; that of the whole file, whatever `max_size`.
        class_labels: the file's label of each class, int64 [classes].

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """

    shape: tuple[int, ...]
    count: int

    def __init__(
        self,
        path: str | Path,
        use_labels: bool = False,
        xflip: bool = False,
        max_size: int | None = None,
        seed: int = 0,
        cache: bool = True,
        class_labels: np.ndarray | None = None,
    ):
        self.path, self.xflip = Path(path), xflip
        if max_size is not None and max_size < 1:
            raise ValueError(f"{path}: max_size={max_size} leaves no images; give at least 1")
        with open_images(self.path) as images:
            picks = np.arange(len(images.names))
            if max_size is not None and max_size < len(picks):
                picks = np.sort(seeding.generator(seed, "subset").permutation(picks)[:max_size])
            known = None if images.labels is None else np.array(images.labels)
            for note in images.notes():
                distributed.print0(note)
            if use_labels and known is None:
                why = f" ({images.origin})" if images.origin else ""
                raise ValueError(
                    f"{path}: has no labels{why}; train without classes, or make it from class "
                    "folders"
                )
            self.pixels = _all_pixels(images, picks, cache)
        self._stored_labels = None if known is None else known[picks]
        self.class_labels = np.empty(0, np.int64)
        if use_labels and known is not None:
            self.class_labels = np.unique(known) if class_labels is None else class_labels
            other = np.setdiff1d(known, self.class_labels)
            if len(other):
                raise ValueError(
                    f"{path}: has the label {other[0]}, which is none of the network's classes "
                    f"({spelled(self.class_labels)})"
                )
            self._numbers = np.searchsorted(self.class_labels, known[picks])
            empty = np.setdiff1d(known, known[picks])
            if len(empty):
                distributed.print0(
                    f"Note: {path}: {len(empty)} classes have no image among the {len(picks)} used"
                )
        self.classes = len(self.class_labels)
        self.count = len(self.pixels) * (2 if xflip else 1)
        self.shape = tuple(self.pixels.shape[1:])
        self.kind = kind(*self.shape[::-1])
        self.dim = int(np.prod(self.shape))
        self.scale = torch.ones(self.dim, dtype=torch.float64)

    def __len__(self) -> int:
        """The same as `count`."""
        return self.count

    def samples(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor:
        """Images start..stop of a stream, x/127.5 - 1, float32 [stop - start, d].

        Args:
            seed: of the order in training.
            start, stop: range; "training" goes on for ever, reshuffled each epoch.
            purpose: "training", "drawn" (each image once, in an order drawn by the seed), or
                anything else for the file's own order.

        Raises:
            ValueError: if more images than there are are asked for outside training.
        """
        raw = self._levels(self.picks(seed, start, stop, purpose))
        return raw.float().div_(127.5).sub_(1)

    def _levels(self, picks: np.ndarray) -> Tensor:
        """Images by number as they are stored, uint8 [n, d]."""
        raw = self.pixels[picks % len(self.pixels)]
        mirrored = picks >= len(self.pixels)
        raw[mirrored] = raw[mirrored, ..., ::-1]
        return torch.from_numpy(raw).flatten(1)

    def labels(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor | None:
        """One-hot classes of the same samples, float32 [stop - start, classes]; None without."""
        if not self.classes:
            return None
        picks = torch.from_numpy(self.picks(seed, start, stop, purpose) % len(self.pixels))
        number = torch.from_numpy(self._numbers)[picks]
        return torch.nn.functional.one_hot(number, self.classes).float()

    def varies(self) -> bool:
        """Whether any two images, mirrored ones included, differ."""
        first = self.pixels[0]
        if self.xflip and (first != first[..., ::-1]).any():
            return True
        blocks = range(0, len(self.pixels), BASIS_BLOCK)
        return any((self.pixels[i : i + BASIS_BLOCK] != first).any() for i in blocks)

    def basis_batches(self) -> Iterator[Tensor]:
        """This rank's share of all images, 8-bit levels in blocks [n, d]."""
        for block in distributed.share(self.count, BASIS_BLOCK):
            yield self._levels(np.arange(block.start, block.stop))

    def description(self) -> dict[str, Any]:
        """What the network file says about its data; of classes, labels and numbers of images."""
        about = {
            "kind": "images",
            "name": printable(self.path.stem),
            "dim": self.dim,
            "shape": list(self.shape),
            "images": len(self.pixels),
            "xflip": self.xflip,
            "classes": self.classes,
            "sha256": self.content_hash(),
        }
        if self.classes:
            about["class_labels"] = self.class_labels.tolist()
            about["class_images"] = np.bincount(self._numbers, minlength=self.classes).tolist()
        return about

    def content_hash(self) -> str:
        """SHA-256 of pixels and labels: the same for a zip and a folder of the same images."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        for start in range(0, len(self.pixels), BASIS_BLOCK):
            digest.update(self.pixels[start : start + BASIS_BLOCK].tobytes())
        if self._stored_labels is not None:
            digest.update(self._stored_labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def picks(self, seed: int, start: int, stop: int, purpose: str = "data") -> np.ndarray:
        """Which images the positions start..stop of a stream are, see `samples`."""
        n = self.count
        if purpose == "training":
            return seeding.epochs(seed, start, stop, n)
        if stop > n:
            raise ValueError(f"{self.path}: holds {n} images, {stop} were asked for")
        if purpose == "drawn":
            return seeding.generator(seed, "drawn").permutation(n)[start:stop]
        return np.arange(start, stop)


def to_pixels(x: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Samples in [-1, 1], [n, d], to images, uint8 [n, H, W, C]: the nearest pixel values."""
    pixels = (x.reshape(-1, *shape).double() * 127.5 + 127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


# Decoding --------------------------------------------------------------------------------------


def _all_pixels(images: ImageSet, picks: np.ndarray, cache: bool) -> np.ndarray:
    """The chosen images, read-only uint8 [n, C, H, W]."""
    first = next(_decoded(images, picks[:1]))
    several = local_world_size() > 1
    if cache and (several or first.size * len(picks) >= CACHE_MIN):
        cached = _cache_file(images, picks)
        try:
            return _shared_pixels(cached, images, picks)
        except OSError as error:  # without room for it, in memory
            if several:
                remedy = "set INFLATIONARY_FLOWS_CACHE to a folder with room"
                raise ValueError(f"{cached}: {error.strerror}; {remedy}") from None
    pixels = np.empty((len(picks), *first.shape), np.uint8)
    for i, image in enumerate(_decoded(images, picks)):
        pixels[i] = image
    pixels.flags.writeable = False
    return pixels


def _decoded(images: ImageSet, picks: np.ndarray) -> Iterator[np.ndarray]:
    """The chosen images one by one, uint8 [C, H, W], all of the first one's kind."""

    first = None
    for i, image in zip(picks, in_order(images.sure, picks), strict=True):
        first = first or kind_of(image)
        if kind_of(image) != first:
            raise ValueError(
                f"{images.path}: {images.names[i]} is {kind_of(image)}, "
                f"{images.names[picks[0]]} is {first}; make them equal with dataset_tool.py"
            )
        array = np.asarray(image)
        yield array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _cache_file(images: ImageSet, picks: np.ndarray) -> Path:
    """Where the pixels are kept: under a digest of the encoded images, so never out of date."""
    digest = hashlib.sha256(f"pixels {CACHE_VERSION}".encode())
    for i in picks:
        with images.naming(i):
            digest.update(hashlib.sha256(images.raw(i)).digest())
    return cache_dir() / "images" / f"{digest.hexdigest()[:32]}.npy"


def _shared_pixels(cached: Path, images: ImageSet, picks: np.ndarray) -> np.ndarray:
    """The chosen images as a memory map of a cache file that local rank 0 fills.

    Processes meet at the file and not at a barrier, because sources are opened before the process
    group is.
    """
    pixels = _mapped(cached, len(picks))
    if pixels is None and distributed.local_rank() == 0:
        _fill(cached, _decoded(images, picks), len(picks))
    deadline = time.monotonic() + CACHE_WAIT
    while pixels is None:
        pixels = _mapped(cached, len(picks))
        if pixels is None and time.monotonic() > deadline:
            raise ValueError(f"{cached}: was not there after {CACHE_WAIT:.0f} s; start again")
        time.sleep(0.05)
    return pixels


def _mapped(cached: Path, count: int) -> np.ndarray | None:
    """The cache file as a read-only array; None if it is absent, damaged or of another size."""
    with suppress(OSError, ValueError, EOFError):
        pixels = np.load(cached, mmap_mode="r", allow_pickle=False)
        if pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) == count:
            return pixels.view(np.ndarray)
    return None


def _fill(cached: Path, decoded: Iterable[np.ndarray], count: int) -> None:
    """Write images one after the other: a full disk is an error, not the crash of a memory map."""
    with atomic_path(cached) as temporary, open(temporary, "wb") as file:
        for i, image in enumerate(decoded):
            if i == 0:
                shape = (count, *image.shape)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(image.tobytes())
