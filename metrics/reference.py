"""Reference statistics of the FID: a file that says what they are statistics of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.arrays import load_npz
from dnnlib.download import open_url
from dnnlib.util import atomic_path
from metrics.detectors import Detector
from metrics.features import FeatureStatistics

FORMAT = "inflationary-flow-fid-reference"
VERSION = 1
MAX_SIZE = 2**30  # bytes of a download: references have some 110 MB


@dataclass
class Reference:
    """Statistics of real images, and where they come from.

    Attributes:
        statistics: of the features; no pool where another suite wrote the file.
        info: "detector" (sha256), "rule" (what is done to an image first), "count", "kind" of the
            images, "data" (name and sha256); empty where another suite wrote the file.
    """

    statistics: FeatureStatistics
    info: dict[str, Any] = field(default_factory=dict)

    def mismatch(self, detector: Detector) -> str | None:
        """Why images seen by a detector cannot be compared with this; None if they can."""
        wanted = {"detector": detector.sha256, "rule": detector.rule}
        for name, value in wanted.items():
            if self.info and self.info[name] != value:
                what = {"detector": "a detector with sha256", "rule": "the input rule"}[name]
                return (
                    f"made with {what} {self.info[name]}, but this one has {value}; make the "
                    "reference anew with fid.py ref, or give the same --detector and "
                    "--detector-input"
                )
        width = len(self.statistics.mu)
        if width != detector.width:
            return f"has {width} features, the detector {detector.width}; give its --detector"
        return None


def save_reference(path: str | Path, reference: Reference) -> None:
    """Write a reference atomically: mu, sigma, pool and info (JSON text)."""
    s = reference.statistics
    assert s.pool is not None
    info = {"format": FORMAT, "version": VERSION, **reference.info}
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            mu=s.mu.numpy(),
            sigma=s.sigma.numpy(),
            pool=s.pool.numpy(),
            info=np.array(json.dumps(info)),
        )


def load_reference(path: str | Path) -> Reference:
    """Read a reference, or the mu and sigma that another suite wrote; nothing in it is run.

    Args:
        path: of the file, or its https:// address, which may end in #sha256=...

    Raises:
        ValueError: one line that says what is wrong.
    """
    try:
        name = path
        if "://" in str(path):
            with open_url(str(path), max_size=MAX_SIZE) as file:
                name = file.name
        arrays = load_npz(name, ("mu", "sigma", "pool", "info"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; make it with fid.py ref --data=... --dest={path}"
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not a reference file, or damaged ({reason})") from None
    info = _info(path, arrays.pop("info", None))
    statistics = {k: torch.from_numpy(_numbers(path, k, v)) for k, v in arrays.items()}
    if not {"mu", "sigma"} <= statistics.keys():
        raise ValueError(f"{path}: holds no mu and sigma; make it with fid.py ref")
    mu, sigma, pool = statistics["mu"], statistics["sigma"], statistics.get("pool")
    f = len(mu) if mu.ndim == 1 else -1
    pool_fits = pool is None or (pool.ndim == 2 and pool.shape[1] == f)
    if sigma.shape != (f, f) or not pool_fits or (info and pool is None):
        raise ValueError(f"{path}: damaged: mu, sigma and pool do not fit; make it anew")
    return Reference(FeatureStatistics(info.get("count", 0), mu, sigma, pool), info)


def _info(path: str | Path, stored: np.ndarray | None) -> dict[str, Any]:
    if stored is None:
        return {}
    try:
        info = json.loads(str(stored))
    except (ValueError, RecursionError):
        info = None
    needed = {"version": int, "detector": str, "rule": str, "count": int, "kind": str}
    if (
        not isinstance(info, dict)
        or info.get("format") != FORMAT
        or any(not isinstance(info.get(k), kind) for k, kind in needed.items())
    ):
        raise ValueError(f"{path}: not a reference file of this suite, or damaged; make it anew")
    if info["version"] > VERSION:
        raise ValueError(
            f"{path}: written by a newer version (file format {info['version']}, this suite reads "
            f"up to {VERSION}); update the suite"
        )
    return info


def _numbers(path: str | Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(
            f"{path}: damaged: {name} holds {array.dtype} or values that are no number"
        )
    return array if name == "pool" else array.astype(np.float64)
