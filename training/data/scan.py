"""A look at every image before anything is written: which cannot be converted, what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tqdm import tqdm

from dnnlib.util import in_order
from training.data.convert import Plan
from training.data.image_decode import (
    FRAMES,
    TOO_DEEP,
    TOO_LARGE,
    UNREADABLE,
    BadImageError,
    Reading,
    kind,
)
from training.data.image_files import ImageSet, phrases

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

    Attributes:
        lines: one line an offender; a single line if every image has the same flaw.
    """

    def __init__(self, offenders: list[tuple[str, str, str]], total: int):
        kinds = Counter(kind for _, kind, _ in offenders)
        parts = [f"{n} {kind} ({REMEDIES[kind]})" for kind, n in kinds.items()]
        super().__init__(
            f"{len(offenders)} of {total} images cannot be used: {'; '.join(parts)}; nothing was "
            "written"
        )
        self.lines = [f"{name}: {kind}: {detail}" for name, kind, detail in offenders]
        flaws = {f"{kind}: {detail}" for _, kind, detail in offenders}
        if len(flaws) == 1 and len(offenders) == total > 1:
            self.lines = [f"all {total} images: {flaws.pop()}"]


@dataclass(frozen=True)
class Fact:
    """What a look at an image gives; frames, bits and transparent as `decode` has them."""

    width: int
    height: int
    mode: str
    frames: int
    bits: int
    transparent: bool


@dataclass(frozen=True)
class Found:
    """What a look at all images gives.

    Attributes:
        images: how many.
        size: width and height of the result.
        channels: of the result.
        enlarged: images that become larger.
        transparent: images with transparent parts.
        several: images of files of several frames.
        further: frames of these files beside the first.
        deep: images of more than 8 bits a channel.
    """

    images: int
    size: int
    channels: int
    enlarged: int
    transparent: int
    several: int
    further: int
    deep: int


def scan(images: ImageSet, plan: Plan, count: int) -> Found:
    """Decode the first `count` images and check that all can be converted; writes nothing.

    Raises:
        RefusedImagesError: naming every image that cannot.
    """
    looks = in_order(lambda i: _look(images, i), range(count))
    facts = list(tqdm(looks, "checking", count, disable=None))
    good = [f for f in facts if isinstance(f, Fact)]
    sizes = Counter(plan.output_size(f.width, f.height) for f in good)
    size = sizes.most_common(1)[0][0] if good else (0, 0)
    modes = Counter("L" if plan.channels == 1 else "RGB" if plan.channels else f.mode for f in good)
    mode = "L" if modes["L"] > modes["RGB"] else "RGB"
    flaws = [
        (name, _flaw(f, plan, size, mode)) for name, f in zip(images.names, facts, strict=False)
    ]
    offenders = [(name, *flaw) for name, flaw in flaws if flaw is not None]
    if offenders:
        raise RefusedImagesError(offenders, count)
    w, h = plan.resolution or size
    return Found(
        images=count,
        size=size[0],
        channels=1 if mode == "L" else 3,
        enlarged=sum(f.width < w or f.height < h for f in good),
        transparent=sum(f.transparent for f in good),
        several=sum(f.frames > 1 for f in good),
        further=sum(f.frames - 1 for f in good),
        deep=sum(f.bits > 8 for f in good),
    )


def _look(images: ImageSet, i: int) -> Fact | BadImageError:
    try:
        image = images.image(i)
    except BadImageError as error:
        return error
    seen = image.info  # empty of images that were no files
    marks = (seen.get("frames", 1), seen.get("bits", 8), seen.get("transparent", False))
    return Fact(image.width, image.height, image.mode, *marks)


def _flaw(
    fact: Fact | BadImageError, plan: Plan, size: tuple[int, int], mode: str
) -> tuple[str, str] | None:
    """What is wrong with an image, given the size and mode of most."""
    if isinstance(fact, BadImageError):
        return fact.kind, fact.detail
    w, h = fact.width, fact.height
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
    if plan.channels is None and fact.mode != mode:
        return (GREY, "grey") if fact.mode == "L" else (COLOUR, "colour")
    return None


# What is said of it ----------------------------------------------------------------------------


def report(images: ImageSet, found: Found) -> Iterator[str]:
    """What was found, in lines."""
    become = kind(found.size, found.size, found.channels)
    dim = found.channels * found.size**2
    yield f"{found.images} images become {become}, {dim} dimensions"
    if found.enlarged:
        yield f"Warning: {found.enlarged} images are smaller than that and are enlarged"
    if found.transparent:
        yield f"Warning: {found.transparent} images have transparent parts, which become white"
    if found.deep:
        yield f"{found.deep} images of more than 8 bits a channel are scaled to 8"
    if images.labels is None:
        yield "Labels: none" + (f" ({images.origin})" if images.origin else "")
    else:
        yield f"Labels: {_classes(images, images.labels, found.images)}"


def _classes(images: ImageSet, labels: list[int], count: int) -> str:
    """The classes that the first `count` images have: how many, where from, which."""
    kept, known = sorted(set(labels[:count])), len(images.classes or set(labels))
    names = [f"{k} {images.classes[k]}" if images.classes else str(k) for k in kept[:20]]
    number = f"{len(kept)} of {known}" if len(kept) < known else f"{known}"
    found_in = f" from {images.origin}" if images.origin else ""
    more = ", ..." if len(kept) > 20 else ""
    line = f"{number} classes{found_in} ({', '.join(names)}{more})"
    if kept != list(range(len(kept))):
        line += "; networks have one class for each of these, and --class takes these numbers"
    return line


def check_reading(images: ImageSet, found: Found, how: Reading) -> None:
    """Check that --frames and --depth change something.

    Raises:
        ValueError: if the images have but one frame, or 8 bits a channel.
    """
    if found.images < len(images.names):
        return
    if how.frames and not found.several:
        raise ValueError(f"--frames={how.frames}: no file has several frames; leave it out")
    if how.depth and not found.deep:
        raise ValueError(
            f"--depth={how.depth}: no image has more than 8 bits a channel; leave it out"
        )


def summary(images: ImageSet, found: Found, how: Reading) -> str:
    """How many images were found and used, and what was left out and why."""
    left = phrases(images.left_out)
    if found.images < len(images.names):
        left.insert(
            0, f"{len(images.names) - found.images} images beyond --max-images={found.images}"
        )
    if how.frames == "first":
        left.insert(0, f"{found.further} further frames of {found.several} files")
    line = f"{len(images.names)} images found, {found.images} used"
    return f"{line}; left out: {', '.join(left)}" if left else line
