"""Labels of images: from a dataset.json, or from the folders that the images lie in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from training.data.image_decode import short

MAX_CLASSES = 100_000  # labels become one-hot vectors
LABELS_FILE = "dataset.json"
SPLITS = {"train", "test", "val", "valid", "validation"}  # names of parts of a set, not of classes
LABELS_FORM = '{"labels": [["name.png", 3], ...]} or {"labels": null}'


def folder_around(names: list[str]) -> str:
    """The folders that hold everything, as "a/b/", or "": they are no classes."""
    around = ""
    while True:
        tops = {name[len(around) :].partition("/")[::2] for name in names}
        folders = {top for top, _ in tops}
        if len(folders) != 1 or folders <= SPLITS or not all(rest for _, rest in tops):
            return around
        around += f"{folders.pop()}/"


def folder_labels(names: list[str]) -> tuple[list[int] | None, list[str] | None, str]:
    """Class of each image by its folder, the classes' names, and where they were found.

    Without labels, the last says why, where that may surprise.
    """
    folders = [name.split("/")[:-1] for name in names]
    tops = {folder[0] for folder in folders if folder}
    level, origin = 0, "top-level folders"
    if tops <= SPLITS and all(len(folder) > 1 for folder in folders):
        level, origin = 1, f"folders in {' and '.join(sorted(tops))}"
    classes = sorted({folder[level] for folder in folders if folder})
    stray = [name for name in names if "/" not in name]
    if stray and classes:
        return None, None, f"{len(stray)} of {len(names)} images in no folder, e.g. {stray[0]}"
    if len(classes) < 2:
        return None, None, ""
    if tops <= SPLITS and all(len(folder) == 1 for folder in folders):
        return None, None, f"{' and '.join(classes)} are parts of a set, no classes"
    number = {name: i for i, name in enumerate(classes)}
    return [number[folder[level]] for folder in folders], classes, origin


def parse_labels(text: bytes, names: list[str], around: str = "") -> list[int] | None:
    """Class of each named image, from the text of a dataset.json.

    Args:
        text: of the file.
        names: of the images, seen from its folder.
        around: that folder, which names in the file may begin with.

    Raises:
        ValueError: if the text has another form, or labels other images than `names`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({short(error)})") from None
    if not isinstance(content, dict) or "labels" not in content:
        raise ValueError(f"must be {LABELS_FORM}")
    pairs = content["labels"]
    if pairs is None:
        return None
    if not isinstance(pairs, list):
        raise ValueError(f"must be {LABELS_FORM}")
    labels: dict[str, int] = {}
    known, widths = set(names), set()
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"holds {str(pair)[:60]!r}; must be {LABELS_FORM}")
        name, label = pair[0].replace("\\", "/"), pair[1]
        if name not in known:
            name = name.removeprefix("./").removeprefix(around)
        if name in labels:
            raise ValueError(f"labels {name} twice")
        labels[name] = _number(name, label)
        widths.add(len(label) if isinstance(label, list) else 0)
    if len(widths) > 1:
        raise ValueError("has labels of several forms or lengths; make them all numbers")
    missing = [name for name in names if name not in labels]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} images have no label, e.g. {missing[0]}")
    extra = labels.keys() - known
    if extra:
        raise ValueError(f"labels {len(extra)} images that are not there, e.g. {min(extra)}")
    return [labels[name] for name in names]


def _number(name: str, label: Any) -> int:
    """A label as a whole number; that of a one-hot vector is the place of its 1."""
    if isinstance(label, list):
        if label.count(1) != 1 or label.count(0) != len(label) - 1:
            raise ValueError(
                f"{name} has the label {str(label)[:60]}; of vectors only one-hot ones are read"
            )
        label = label.index(1)
    if type(label) is not int or not 0 <= label < MAX_CLASSES:
        raise ValueError(
            f"{name} has the label {str(label)[:60]}; labels are whole numbers from 0 to "
            f"{MAX_CLASSES - 1}"
        )
    return label


def spelled(labels: np.ndarray) -> str:
    """Labels of classes as messages name them: "0 to 9", or "1, 2, 5"; at most 20 of them."""
    first, count = labels[0], len(labels)
    if count > 2 and labels[-1] - first == count - 1:
        return f"{first} to {labels[-1]}"
    return ", ".join(str(k) for k in labels[:20]) + (", ..." if count > 20 else "")
