"""Tables of published figures beside ours, from the .json files that the commands leave."""

from __future__ import annotations

import datetime
import json
import math
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnlib.util import aligned, atomic_path, write_json
from experiments.reproduce.presets import Figure
from experiments.reproduce.runner import ROOT, Runner, Step

TABLES = ("toys", "coverage", "hmc", "correlations", "images", "likelihood")
LEADING = ("what", "published", "exact", "ours")
TRAILING = ("ratio", "seed", "settings")


@dataclass(frozen=True)
class Value:
    """A number in the results of a step; of several steps, their mean.

    Attributes:
        steps: whose results.
        path: keys and indices, "results|nll_nats|mean"; "*" takes the mean over a list.
        file: pattern of the .json in the step's folder.
    """

    steps: tuple[Step, ...]
    path: str
    file: str = "*.json"

    def all(self, outdir: Path) -> list[float]:
        """The number of each step that has it."""
        found = []
        for step in self.steps:
            for path in sorted((outdir / step.folder).glob(self.file)):
                with suppress(KeyError, IndexError, TypeError, ValueError, OSError):
                    found.append(float(_pick(json.loads(path.read_text()), self.path.split("|"))))
                    break
        return found

    def mean(self, outdir: Path) -> float | None:
        """Over the steps; None if any lacks it."""
        found = self.all(outdir)
        return statistics.fmean(found) if found and len(found) == len(self.steps) else None


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        what: the quantity.
        ours: where our figure is.
        published: a figure of the same quantity on the same data; a text, which goes uncompared; or
            None, where the texts at hand print none.
        exact: the true value, or where it is.
        settings: what ours was made with.
        more: further columns.
    """

    what: str
    ours: Value
    published: Figure | str | None = None
    exact: Value | float | None = None
    settings: str = ""
    more: dict[str, Value] = field(default_factory=dict)

    def cells(self, outdir: Path) -> dict[str, Any]:
        """Plain values by column."""
        ours = self.ours.mean(outdir)
        exact = self.exact.mean(outdir) if isinstance(self.exact, Value) else self.exact
        base = self.published.value if isinstance(self.published, Figure) else exact
        numbers = self.ours.all(outdir)
        seeds = [str(s.seed) for s in self.ours.steps if s.seed is not None]
        return {
            "what": self.what,
            "published": str(self.published) if self.published is not None else None,
            "exact": exact,
            "ours": ours,
            **({"± 2 sd": 2 * statistics.stdev(numbers)} if len(numbers) > 1 else {}),
            **{name: value.mean(outdir) for name, value in self.more.items()},
            "ratio": ours / base if ours is not None and base else None,
            "settings": self.settings,
            "seed": ", ".join(dict.fromkeys(seeds)),
        }


@dataclass(frozen=True)
class Table:
    """What a table of the paper takes: its commands, and where its figures are."""

    name: str
    title: str
    rows: tuple[Row, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


def _pick(value: Any, keys: Sequence[str]) -> Any:
    for i, key in enumerate(keys):
        if key == "*":
            return statistics.fmean(_pick(v, keys[i + 1 :]) for v in value)
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def all_steps(tables: Sequence[Table]) -> list[Step]:
    """Each step of the tables once, after those that it needs; trainings first where they can be.

    Networks take longest and everything waits for them.
    """
    ordered: dict[Step, None] = {}

    def add(step: Step) -> None:
        for before in step.needs:
            add(before)
        ordered[step] = None

    steps = [s for t in tables for s in t.steps]
    for step in sorted(steps, key=lambda s: not s.trains):
        add(step)
    return list(ordered)


def write_table(table: Table, runner: Runner, facts: dict[str, Any]) -> dict[str, Any]:
    """Write {outdir}/{table}/table.json and table.txt, with null where a result is missing.

    Args:
        table: the table.
        runner: that has run its steps.
        facts: "scale", "machine" and "commit".

    Returns:
        what table.json holds.
    """
    outdir = runner.outdir
    rows = [row.cells(outdir) for row in table.rows]
    extra = dict.fromkeys(k for row in rows for k in row if k not in (*LEADING, *TRAILING))
    used = all_steps([table])
    missing = [s for s in used if runner.outcomes[s].state in ("failed", "skipped")]
    notes = [*table.notes, *(f"{runner.outcomes[s].state}: {runner.line(s)}" for s in missing)]
    pictures = [p for s in table.steps for p in sorted((outdir / s.folder).glob(s.pictures))]
    runs = [p.parent for s in used if s.trains for p in sorted((outdir / s.folder).glob(s.result))]
    content = {
        "table": table.name,
        "title": table.title,
        "scale": facts["scale"],
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": facts["machine"],
        "commit": facts["commit"],
        "columns": [*LEADING, *extra, *TRAILING],
        "rows": rows,
        "notes": notes,
        "commands": [runner.line(s) for s in used],
        "pictures": [str(p.relative_to(outdir)) for p in pictures],
        "run_folders": list(dict.fromkeys(str(p.relative_to(outdir)) for p in runs)),
    }
    write_json(outdir / table.name / "table.json", content)
    _write(outdir / table.name / "table.txt", text(content))
    return content


def write_results(outdir: Path) -> str:
    """Put the tables that are in a folder together, in results.json and results.txt.

    Returns:
        the text.
    """
    paths = [outdir / name / "table.json" for name in TABLES]
    found = [json.loads(p.read_text()) for p in paths if p.exists()]
    write_json(outdir / "results.json", {"tables": found})
    together = "\n\n".join(text(t) for t in found)
    _write(outdir / "results.txt", together)
    return together


def text(content: dict[str, Any]) -> str:
    """A table as aligned text."""
    columns = [c for c in content["columns"] if any(r.get(c) is not None for r in content["rows"])]
    rows = [[_shown(row.get(c)) for c in columns] for row in content["rows"]]
    head = f"{content['title']}\n{content['table']}, scale {content['scale']}; {content['date']}; "
    head += f"commit {content['commit']}\n{content['machine']}"
    return "\n".join([head, "", aligned(columns, rows), "", *content["notes"], ""])


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return str(value)


def _write(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content)


def commit() -> str:
    """The commit of this source tree, with "-dirty" if files differ from it."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
    return found.stdout.strip()
