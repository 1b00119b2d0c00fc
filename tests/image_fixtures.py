"""Tiny image sources in the published layouts, and calls of dataset_tool.py, for the tests."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image, features

import dataset_tool

JPEG2000 = features.check("jpg_2000")
AVIF = features.check("avif")


def last(result):
    """The closing line of a call."""
    return result.output.splitlines()[-1].partition(".zip: ")[2]


def pixels(n: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random images, uint8 [n, H, W] or [n, H, W, 3]."""
    shape = (n, size, size, 3) if channels == 3 else (n, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    """A folder of files."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A compressed zip of files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read_set(path: Path) -> tuple[list[str], list[np.ndarray], list | None]:
    """Names, images and labels of a zip or folder that the tool made."""
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*.*")}
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    labels = json.loads(files.pop("dataset.json"))["labels"]
    names = sorted(files)
    return names, [np.asarray(Image.open(io.BytesIO(files[n]))) for n in names], labels


class Python2Pickler(pickle._Pickler):
    """Writes strings and arrays as Python 2 did, which is how CIFAR-10 was published."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_python2_str(self, value: bytes) -> None:
        """Opcode BINSTRING, which Python 3 no longer writes."""
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    def save_text(self, value: str) -> None:
        """All strings were byte strings."""
        self.save_python2_str(value.encode("latin1"))

    dispatch[bytes] = save_python2_str
    dispatch[str] = save_text


def python2_pickle(value: object) -> bytes:
    """A pickle as Python 2 and its NumPy wrote it."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar_batch(images: np.ndarray, labels: list[int]) -> dict:
    """The content of a batch file: one row an image, planes of red, green, blue."""
    return {
        "batch_label": "training batch",
        "labels": labels,
        "data": np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1),
        "filenames": [f"thing_s_{i:06d}.png" for i in range(len(images))],
    }


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A .tar.gz of files."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_cifar(path: Path, images: np.ndarray, labels: list[int], dumps=python2_pickle) -> Path:
    """A CIFAR-10 archive of 5 equal batches, written out of order, and the test batch."""
    n = len(images) // 5
    files = {
        f"cifar-10-batches-py/data_batch_{i + 1}": dumps(
            cifar_batch(images[i * n : (i + 1) * n], labels[i * n : (i + 1) * n])
        )
        for i in (3, 0, 4, 1, 2)
    }
    files["cifar-10-batches-py/test_batch"] = dumps(cifar_batch(images[:1], [9]))
    files["cifar-10-batches-py/readme.html"] = b"<html>"
    return write_tar(path, files)


def idx(array: np.ndarray) -> bytes:
    """A compressed idx file of bytes."""
    header = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


def write_mnist(folder: Path, images: np.ndarray, labels: list[int]) -> Path:
    """Images and labels files; returns the images file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.array(labels, np.uint8)))
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(idx(images))
    return path


def call(*args: object) -> Result:
    """Run dataset_tool.py in this process."""
    return CliRunner().invoke(dataset_tool.main, [str(a) for a in args])


def good(source: object, dest: Path, *args: object) -> Result:
    """A conversion that works."""
    result = call(f"--source={source}", f"--dest={dest}", *args)
    assert result.exit_code == 0, result.output
    return result


def bad(tmp_path: Path, source: object, *args: object, dest: Path | None = None) -> tuple[str, str]:
    """The error line and all output of a refusal; checks that nothing was written."""
    before = sorted(tmp_path.rglob("*"))
    result = call(f"--source={source}", f"--dest={dest or tmp_path / 'out.zip'}", *args)
    assert result.exit_code == 2, result.output
    assert sorted(tmp_path.rglob("*")) == before
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert "Traceback" not in result.output
    assert len(line) < 500
    return line, result.output
