"""Digests of every array, tensor, pixel and number in folders of results, and how two differ."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from safetensors.numpy import load as load_safetensors

Value = np.ndarray | int | float
Digests = dict[str, Any]  # of an array {"shape", "dtype", "bits", "stats"}; a number as it is

# Wall times, dates, memory, what ran where: they differ from run to run.
CLOCK = re.compile(r"sec_per_kimg|sec_total|(cpu|gpu)_mem_gib|timestamp|.*seconds.*|envelope")
MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d( \d\d:\d\d)?|[\w ]*seconds[\w ]*(&#34;: |</dt>\n<dd>| )[\d.e+-]+"
)
# What they write of stats.jsonl and the terminal again.
LEFT_OUT = re.compile(r"events\.out\..*|log\.txt")
TOLERANCE = 5e-4  # of numbers from another machine; other instruction sets gave 5e-5


def values(path: Path, name: str, hide: dict[str, str]) -> Iterator[tuple[str, Value]]:
    """Every array and number of a file.

    Args:
        path: the file.
        name: how its entries are called.
        hide: paths that occur in texts, and what stands for each.
    """
    data, kind = path.read_bytes(), path.suffix
    if kind == ".zip":
        yield from _members(data, name)
    elif kind in (".pkl", ".pt"):
        yield from _leaves(torch.load(path, map_location="cpu", weights_only=True), name)
    elif kind in (".txt", ".csv", ".html"):
        text = MOMENT.sub("", _hidden(data.decode(), hide))
        yield name, np.frombuffer(text.encode(), np.uint8)
    else:
        yield from _content(data, name, kind)


def _content(data: bytes, name: str, kind: str) -> Iterator[tuple[str, Value]]:
    if kind in (".npz", ".npy"):
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        yield from _leaves(dict(loaded) if kind == ".npz" else loaded, name)
    elif kind == ".safetensors":
        yield from _leaves(load_safetensors(data), name)
    elif kind in (".png", ".gif"):
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode if kind == ".png" else "RGBA"  # frames of a .gif have several
            frames = [np.asarray(f.convert(mode)) for f in ImageSequence.Iterator(image)]
        yield name, np.stack(frames) if len(frames) > 1 else frames[0]
    elif kind == ".json":
        yield from _leaves(json.loads(data), name)
    elif kind == ".jsonl":
        yield from _leaves([json.loads(x) for x in data.splitlines()], name)
    elif kind == ".nc":
        import h5py  # what arviz writes

        found: dict[str, Any] = {}
        with h5py.File(io.BytesIO(data)) as file:
            file.visititems(
                lambda k, v: found.update({k: v[()]}) if isinstance(v, h5py.Dataset) else None
            )
        yield from _leaves(found, name)
    else:
        yield name, np.frombuffer(data, np.uint8)


def _members(data: bytes, name: str) -> Iterator[tuple[str, Value]]:
    """Of a zip of images: those of one shape as one array."""
    pixels: dict[tuple[int, ...], list[np.ndarray]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in sorted(archive.namelist()):
            for key, value in _content(archive.read(member), member, Path(member).suffix):
                if member.endswith(".png") and isinstance(value, np.ndarray):
                    pixels.setdefault(value.shape, []).append(value)
                else:
                    yield f"{name}/{key}", value
    for shape, images in pixels.items():
        yield f"{name}:pixels{list(shape)}", np.stack(images)


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Value]]:
    """Arrays and numbers of nested dicts and lists; a list of numbers is an array."""
    if isinstance(tree, torch.Tensor):
        tree = (tree.float() if tree.dtype == torch.bfloat16 else tree).numpy()
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not CLOCK.fullmatch(str(key)):
                yield from _leaves(value, f"{name}:{key}" if ":" not in name else f"{name}.{key}")
    elif isinstance(tree, list | tuple):
        numbers = _numbers(tree)
        if numbers is not None:
            yield name, np.array(numbers)
        else:
            for i, value in enumerate(tree):
                yield from _leaves(value, f"{name}[{i}]")
    elif isinstance(tree, bool | int | float) or (
        isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf"
    ):  # texts are left out
        yield name, tree


def _numbers(tree: list | tuple) -> list[float] | None:
    """The numbers of nested lists in a row; None if there are others than numbers and texts."""
    found: list[float] = []
    for value in tree:
        inner = _numbers(value) if isinstance(value, list | tuple) else [value]
        if inner is None or not all(isinstance(x, int | float | str) or x is None for x in inner):
            return None
        found += [x for x in inner if isinstance(x, int | float)]
    return found


def of_folders(folders: dict[str, Path], hide: dict[str, str]) -> tuple[Digests, Digests]:
    """Digests of all that lies in the folders of the commands, and the arrays themselves."""
    digests: Digests = {}
    arrays: Digests = {}
    for command, folder in folders.items():
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if LEFT_OUT.fullmatch(path.name):
                continue
            for key, value in values(path, f"{command}/{path.relative_to(folder)}", hide):
                key = _hidden(key, hide)
                if isinstance(value, np.ndarray):
                    arrays[key] = value
                    digests[key] = _of_array(value)
                else:
                    digests[key] = value
    return digests, arrays


def _hidden(text: str, hide: dict[str, str]) -> str:
    """A text without paths that differ from run to run."""
    for place, word in hide.items():
        text = text.replace(place, word)
    return text


def _of_array(x: np.ndarray) -> Digests:
    """Shape, type, bits, and [mean, rms, projection on a fixed wave] of the finite entries."""
    x = np.ascontiguousarray(x)
    y = x.astype(np.float64).ravel()
    y = y[np.isfinite(y)]
    wave = np.sin(1.618 * np.arange(len(y)))
    n = max(len(y), 1)
    stats = (y.sum() / n, math.sqrt(y @ y / n), y @ wave / math.sqrt(n))
    bits = hashlib.blake2b(x.tobytes(), digest_size=12).hexdigest()
    return {
        "shape": list(x.shape),
        "dtype": x.dtype.str,
        "bits": bits,
        "stats": [float(f"{s:.6g}") for s in stats],
    }


def rounded(digests: Digests) -> Digests:
    """For other machines: no bits, numbers of 6 digits, no pictures by matplotlib, no states."""
    digests = {k: v for k, v in digests.items() if not re.search(r"\.(png|pt)(:|$)", k)}
    return {
        k: {a: b for a, b in v.items() if a != "bits"} if isinstance(v, dict)
        else float(f"{v:.6g}") if type(v) is float else v
        for k, v in digests.items()
    }  # fmt: skip


def differences(a: Digests, b: Digests, x: Digests, y: Digests) -> list[str]:
    """A line for each entry that is not the same in both.

    Args:
        a, b: digests; where one has no bits, it holds `rounded` numbers of another machine.
        x, y: the arrays of each, as far as they are there.
    """
    exact = all("bits" in v for v in (*a.values(), *b.values()) if isinstance(v, dict))
    lines = [f"{k}: only in the {'first' if k in a else 'second'}" for k in a.keys() ^ b.keys()]
    for key in a.keys() & b.keys():
        one, two = a[key], b[key]
        if not isinstance(one, dict) or not isinstance(two, dict):
            if not (one == two or (one != one and two != two) or (not exact and _close(one, two))):
                lines.append(f"{key}: {one} and {two}")
        elif (one["shape"], one["dtype"]) != (two["shape"], two["dtype"]):
            lines.append(f"{key}: {one['dtype']}{one['shape']} and {two['dtype']}{two['shape']}")
        elif exact and one["bits"] != two["bits"]:
            lines.append(f"{key}: {_apart(x.get(key), y.get(key))}")
        elif not exact and not _close(one["stats"], two["stats"]):
            lines.append(f"{key}: mean, rms, projection {one['stats']} and {two['stats']}")
    return sorted(lines)


def _close(one: Any, two: Any) -> bool:
    """Whether numbers, or [mean, rms, projection], are equal but for rounding."""
    if type(one) is float and type(two) is float:
        return math.isclose(one, two, rel_tol=TOLERANCE, abs_tol=1e-5)
    if isinstance(one, list) and isinstance(two, list):
        scale = TOLERANCE * one[1] + 1e-7
        return all(abs(p - q) <= scale for p, q in zip(one, two, strict=True))
    return False


def _apart(x: np.ndarray | None, y: np.ndarray | None) -> str:
    if x is None or y is None:
        return "not the same bits"
    p, q = x.astype(np.float64), y.astype(np.float64)
    apart = np.nan_to_num(np.abs(p - q), nan=np.inf)
    apart[(p == q) | (np.isnan(p) & np.isnan(q))] = 0
    scale = max(float(np.abs(np.nan_to_num(p)).max()), 1e-300)
    worst, n = float(apart.max()), np.count_nonzero(apart)
    return f"max abs {worst:.3g}, of the largest {worst / scale:.3g}, in {n} of {p.size}"
