"""Pictures inside a page: checked, made smaller where they are huge, within a total size."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

MAX_FILE = 2**26  # bytes
MAX_PIXELS = 40_000_000
MAX_WIDTH = 1600  # pixels; wider ones are made smaller
FORMATS = {"PNG": "image/png", "GIF": "image/gif", "JPEG": "image/jpeg"}


class Embedded(NamedTuple):
    """A picture as the page holds it; `data` is None where it did not fit."""

    data: str | None
    width: int = 0
    height: int = 0


def encode(path: Path) -> Embedded:
    """A picture as a data: address, with its width and height; ValueError says why it is none."""
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"it is larger than {MAX_FILE // 2**20} MiB")
    raw = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=list(FORMATS)) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise ValueError(f"it has {width} x {height} pixels")
                picture.load()  # a damaged file fails here, not in the browser
                kind = FORMATS[str(picture.format)]
                still = getattr(picture, "n_frames", 1) == 1
                if still and width > MAX_WIDTH:
                    height, width = max(1, round(height * MAX_WIDTH / width)), MAX_WIDTH
                    smaller = io.BytesIO()
                    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
                    resized.save(smaller, "PNG", optimize=True)
                    raw, kind = smaller.getvalue(), FORMATS["PNG"]
    except UnidentifiedImageError:
        raise ValueError("it is no PNG, GIF or JPEG") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is damaged: {' '.join(str(error).split())[:100]}") from None
    return Embedded(f"data:{kind};base64,{base64.b64encode(raw).decode()}", width, height)


def embed(pictures: Sequence[Path], budget: int) -> tuple[dict[Path, Embedded], list[str]]:
    """Pictures to embed within so many bytes, the smallest first; and what could not be used."""
    found: dict[Path, Embedded] = {}
    problems = []
    for path in sorted(pictures, key=lambda p: (p.stat().st_size, str(p))):
        try:
            made = encode(path)
        except ValueError as error:
            problems.append(f"{path} could not be used: {error}")
            continue
        size = len(made.data or "")
        found[path] = made if size <= budget else Embedded(None)
        budget -= size if size <= budget else 0
    return found, problems
