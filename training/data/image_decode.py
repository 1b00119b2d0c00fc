"""One image file to an image of 8 bits a channel: bounded, and nothing reduced without a word.

Pillow itself cuts colour of 16 bits to its high bytes and shows the first of several frames; here
both are refused unless `Reading` says what to do. No torch here.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

Image.init()
# Named, because a file of any suffix could be one of the formats that start other programs.
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN  # AVIF since Pillow 11.3
)
SUFFIXES = tuple(s for s, name in Image.registered_extensions().items() if name in FORMATS)
MAX_PIXELS = 2**26  # of one image: 8192 x 8192
MAX_BYTES = 2**28  # of one file
ORIENTATION = 0x0112  # the EXIF tag
BITS_PER_SAMPLE = 258  # the TIFF tag

UNREADABLE = "unreadable"
TOO_LARGE = "too large"
TOO_DEEP = "not of 8 bits a channel"
FRAMES = "of several frames"
HINTS = {TOO_DEEP: "; see --depth of dataset_tool.py", FRAMES: "; see --frames of dataset_tool.py"}


class BadImageError(ValueError):
    """An image that cannot be used.

    Args:
        kind: UNREADABLE, TOO_LARGE, TOO_DEEP or FRAMES.
        detail: what is wrong with this one.
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}{HINTS.get(kind, '')}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Reading:
    """What becomes of files that hold more than one image of 8 bits.

    Attributes:
        frames: "all" or "first" of several frames; None refuses such files.
        depth: the bits that values of deeper channels use: 0 to 2^depth - 1 become 0 to 255; None
            refuses such files.
    """

    frames: str | None = None
    depth: int | None = None


def looks_like_image(file: IO[bytes]) -> bool:
    """Whether the content of a file, whatever its name, is one of `FORMATS`, damaged ones too."""
    try:
        Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # which `decode` refuses
    except Exception:  # Pillow's parsers raise whatever they stumble over
        file.seek(0)
        start = file.read(16)
        tests = [Image.OPEN[name][1] for name in FORMATS if name not in ("BMP", "PPM")]
        return any(test and test(start) is True for test in tests)  # two letters are no sign
    return True


def frames_in(file: IO[bytes]) -> int:
    """How many frames a file has; 1 if that cannot be read."""
    with suppress(Exception):
        return getattr(Image.open(file, formats=FORMATS), "n_frames", 1)
    return 1


def decode(data: bytes, frame: int = 0, how: Reading | None = None) -> Image.Image:
    """An image of mode L or RGB, upright, transparency laid over white.

    Its `info` holds "frames", "bits" (a channel) and "transparent", as they are in the file.

    Raises:
        BadImageError: if it cannot be read whole, or is too large, too deep or several images.
    """
    how = how or Reading()
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        frames = getattr(image, "n_frames", 1)
        image.seek(frame)
        bits = _bits(image, data)
        if bits > 8 and how.depth is None:
            raise BadImageError(TOO_DEEP, f"{bits} bits")
        orientation = 1
        with suppress(Exception):  # broken camera notes do not make an image unusable
            orientation = image.getexif().get(ORIENTATION, 1)
        image.load()
        if bits > 8 and how.depth:
            image = _scaled(image, data, bits, how.depth)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(TOO_LARGE, f"more than {MAX_PIXELS} pixels") from None
    except Image.UnidentifiedImageError:
        raise BadImageError(UNREADABLE, "none of " + ", ".join(FORMATS)) from None
    except BadImageError:
        raise
    except Exception as error:
        raise BadImageError(UNREADABLE, short(error)) from None
    if frames > 1 and how.frames is None:
        raise BadImageError(FRAMES, f"{frames} frames")
    if orientation != 1:
        with suppress(Exception):
            image.getexif()[ORIENTATION] = orientation  # a scaled image has lost it
            image = ImageOps.exif_transpose(image)
    image, transparent = _flat(image)
    image.info = {"frames": frames, "bits": bits, "transparent": transparent}
    return image


def _flat(image: Image.Image) -> tuple[Image.Image, bool]:
    """An image of mode L or RGB over white, and whether that shows through anywhere."""
    mode, transparent = "L" if image.mode in ("1", "L", "LA") else "RGB", False
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        over = image.convert("RGBA")
        transparent = over.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]  # the stub's union has pairs of pairs
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(over)
    return (image if image.mode == mode else image.convert(mode)), transparent


def _bits(image: Any, data: bytes) -> int:
    """Bits a channel in the file, which the mode of an opened image does not tell of colour."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if image.format == "PPM":
        arguments = image.tile[0][3]  # (raw mode, largest value) unless that is 255
        top = arguments[1] if isinstance(arguments, tuple) and len(arguments) == 2 else 255
        return 16 if image.mode == "I" else 32 if image.mode == "F" else int(top).bit_length()
    if image.format == "JPEG2000":  # the codestream's SIZ: bits of each of its components
        at = data.find(b"\xff\x4f\xff\x51")
        count = int.from_bytes(data[at + 40 : at + 42], "big")
        return max((data[at + 42 + 3 * k] & 127) + 1 for k in range(count))
    if image.format == "AVIF":  # the property pixi: bits of each channel
        at = data.find(b"pixi") + 8
        return max(data[at + 1 : at + 1 + data[at]]) if at >= 8 else 8
    return 8


def _scaled(image: Image.Image, data: bytes, bits: int, depth: int) -> Image.Image:
    """An image of more than 8 bits with the values 0 to 2^depth - 1 scaled to 0 to 255."""
    found = f"{bits} bits"
    grey = image.format in ("PNG", "TIFF") and image.mode.startswith("I")
    colour = image.format == "PNG" and image.mode in ("RGB", "RGBA")
    if bits > 16 or not (grey or colour) or "transparency" in image.info:
        kind = f"{image.format} of mode {image.mode} and {found}"
        raise BadImageError(TOO_DEEP, f"{kind}; only PNG, and grey TIFF, of 16 bits are scaled")
    values = np.asarray(image).astype(np.int64)
    if colour:  # Pillow gives the high bytes, and the low ones if told that they come first
        low: Any = Image.open(io.BytesIO(data), formats=("PNG",))
        low.tile = [(*t[:3], t[3].replace(";16B", ";16L")) for t in low.tile]
        values = 256 * values + np.asarray(low)
    top, alpha = 2**depth - 1, values[..., 3:] // 256 if values.ndim == 3 else None
    values = values[..., :3] if values.ndim == 3 else values
    if values.min() < 0 or values.max() > top:
        raise BadImageError(
            TOO_DEEP,
            f"{found}, values {values.min()} to {values.max()}, --depth={depth} ends at {top}",
        )
    scaled = np.rint(values * (255 / top))
    if alpha is not None:
        scaled = np.concatenate([scaled, alpha], axis=2)
    return Image.fromarray(scaled.astype(np.uint8))


def kind(width: int, height: int, channels: int) -> str:
    """What messages call an image: "32x32 colour"."""
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def kind_of(image: Image.Image) -> str:
    """The same of an image of mode L or RGB."""
    return kind(*image.size, len(image.getbands()))


def short(error: BaseException) -> str:
    """The text of an error as part of a line."""
    return " ".join(str(error).split())[:100] or type(error).__name__
