"""Conversion of an image set, which `scan` has passed: all images are written, atomically.

The same input gives the same bytes: fixed order, fixed timestamps, nothing of the machine.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from dnnlib.util import atomic_path, in_order, scratch_dir, sync, writing
from training.data.image_decode import BadImageError
from training.data.image_files import ImageSet
from training.data.image_labels import LABELS_FILE

TRANSFORMS = ("center-crop", "center-crop-wide")
Put = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Plan:
    """What happens to each image.

    Attributes:
        resolution: width and height to resize to (Lanczos), or None to leave the size.
        transform: "center-crop" cuts the largest central square first; "center-crop-wide" is the
            published one: it keeps as many central rows as the image would have at the width of
            the resolution, and fills up to a square with black bars above and below.
        channels: 1 or 3 to convert to grey or colour, or None to leave them.

    Raises:
        ValueError: if the settings contradict each other.
    """

    resolution: tuple[int, int] | None = None
    transform: str | None = None
    channels: int | None = None

    def __post_init__(self):
        wide = self.transform == "center-crop-wide"
        if self.resolution is None:
            if wide:
                raise ValueError("--transform=center-crop-wide needs --resolution, such as 64x36")
            return
        w, h = self.resolution
        given = f"--resolution={w}x{h}"
        if wide and h >= w:
            raise ValueError(
                f"{given}: --transform=center-crop-wide needs a width above the height"
            )
        if not wide and w != h:
            raise ValueError(
                f"{given}: not square; give {w}x{w}, or --transform=center-crop-wide for bars"
            )
        if w & (w - 1):
            raise ValueError(
                f"{given}: {w} is not a power of two; give 32, 64, 128 or such (networks halve it)"
            )

    def output_size(self, w: int, h: int) -> tuple[int, int]:
        """Width and height that an image of width w and height h ends with."""
        if self.resolution is not None:
            return self.resolution[0], self.resolution[0]  # wide ones are filled up
        return (min(w, h),) * 2 if self.transform else (w, h)

    def apply(self, image: Image.Image) -> Image.Image:
        """The converted image."""
        if self.channels is not None:
            image = image.convert("L" if self.channels == 1 else "RGB")
        if self.transform is not None:
            (w, h), (width, height) = image.size, self.cut_size(*image.size)
            left, top = (w - width) // 2, (h - height) // 2
            image = image.crop((left, top, left + width, top + height))
        if self.resolution is not None and image.size != self.resolution:
            image = image.resize(self.resolution, Image.Resampling.LANCZOS)
        if self.transform == "center-crop-wide":
            w, h = image.size
            square = Image.new(image.mode, (w, w))
            square.paste(image, (0, (w - h) // 2))
            image = square
        return image

    def cut_size(self, w: int, h: int) -> tuple[int, int]:
        """Width and height of the central part that the transform cuts out."""
        if self.transform == "center-crop-wide" and self.resolution is not None:
            return w, round(self.resolution[0] * h / w)
        return min(w, h), min(w, h)


def convert(images: ImageSet, plan: Plan, count: int, dest: Path) -> None:
    """Write the first `count` images, which `scan` has passed, and their labels.

    Args:
        images: the source.
        plan: what is to happen to each.
        count: how many to write.
        dest: a .zip file, which is replaced, or a folder that is absent or empty.

    Raises:
        ValueError: if an image changed after the scan; nothing is left behind.
        OSError: if the disk is full, say; nothing is left behind.
    """

    def png(i: int) -> bytes:
        buffer = io.BytesIO()
        try:
            image = plan.apply(images.image(i))
            image.info = {}  # nothing but pixels
            image.save(buffer, "PNG", compress_level=0)
        except BadImageError as error:
            raise ValueError(f"{images.names[i]} changed meanwhile: {error}") from None
        return buffer.getvalue()

    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(count)]
    with (_zip_file if dest.suffix == ".zip" else _folder)(dest) as put:
        for name, data in zip(
            names, tqdm(in_order(png, range(count)), "writing", count, disable=None), strict=True
        ):
            put(name, data)
        labels = None
        if images.labels is not None:
            labels = [list(pair) for pair in zip(names, images.labels, strict=False)]
        put(LABELS_FILE, json.dumps({"labels": labels}).encode())


@contextmanager
def _zip_file(dest: Path) -> Iterator[Put]:
    with atomic_path(dest) as temporary, zipfile.ZipFile(temporary, "w") as archive:

        def put(name: str, data: bytes) -> None:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # the same bytes on every system
            info.external_attr = 0o644 << 16
            archive.writestr(info, data, zipfile.ZIP_STORED)

        yield put


@contextmanager
def _folder(dest: Path) -> Iterator[Put]:
    with writing(dest), scratch_dir(dest) as scratch:
        whole = scratch / dest.name
        whole.mkdir()

        def put(name: str, data: bytes) -> None:
            path = whole / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            sync(path)

        yield put
        if dest.exists():
            dest.rmdir()
        whole.rename(dest)
        sync(dest.parent)


def picture(images: ImageSet, plan: Plan, count: int, path: Path, across: int = 8) -> None:
    """Draw up to across^2 converted images, spread evenly over the set, in a square grid."""
    picks = [i * count // min(count, across**2) for i in range(min(count, across**2))]
    tiles = [plan.apply(images.image(i)) for i in picks]
    size = tiles[0].width * max(1, 64 // tiles[0].width)  # whole pixels, large enough to see
    sheet = Image.new(tiles[0].mode, (across * size, -(-len(tiles) // across) * size))
    for i, tile in enumerate(tiles):
        enlarged = tile.resize((size, size), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (i % across * size, i // across * size))
    with atomic_path(path) as temporary:
        sheet.save(temporary)
