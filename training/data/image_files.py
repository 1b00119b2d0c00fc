"""Images in folders and zip archives: found by their content, listed in a fixed order, counted.

Files come from anywhere, so nothing in them is trusted: names cannot lead out of an archive, sizes
are checked before memory is taken, and only plain raster formats are decoded. No torch here.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from PIL import Image

from training.data.image_decode import (
    MAX_BYTES,
    SUFFIXES,
    TOO_LARGE,
    UNREADABLE,
    BadImageError,
    Reading,
    decode,
    frames_in,
    looks_like_image,
    short,
)
from training.data.image_labels import LABELS_FILE, folder_around, folder_labels, parse_labels

# What this suite itself writes among images.
OWN_FILES = {LABELS_FILE, "gen_fid_samples_options.json"}
HIDDEN = "hidden"
NOT_IMAGE = "not of an image format that is read"
NOT_TOP = "not beside all images"
NOT_FILE = "no regular file (FIFO, socket or device)"


@dataclass
class ImageSet:
    """Images of a source, in a fixed order.

    Attributes:
        path: of the source.
        names: what to call each image.
        labels: label of each image, or None.
        image: i -> image i, of mode L or RGB, see `decode`; raises `BadImageError`. Threads may
            call it.
        classes: names of the classes, where the source has them.
        raw: i -> the bytes of image i, as they are stored.
        close: lets go of the source.
        origin: where the labels were found, or why there are none, for messages; "" for the
            source itself.
        left_out: why -> files of the source that are no images of the set.
    """

    path: str | Path
    names: list[str]
    labels: list[int] | None
    image: Callable[[int], Image.Image]
    raw: Callable[[int], bytes]
    classes: list[str] | None = None
    close: Callable[[], None] = lambda: None
    origin: str = ""
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def __enter__(self) -> ImageSet:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def naming(self, i: int) -> Iterator[None]:
        """Turn a `BadImageError` of the block into a ValueError that names source and image i."""
        try:
            yield
        except BadImageError as error:
            raise ValueError(f"{self.path}: {self.names[i]} is {error}") from None

    def sure(self, i: int) -> Image.Image:
        """Image i; of one that cannot be used, a ValueError that names it."""
        with self.naming(i):
            return self.image(i)

    def notes(self) -> list[str]:
        """A line on the files that were left out, if there are any."""
        left = ", ".join(phrases(self.left_out))
        return [f"Note: {self.path}: {len(self.names)} images; left out: {left}"] if left else []


def phrases(left_out: dict[str, list[str]]) -> list[str]:
    """What was left out, one phrase a reason: "2 hidden (.a, .b)"."""
    return [
        f"{len(names)} {why} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for why, names in left_out.items()
    ]


@dataclass
class _Files:
    """Files of a folder or archive: names with "/", how to open one, its size, what is no file."""

    path: Path
    names: list[str]
    open: Callable[[str], IO[bytes]]
    size: Callable[[str], int]
    special: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None

    def read(self, name: str) -> bytes:
        """The bytes of a file; the checksum of an archive is compared.

        By the stated size: `ZipFile.read` unpacks all there is before it cuts that down.
        """
        size = self.size(name)
        if size > MAX_BYTES:
            raise BadImageError(TOO_LARGE, f"a file of {size / 2**20:.0f} MiB")
        with self.open(name) as file:
            return file.read(max(size, 1))

    def look(self, name: str, at: Callable[[IO[bytes]], int]) -> int:
        """What a look at the content of a file gives; 0 if it cannot be opened or is too large."""
        with suppress(Exception):  # zipfile, zlib and the file system each have their own
            if self.size(name) <= MAX_BYTES:
                with self.open(name) as file:
                    return at(file)
        return 0


def open_images(path: str | Path, how: Reading | None = None) -> ImageSet:
    """The images of a folder or a zip archive, sorted by name.

    A file is an image by its suffix or by its content. Labels come from dataset.json if there is
    one, else from the top-level folders, if every image lies in one and there are at least two.
    Folders around everything are passed over; so are those that only split the set (train, test,
    ...), if every image lies in a folder inside them: train/cat and test/cat are one class.

    Args:
        path: of the folder or archive.
        how: to read files of several frames, or of more than 8 bits; None refuses them.

    Raises:
        ValueError: one line that says what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        try:
            files = _folder(path)
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from None
    elif not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    elif path.suffix.lower() != ".zip":
        raise ValueError(f"{path}: neither a folder nor a .zip archive")
    else:
        files = _archive(path)
    try:
        return _image_set(files, how or Reading())
    except BaseException:
        files.close()
        raise


def _folder(path: Path) -> _Files:
    files = _Files(
        path,
        [],
        lambda name: open(path / name, "rb"),  # noqa: SIM115
        lambda name: os.path.getsize(path / name),
    )
    _walk(files, path, "", frozenset())
    return files


def _walk(files: _Files, folder: Path, prefix: str, above: frozenset[str]) -> None:
    """Find all files under a folder; links are followed, unless they lead back up."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            try:
                mode = entry.stat().st_mode
            except OSError:  # a link to nowhere: reading it says so
                mode = stat.S_IFREG
            if stat.S_ISDIR(mode):
                _walk(files, folder / entry.name, f"{name}/", above | {real})
            else:
                (files.names if stat.S_ISREG(mode) else files.special).append(name)


def _archive(path: Path) -> _Files:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a readable zip archive ({error})") from None
    entries: dict[str, zipfile.ZipInfo] = {}
    try:
        for info in archive.infolist():
            name = _entry_name(path, info.filename)
            if name in entries:
                raise ValueError(
                    f"{path}: holds several entries of one name; make the archive anew"
                )
            if not name.endswith("/"):
                entries[name] = info
    except ValueError:
        archive.close()
        raise
    return _Files(
        path,
        list(entries),
        lambda name: archive.open(entries[name]),
        lambda name: entries[name].file_size,
        close=archive.close,
    )


def _entry_name(path: Path, name: str) -> str:
    """The name of an archive's entry, however it was packed: "/" for its backslashes, no "./"."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or re.match("[A-Za-z]:", name) or ".." in parts:
        raise ValueError(
            f"{path}: entry {name!r} leads out of the archive; refused, take the archive from a "
            "source you trust"
        )
    return "/".join(part for part in parts if part != ".")


def _sorted_out(files: _Files) -> tuple[list[str], str, dict[str, list[str]]]:
    """Names of the images, the folder around them, and what is left out and why."""
    images, labels = [], []
    left: dict[str, list[str]] = {}
    for name in sorted(files.names):
        own = name.rpartition("/")[2]
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            left.setdefault(HIDDEN, []).append(name)
        elif own == LABELS_FILE:
            labels.append(name)
        elif name.lower().endswith(SUFFIXES) or files.look(name, looks_like_image):
            images.append(name)
        elif own not in OWN_FILES:
            left.setdefault(NOT_IMAGE, []).append(name)
    around = folder_around(images + labels)
    for name in labels:
        if name != around + LABELS_FILE:
            left.setdefault(NOT_TOP, []).append(name)
    if files.special:
        left[NOT_FILE] = sorted(files.special)
    return images, around, left


def _image_set(files: _Files, how: Reading) -> ImageSet:
    path, read = files.path, files.read
    found, around, left = _sorted_out(files)
    if not found:
        passed = f"; left out: {', '.join(phrases(left))}" if left else ""
        raise ValueError(f"{path}: holds no images{passed}")
    entries = [(name, 0) for name in found]
    if how.frames == "all":
        counts = [max(1, files.look(name, frames_in)) for name in found]
        entries = [(name, k) for name, n in zip(found, counts, strict=True) for k in range(n)]
        read = lru_cache(maxsize=4)(read)  # for the frames of a file, one after the other
    inside = [name[len(around) :] for name, _ in entries]
    labels, classes, origin = None, None, LABELS_FILE
    if around + LABELS_FILE in files.names:
        try:
            text = read(around + LABELS_FILE)
            labels = parse_labels(text, inside, around)
        except (ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: {LABELS_FILE}: {error}") from None
    else:
        labels, classes, origin = folder_labels(inside)

    def raw(i: int) -> bytes:
        try:
            return read(entries[i][0])
        except BadImageError:
            raise
        except Exception as error:  # zipfile, zlib and the file system each have their own
            raise BadImageError(UNREADABLE, short(error)) from None

    names = [name if not k else f"{name} (frame {k + 1})" for name, k in entries]
    return ImageSet(
        path, names, labels, lambda i: decode(raw(i), entries[i][1], how), raw, classes,
        files.close, origin, left,
    )  # fmt: skip
