"""Conversion of an image set: first every image is checked, then all are written, atomically.

The same input gives the same bytes: fixed order, fixed timestamps, nothing of the machine.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from dnnlib.util import atomic_path, in_order, scratch_dir, sync, writing
from training.data.image_decode import FRAMES, TOO_DEEP, TOO_LARGE, UNREADABLE, BadImageError
from training.data.image_files import ImageSet
from training.data.image_labels import LABELS_FILE

TRANSFORMS = ("center-crop", "center-crop-wide")
Put = Callable[[str, bytes], None]

OTHER_SIZE = "of another size"
NOT_SQUARE = "not square"
NOT_POWER = "not a power of two in size"
TOO_SMALL = "too small to cut"
GREY = "grey among colour"
COLOUR = "colour among grey"
REMEDIES = {
    UNREADABLE: "repair or remove them",
    TOO_LARGE: "make them smaller or remove them",
    TOO_DEEP: "give --depth=16, or the bits that their values use, or save them with 8",
    FRAMES: "give --frames=all or --frames=first",
    TOO_SMALL: "give a smaller --resolution or remove them",
    OTHER_SIZE: "give --resolution=WxH, with --transform=center-crop if shapes differ",
    NOT_SQUARE: "give --transform=center-crop",
    NOT_POWER: "give --resolution, such as 32x32",
    GREY: "give --channels=3 or --channels=1",
    COLOUR: "give --channels=3 or --channels=1",
}


class RefusedImagesError(ValueError):
    """Images that cannot be converted as asked.

    Args:
        offenders: (name, kind of REMEDIES, detail) of each.
        total: how many images were checked.
    """

    def __init__(self, offenders: list[tuple[str, str, str]], total: int):
        kinds = Counter(kind for _, kind, _ in offenders)
        parts = [f"{n} {kind} ({REMEDIES[kind]})" for kind, n in kinds.items()]
        super().__init__(
            f"{len(offenders)} of {total} images cannot be used: {'; '.join(parts)}; nothing was "
            "written"
        )
        self.offenders, self.total = offenders, total

    def lines(self) -> list[str]:
        """One line an offender; a single line if every image has the same flaw."""
        flaws = {(kind, detail) for _, kind, detail in self.offenders}
        if len(flaws) == 1 and len(self.offenders) == self.total > 1:
            ((kind, detail),) = flaws
            return [f"all {self.total} images: {kind}: {detail}"]
        return [f"{name}: {kind}: {detail}" for name, kind, detail in self.offenders]


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


@dataclass(frozen=True)
class Fact:
    """What a look at an image gives; frames, bits and transparent as `decode` has them."""

    width: int
    height: int
    mode: str
    frames: int = 1
    bits: int = 8
    transparent: bool = False


def scan(images: ImageSet, plan: Plan, count: int) -> dict[str, int]:
    """Decode every image and check that all can be converted; writes nothing.

    Args:
        images: the source.
        plan: what is to happen to each.
        count: how many to check, from the first.

    Returns:
        "images", "size" and "channels" of the result; how many images are "enlarged", have
        "transparent" parts, are of files of "several" frames, of how many "further" ones, "deep".

    Raises:
        RefusedImagesError: naming every image that cannot.
    """
    facts: list[Fact | BadImageError] = []
    looks = in_order(lambda i: _look(images, i), range(count))
    for fact in tqdm(looks, "checking", count, disable=None):
        facts.append(fact)
    good = [f for f in facts if not isinstance(f, BadImageError)]
    sizes = Counter(plan.output_size(f.width, f.height) for f in good)
    modes = Counter(f.mode for f in good)
    if plan.channels is not None:
        modes = Counter({"L" if plan.channels == 1 else "RGB": len(good)})
    size = sizes.most_common(1)[0][0] if good else (0, 0)
    mode = "L" if modes["L"] > modes["RGB"] else "RGB"
    offenders = []
    for name, fact in zip(images.names, facts, strict=False):
        flaw = _flaw(fact, plan, size, mode)
        if flaw is not None:
            offenders.append((name, *flaw))
    if offenders:
        raise RefusedImagesError(offenders, count)
    w, h = plan.resolution or size
    return {
        "images": count,
        "size": size[0],
        "channels": 1 if mode == "L" else 3,
        "enlarged": sum(f.width < w or f.height < h for f in good),
        "transparent": sum(f.transparent for f in good),
        "several": sum(f.frames > 1 for f in good),
        "further": sum(f.frames - 1 for f in good),
        "deep": sum(f.bits > 8 for f in good),
    }


def _look(images: ImageSet, i: int) -> Fact | BadImageError:
    try:
        image = images.image(i)
    except BadImageError as error:
        return error
    seen = image.info
    marks = (seen.get("frames", 1), seen.get("bits", 8), seen.get("transparent", False))
    return Fact(image.width, image.height, image.mode, *marks)


def _flaw(
    fact: Fact | BadImageError, plan: Plan, size: tuple[int, int], mode: str
) -> tuple[str, str] | None:
    """What is wrong with an image, given the size and mode of most."""
    if isinstance(fact, BadImageError):
        return fact.kind, fact.detail
    w, h, own_mode = fact.width, fact.height, fact.mode
    out = plan.output_size(w, h)
    if plan.transform == "center-crop-wide":
        (cw, ch), (rw, rh) = plan.cut_size(w, h), plan.resolution or (1, 1)
        if cw < rw or ch < rh:
            return TOO_SMALL, f"{w}x{h} gives {cw}x{ch} of {rw}x{rh}"
    if out != size:
        return OTHER_SIZE, f"{w}x{h} gives {out[0]}x{out[1]}, most give {size[0]}x{size[1]}"
    if w != h and plan.transform is None:
        return NOT_SQUARE, f"{w}x{h}"
    if out[0] & (out[0] - 1):
        return NOT_POWER, f"{out[0]}x{out[1]}"
    if plan.channels is None and own_mode != mode:
        return (GREY, "grey") if own_mode == "L" else (COLOUR, "colour")
    return None


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
