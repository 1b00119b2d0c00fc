"""Image sets that are published as archives: CIFAR-10, MNIST, LSUN, and scikit-learn's digits.

CIFAR-10 is a tar of pickles, and unpickling can run any program; `inert_pickle` reads the numbers
without calling anything that the file names.
"""

from __future__ import annotations

import gzip
import importlib
import re
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from torch_utils.files.inert_pickle import RefusedError, read, table
from torch_utils.files.inert_values import PLAIN
from training.data.image_decode import BadImageError, Reading, decode
from training.data.image_files import ImageSet, open_images

CIFAR_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]  # the 50,000 training images
CIFAR_CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
MAX_BATCH = 2**27  # bytes of one CIFAR-10 batch; the published ones have 31 MB
MAX_IDX = 2**31  # bytes of an MNIST file
IDX_IMAGES, IDX_LABELS = 2051, 2049  # the first four bytes of an idx file


def open_source(source: str, how: Reading | None = None) -> ImageSet:
    """Images of anything that dataset_tool.py reads.

    Args:
        source: folder, .zip, CIFAR-10 .tar.gz, MNIST .gz, LSUN lmdb folder, or "digits".
        how: to read files of several frames, or of more than 8 bits.

    Raises:
        ValueError: one line that says what is wrong.
    """
    path, lsun = Path(source), (Path(source) / "data.mdb").is_file()
    if source != "digits" and not lsun and (path.is_dir() or path.suffix.lower() == ".zip"):
        return open_images(path, how)
    if how not in (None, Reading()):
        raise ValueError(f"{source}: --frames and --depth are for folders and .zip archives")
    if source == "digits":
        return _digits()
    if lsun:
        return _lsun(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    if path.name.lower().endswith((".tar.gz", ".tgz")):
        return _cifar(path)
    if path.suffix.lower() == ".gz":
        return _mnist(path)
    raise ValueError(
        f"{path}: not a folder, .zip, CIFAR-10 .tar.gz, MNIST .gz, LSUN lmdb folder, or the word "
        "digits"
    )


def array_set(
    path: str | Path,
    array: np.ndarray,
    labels: Sequence[int] | np.ndarray | None = None,
    classes: list[str] | None = None,
) -> ImageSet:
    """A set of the images of an array, uint8 [n, H, W] or [n, H, W, 3]."""
    return ImageSet(
        path,
        [f"image {i}" for i in range(len(array))],
        None if labels is None else [int(label) for label in labels],
        lambda i: Image.fromarray(array[i]),
        lambda i: array[i].tobytes(),
        classes,
    )


def _digits() -> ImageSet:
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    array = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    return array_set("digits", array, bunch.target)


# CIFAR-10 --------------------------------------------------------------------------------------


_NAMES = table(PLAIN, "which no image data needs")


def _cifar(path: Path) -> ImageSet:
    batches: dict[str, tuple[np.ndarray, list[int]]] = {}
    try:
        with gzip.open(path) as whole, tarfile.open(fileobj=whole) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.size > MAX_BATCH:
                    raise ValueError(f"{member.name} has {member.size} bytes; not CIFAR-10")
                if member.isfile() and name in CIFAR_BATCHES:
                    file = archive.extractfile(member)
                    assert file is not None  # it is a file
                    batches[name] = _cifar_batch(member.name, file)
            while whole.read(2**20):  # to the end, where the checksum is
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{path}: not a whole .tar.gz archive ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    missing = [name for name in CIFAR_BATCHES if name not in batches]
    if missing:
        raise ValueError(
            f"{path}: {', '.join(missing)} missing; the python version of CIFAR-10, "
            "cifar-10-python.tar.gz, holds five data_batch files"
        )
    images = np.concatenate([batches[name][0] for name in CIFAR_BATCHES])
    labels = [label for name in CIFAR_BATCHES for label in batches[name][1]]
    return array_set(path, images, labels, CIFAR_CLASSES)


def _cifar_batch(name: str, file: IO[bytes]) -> tuple[np.ndarray, list[int]]:
    """Images uint8 [n, 32, 32, 3] and labels of one batch."""
    try:
        batch = read(file.read(), _NAMES)
    except RefusedError as error:
        raise ValueError(f"{name} {error}") from None
    except MemoryError as error:
        raise ValueError(f"{name} is damaged ({type(error).__name__})") from None
    try:
        data, labels = batch["data"].value, batch["labels"]
        count = len(labels)
        if data.shape != (count, 3072) or data.dtype != np.uint8:
            raise ValueError
        if not all(type(label) is int and 0 <= label < 10 for label in labels):
            raise ValueError
        planes = data.reshape(count, 3, 32, 32)
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ValueError(
            f"{name} does not hold bytes [n, 3072] with n labels from 0 to 9; not CIFAR-10"
        ) from None
    return planes.transpose(0, 2, 3, 1), labels


# MNIST -----------------------------------------------------------------------------------------


def _mnist(path: Path) -> ImageSet:
    """MNIST and its relatives; 28x28 images get a black frame to 32x32, a power of two."""
    images = _idx(path, IDX_IMAGES)
    name = re.sub(r"images(.)idx3", r"labels\1idx1", path.name)
    beside = path.with_name(name)
    if beside == path or not beside.is_file():
        raise ValueError(
            f"{path}: its labels are missing; put the labels file "
            f"({name if beside != path else 'train-labels-idx1-ubyte.gz'}) beside it, and keep "
            "the published names"
        )
    labels = _idx(beside, IDX_LABELS)
    if len(labels) != len(images):
        raise ValueError(f"{beside}: {len(labels)} labels for {len(images)} images of {path.name}")
    if images.shape[1:] == (28, 28):
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return array_set(path, images, labels)


def _idx(path: Path, magic: int) -> np.ndarray:
    """The array of an idx file: images [n, H, W] or labels [n], uint8."""
    axes = 3 if magic == IDX_IMAGES else 1
    try:
        with gzip.open(path) as file:
            if struct.unpack(">I", file.read(4))[0] != magic:
                kind = "images" if magic == IDX_IMAGES else "labels"
                raise ValueError(f"{path}: not an idx file of {kind}; is it the other file?")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            size = int(np.prod(shape, dtype=object))
            if size > MAX_IDX:
                raise ValueError(f"{path}: claims to hold {size} bytes, more than {MAX_IDX}")
            data = file.read(size)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path}: not a whole .gz file of MNIST ({error})") from None
    if len(data) < size:
        raise ValueError(f"{path}: ends after {len(data)} of {size} bytes; fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


# LSUN ------------------------------------------------------------------------------------------


def _lsun(path: Path) -> ImageSet:
    try:
        lmdb = importlib.import_module("lmdb")
    except ImportError:
        raise ValueError(f"{path}: reading LSUN needs lmdb; pip install lmdb") from None
    try:
        env = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
        with env.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise ValueError(f"{path}: not a readable lmdb folder ({error})") from None
    if not keys:
        raise ValueError(f"{path}: holds no images")

    def raw(i: int) -> bytes:
        try:
            with env.begin() as transaction:  # a transaction belongs to one thread
                return transaction.get(keys[i])
        except lmdb.Error as error:
            raise BadImageError("unreadable", str(error)) from None

    names = [key.decode("ascii", "backslashreplace") for key in keys]
    return ImageSet(path, names, None, lambda i: decode(raw(i)), raw, close=env.close)
