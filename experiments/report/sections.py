"""Result folders as sections of a report: the envelopes of files, and the ticks of trainings.

Every result file has an envelope (`dnnlib.results`); a training run is given one from its ticks,
a folder of pictures another, so that all are shown in one way. Other .json are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dnnlib.results import KEY
from dnnlib.util import Json
from experiments.report import files as reading
from experiments.report.files import PICTURES, is_inside, number, parsed, read_json, tail, text
from experiments.report.training import loss_chart

FIRST, GALLERY = ("Tables of the papers", "Training"), "Other pictures"  # chapters
SHAPE = {"kind": str, "title": str, "values": list, "tables": list, "pictures": list, "notes": list}
MAX_VALUES, MAX_ROWS = 200, 500


@dataclass
class Section:
    """One result in a report.

    Attributes:
        source: file or folder that it was read from, as people see it.
        date: when that was last written, seconds since 1970.
        envelope: what it says; types checked, texts as they came.
        pictures: files to embed.
        details: what unfolds: caption -> text, or plain values by name.
        chart: address of a drawing, and what it shows.
    """

    source: Path
    date: float
    envelope: Json
    pictures: list[Path] = field(default_factory=list)
    details: Json = field(default_factory=dict)
    chart: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        given = self.envelope
        e = given | {k: v if isinstance(v := given.get(k), t) else t() for k, t in SHAPE.items()}
        e["kind"] = e["kind"] or "Results"
        e["title"] = e["title"] or self.source.stem.replace("_", " ")
        e["values"] = [v for v in e["values"] if isinstance(v, dict)][:MAX_VALUES]
        e["tables"] = [
            t | {"rows": [r for r in t["rows"][:MAX_ROWS] if isinstance(r, list)]}
            for t in e["tables"]
            if isinstance(t, dict) and all(isinstance(t.get(k), list) for k in ("columns", "rows"))
        ]
        said = [v for v in e["values"] if number(v.get("value")) is not None][:2]
        e["headline"] = ", ".join(
            f"{text(v.get('name'))} {text(v['value'])} {text(v.get('unit', ''))}".strip()
            for v in said
        ) or ", ".join(f"{len(t['rows'])} rows" for t in e["tables"])  # fmt: skip
        self.envelope = e


def collect(roots: Sequence[Path]) -> tuple[list[Section], list[str]]:
    """What can be shown of folders and those in them, by chapter; and what could not be used.

    Raises:
        ValueError: naming a folder that holds no results.
    """
    found: list[Section] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for root in roots:
        told = len(problems)
        new = [(f, files) for f, files in reading.folders(root) if f.resolve() not in seen]
        seen |= {f.resolve() for f, _ in new}
        here = [s for f, files in new for s in _sections(f, files, root, problems)]
        if new and not here:
            why = "".join(f"; {p}" for p in problems[told : told + 1])
            raise ValueError(f"{root} holds no results: name a folder that a script wrote to{why}")
        found += here
    shown: set[Path] = set()
    for section in sorted(found, key=lambda s: s.envelope["kind"] == FIRST[0]):  # whose they are
        section.pictures = [p for p in dict.fromkeys(section.pictures) if p.resolve() not in shown]
        shown |= {p.resolve() for p in section.pictures}
    kinds = [s.envelope["kind"] for s in found]
    chapters = [*dict.fromkeys([*FIRST, *(k for k in kinds if k != GALLERY)]), GALLERY]
    return sorted(found, key=lambda s: chapters.index(s.envelope["kind"])), problems


def _sections(
    folder: Path, files: dict[str, Path], root: Path, problems: list[str]
) -> Iterator[Section]:
    """Sections of the files that lie in one folder itself; `problems` gets what is wrong."""
    pictures = [p for p in files.values() if p.suffix.lower() in PICTURES]
    if {"training_options.json", "stats.jsonl"} & files.keys():
        yield _training(folder, files, pictures, problems)
        return
    results: dict[str, dict] = {}
    for name, path in files.items():
        content = _read(path, problems) if path.suffix == ".json" else {}
        if isinstance(content.get(KEY), dict):
            results[name] = content
        elif "options" in content:
            problems.append(f"{path} says nothing of its run (no envelope): made before; left out")
    nearest: dict[str, list[Path]] = {name: [] for name in results}
    for p in pictures if results else ():
        nearest[max(results, key=lambda n: _alike(n, p.name))].append(p)
    for name, content in results.items():
        section = Section(files[name], _date([files[name]]), content.pop(KEY))
        for picture in map(str, section.envelope["pictures"]):
            near = [Path(os.path.normpath(f / picture)) for f in (folder, folder.parent)]
            there = [p for p in near if p.suffix.lower() in PICTURES and is_inside(p, root)]
            section.pictures += there[:1]
            if not there:
                problems.append(f"{files[name]} names a picture that is not there: {picture}")
        section.pictures += sorted(nearest[name], key=lambda p: (p.suffix == ".gif", p))
        section.details = {"Options": content.pop("options", None), "Everything in it": content}
        yield section
    if pictures and not results:
        said = {"kind": GALLERY, "title": str(folder)}
        yield Section(folder, _date(pictures), said, pictures)


def _records(path: Path) -> tuple[list[Json], int]:
    """Objects of a .jsonl, and how many lines could not be read."""
    with open(path, "rb") as file:
        lines = file.read(reading.MAX_TEXT).splitlines()
    records = []
    for line in lines:
        with suppress(ValueError):
            records.append(parsed(line))
    return records, len(lines) - len(records)


def _training(
    folder: Path, files: dict[str, Path], pictures: list[Path], problems: list[str]
) -> Section:
    """A run folder of toy_train.py or train.py."""
    own = [files[n] for n in ("training_options.json", "stats.jsonl") if n in files]
    records, bad = _records(files["stats.jsonl"]) if "stats.jsonl" in files else ([], 0)
    ticks = [r for r in records if number(r.get("kimg")) is not None]
    losses = [r for r in ticks if number(r.get("loss")) is not None]
    last = {k: v for k, v in ticks[-1].items() if k != "timestamp"} if ticks else {}
    values: Json = {k: last.pop(k) for k in ("loss", "kimg") if k in last}
    if losses:
        values["lowest loss of a tick"] = min(r["loss"] for r in losses)
    values |= {k.replace("_", " "): v for k, v in last.items()}
    for name in [n for n in files if n.startswith("network-snapshot-")][-1:]:
        values["latest network"] = name
    hidden = [p for p in pictures if p.name.startswith("samples-")][:-1]
    hidden += [p for p in pictures if p.name == "loss.png" and len(losses) > 1]  # is drawn
    said = {
        "kind": "Training", "title": folder.resolve().name,
        "values": [{"name": k, "value": v} for k, v in values.items()],
        "notes": [f"{bad} lines of stats.jsonl could not be read."] if bad else [],
    }  # fmt: skip
    section = Section(folder, _date(own), said, [p for p in pictures if p not in hidden])
    section.chart = loss_chart(losses) if len(losses) > 1 else None
    if "training_options.json" in files:
        section.details["Options"] = _read(files["training_options.json"], problems)
    if "log.txt" in files:
        section.details["Log"] = tail(files["log.txt"])
    return section


def _read(path: Path, problems: list[str]) -> Json:
    """A .json; empty, and a sentence, if it cannot be used."""
    try:
        return read_json(path)
    except ValueError as error:
        problems.append(f"{path} could not be used: {error}")
        return {}


def _alike(one: str, other: str) -> int:
    """How many characters two names begin with in common."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)


def _date(paths: Sequence[Path]) -> float:
    return max(float(int(p.stat().st_mtime)) for p in paths)
