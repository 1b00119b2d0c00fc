"""Images in folders and zip archives: listed in a fixed order, bounded, decoded to 8 bits.

Files come from anywhere, so nothing in them is trusted: names cannot lead out of an archive, sizes
are checked before memory is taken, and only plain raster formats are decoded. No torch here.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm",
)  # fmt: skip
# Named, because a file of any suffix could be one of the formats that start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 2**26  # of one image: 8192 x 8192
MAX_BYTES = 2**28  # of one file
MAX_CLASSES = 100_000  # labels become one-hot vectors
ORIENTATION = 0x0112  # the EXIF tag
LABELS_FILE = "dataset.json"
SPLITS = {"train", "test", "val", "valid", "validation"}  # names of parts of a set, not of classes
LABELS_FORM = '{"labels": [["name.png", 3], ...]} or {"labels": null}'

UNREADABLE = "unreadable"
TOO_LARGE = "too large"
TOO_DEEP = "not of 8 bits a channel"


class BadImageError(ValueError):
    """An image that cannot be used.

    Args:
        kind: UNREADABLE, TOO_LARGE or TOO_DEEP.
        detail: what is wrong with this one.
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass
class ImageSet:
    """Images of a source, in a fixed order.

    Attributes:
        names: what to call each image.
        labels: class of each image, or None.
        image: i -> image i, of mode L or RGB; raises `BadImageError`. Threads may call it.
        classes: names of the classes, where the source has them.
        raw: i -> the bytes of file i, for sources made of files.
        close: lets go of the source.
        origin: where the labels were found, for messages; "" for the source itself.
    """

    names: list[str]
    labels: list[int] | None
    image: Callable[[int], Image.Image]
    classes: list[str] | None = None
    raw: Callable[[int], bytes] | None = None
    close: Callable[[], None] = lambda: None
    origin: str = ""

    def __enter__(self) -> ImageSet:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_images(path: str | Path) -> ImageSet:
    """The images of a folder or a zip archive, sorted by name.

    Labels come from dataset.json if there is one, else from the top-level folders, if every image
    lies in one and there are at least two. Folders that only split the set (train, test, ...) are
    passed over, if every image lies in a folder inside them: train/cat and test/cat are one class.

    Raises:
        ValueError: one line that says what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        try:
            return _open_folder(path)
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from None
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    if path.suffix.lower() != ".zip":
        raise ValueError(f"{path}: neither a folder nor a .zip archive")
    return _open_zip(path)


def _open_folder(path: Path) -> ImageSet:
    found = list(_walk(path, "", frozenset()))

    def read(name: str) -> bytes:
        with open(path / name, "rb") as file:
            return _bounded(file.read, os.fstat(file.fileno()).st_size)

    return _file_set(path, found, read, lambda: None)


def _walk(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[str]:
    """Names of all files under a folder; links are followed, unless they lead back up."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above | {real})
            else:
                yield prefix + entry.name


def _open_zip(path: Path) -> ImageSet:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a readable zip archive ({error})") from None
    try:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        entries = {info.filename: info for info in infos}
        for info in archive.infolist():
            _check_entry(path, info.filename)
        if len(entries) < len(infos):
            raise ValueError(f"{path}: holds several entries of one name; make the archive anew")

        def read(name: str) -> bytes:
            size = entries[name].file_size
            return _bounded(lambda: _unpacked(archive, name, size), size)

        return _file_set(path, list(entries), read, archive.close)
    except BaseException:
        archive.close()
        raise


def _check_entry(path: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or re.match("[A-Za-z]:", name) or ".." in parts:
        raise ValueError(
            f"{path}: entry {name!r} leads out of the archive; refused, take the archive from a "
            "source you trust"
        )


def _unpacked(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """An entry of a zip archive, whose checksum is compared.

    By its stated size: `ZipFile.read` unpacks all there is before it cuts that down.
    """
    with archive.open(name) as entry:
        return entry.read(max(size, 1))


def _bounded(read: Callable[[], bytes], size: int) -> bytes:
    if size > MAX_BYTES:
        raise BadImageError(TOO_LARGE, f"a file of {size / 2**20:.0f} MiB")
    return read()


def _file_set(
    path: Path, found: list[str], read: Callable[[str], bytes], close: Callable[[], None]
) -> ImageSet:
    names = sorted(name for name in found if _is_image(name))
    if not names:
        raise ValueError(f"{path}: holds no images ({', '.join(s[1:] for s in SUFFIXES)})")
    labels, classes, origin = None, None, LABELS_FILE
    if LABELS_FILE in found:
        try:
            labels = parse_labels(read(LABELS_FILE), names)
        except (ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: {LABELS_FILE}: {error}") from None
    else:
        labels, classes, origin = _folder_labels(names)

    def raw(i: int) -> bytes:
        try:
            return read(names[i])
        except BadImageError:
            raise
        except Exception as error:  # zipfile, zlib and the file system each have their own
            raise BadImageError(UNREADABLE, _short(error)) from None

    return ImageSet(names, labels, lambda i: decode(raw(i)), classes, raw, close, origin)


def _folder_labels(names: list[str]) -> tuple[list[int] | None, list[str] | None, str]:
    """Class of each image by its folder, the classes' names, and where they were found."""
    folders = [name.split("/")[:-1] for name in names]
    tops = {folder[0] for folder in folders if folder}
    level, origin = 0, "top-level folders"
    if tops <= SPLITS and all(len(folder) > 1 for folder in folders):
        level, origin = 1, f"folders in {' and '.join(sorted(tops))}"
    classes = sorted({folder[level] for folder in folders if folder})
    if not all(folders) or len(classes) < 2:
        return None, None, ""
    number = {name: i for i, name in enumerate(classes)}
    return [number[folder[level]] for folder in folders], classes, origin


def _is_image(name: str) -> bool:
    hidden = name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name
    return name.lower().endswith(SUFFIXES) and not hidden


def parse_labels(text: bytes, names: list[str]) -> list[int] | None:
    """Class of each named image, from the text of a dataset.json.

    Raises:
        ValueError: if the text has another form, or labels other images than `names`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({_short(error)})") from None
    if not isinstance(content, dict) or "labels" not in content:
        raise ValueError(f"must be {LABELS_FORM}")
    pairs = content["labels"]
    if pairs is None:
        return None
    if not isinstance(pairs, list):
        raise ValueError(f"must be {LABELS_FORM}")
    labels: dict[str, int] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"holds {str(pair)[:60]!r}; must be {LABELS_FORM}")
        name, label = pair
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise ValueError(
                f"{name} has the label {str(label)[:60]}; labels are whole numbers from 0 to "
                f"{MAX_CLASSES - 1}"
            )
        if name in labels:
            raise ValueError(f"labels {name} twice")
        labels[name] = label
    missing = [name for name in names if name not in labels]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} images have no label, e.g. {missing[0]}")
    extra = labels.keys() - set(names)
    if extra:
        raise ValueError(f"labels {len(extra)} images that are not there, e.g. {min(extra)}")
    return [labels[name] for name in names]


def decode(data: bytes) -> Image.Image:
    """An image of mode L or RGB, upright, transparency laid over white.

    Raises:
        BadImageError: if it cannot be read whole, or is too large or too deep.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(TOO_LARGE, f"more than {MAX_PIXELS} pixels") from None
    except Image.UnidentifiedImageError:
        raise BadImageError(UNREADABLE, "none of " + ", ".join(FORMATS)) from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise BadImageError(UNREADABLE, _short(error)) from None
    with suppress(Exception):  # broken camera notes do not make an image unusable
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        raise BadImageError(TOO_DEEP, f"mode {image.mode}")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(over)
    return image if image.mode == mode else image.convert(mode)


def kind_of(image: Image.Image) -> str:
    """What messages call an image: "32x32 colour"."""
    return f"{image.width}x{image.height} {'grey' if image.mode == 'L' else 'colour'}"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
