"""Tables of published figures beside ours, from the .json files that the commands leave."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from dnnlib import results
from dnnlib.util import Json, aligned, atomic_path, write_json
from experiments.reproduce.papers import TABLES, Case, Papers, figure

LEADING = ("what", "published", "exact", "ours", "error")
TRAILING = ("ratio", "seed", "machine", "commit", "settings")


def locations(row: Json, text: str, case: Case) -> list[tuple[str, list[str]]]:
    """Where a number is: of each seed the pattern of a file, below the outdir, and keys in it."""
    found: list[tuple[str, list[str]]] = []
    for seed in range(case["seeds"]):
        told = {**case, "seed": seed}
        said = text.format(**told).format(**told)  # a case may name the seed
        where, _, keys = said.rpartition(": ")
        where = where or row["file"]
        if "/" not in where:
            where = f"{row['folder'].format(**told)}/{where}"
        if (place := (where, keys.split("|"))) not in found:
            found.append(place)
    return found


def folders(papers: Papers, table: str) -> list[str]:
    """Folders that the rows of a table read."""
    found: dict[str, None] = {}
    for row in papers.all["tables"][table]["rows"]:
        for case in papers.cases(row["each"]):
            texts = [row.get(k) for k in ("ours", "exact", "error")] + [
                *row.get("more", {}).values()
            ]
            for text in [
                t for t in texts if isinstance(t, str) and case.get("net", "") is not None
            ]:
                found |= {w.rpartition("/")[0]: None for w, _ in locations(row, text, case)}
    return list(found)


def _read(outdir: Path, where: str, keys: Sequence[str]) -> tuple[float, Json] | None:
    """A number and the content of the file that it is in; None if it is not there."""
    for path in sorted(outdir.glob(where)):
        with suppress(KeyError, IndexError, TypeError, ValueError, OSError):
            content = json.loads(path.read_text())
            return float(_pick(content, keys)), content
    return None


def _pick(value: Any, keys: Sequence[str]) -> Any:
    for i, key in enumerate(keys):
        if key == "*":
            return statistics.fmean(_pick(v, keys[i + 1 :]) for v in value)
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def cells(papers: Papers, row: Json, case: Case, outdir: Path) -> Json:
    """Plain values of a row of a table, by column; None where a result is missing.

    The error is 2 sd over seeds, as published, where there are several; else the result's own.
    """

    def all_of(text: Any) -> list[tuple[float, Json]]:
        if not isinstance(text, str) or case.get("net", "") is None:
            return []
        found = [_read(outdir, *place) for place in locations(row, text, case)]
        return [f for f in found if f] if None not in found else []

    def mean(text: Any) -> float | None:
        found = [value for value, _ in all_of(text)]
        return text if isinstance(text, float) else statistics.fmean(found) if found else None

    ours, exact = all_of(row["ours"]), mean(row.get("exact"))
    numbers, files = [v for v, _ in ours], [content for _, content in ours]
    value = statistics.fmean(numbers) if numbers else None
    published = row.get("published")
    if isinstance(published, str) and published.strip("{}") in case:
        published = case[published.strip("{}")]
    base = published[0] if isinstance(published, list) else exact
    about = [f.get(results.KEY, {}) for f in files]
    seeds = [str(f.get("options", {}).get("seed", "")) for f in files]
    return {
        "what": row["what"].format(**case),
        "published": None if published is None else figure(published),
        "exact": exact,
        "ours": value,
        "error": 2 * statistics.stdev(numbers) if len(numbers) > 1 else mean(row.get("error")),
        **{name: mean(text) for name, text in row.get("more", {}).items()},
        "ratio": value / base if value is not None and base else None,
        "seed": ", ".join(dict.fromkeys(s for s in seeds if s)) or None,
        **{k: ", ".join(dict.fromkeys(a[k] for a in about if k in a)) or None
           for k in ("machine", "commit")},
        "settings": row["settings"].format(**case),
    }  # fmt: skip


def write_table(papers: Papers, name: str, outdir: Path) -> Json:
    """Write {outdir}/{table}/table.json, .txt, .csv and .tex, with gaps where results are missing.

    Returns:
        what table.json holds.
    """
    about = papers.all["tables"][name]
    rows = [cells(papers, r, c, outdir) for r in about["rows"] for c in papers.cases(r["each"])]
    extra = dict.fromkeys(k for r in rows for k in r if k not in (*LEADING, *TRAILING))
    columns = [c for c in (*LEADING, *extra, *TRAILING) if any(r.get(c) is not None for r in rows)]
    read = folders(papers, name)
    missing = [f for f in read if not (outdir / f / "done").exists()]
    notes = [*about.get("notes", []), papers.here.get("notes", {}).get(name)]
    notes += [f"missing: {folder}; log: {outdir / 'steps' / folder}.log" for folder in missing]
    commands = [p for f in read if (p := outdir / "steps" / f"{f}.txt").exists()]
    pictures = [p for folder in read for p in sorted((outdir / folder).glob("*.png"))]
    content = {
        "table": name,
        "title": about["title"],
        "scale": papers.scale,
        "machine": results.machine(),
        "commit": results.commit(),
        "columns": columns,
        "rows": rows,
        "notes": [n for n in notes if n],
        "commands": [p.read_text().strip() for p in commands],
        "pictures": [str(p.relative_to(outdir)) for p in pictures],
    }
    cells_ = [[row.get(c) for c in columns] for row in rows]
    enclosed = results.enclosed(
        content, about["title"], kind="Tables of the papers", tables=[("", columns, cells_)],
        command=f"reproduce.py {name} --scale={papers.scale} --seed={papers.seed}",
        pictures=[f"../{p}" for p in content["pictures"]], notes=content["notes"],
        inputs={f"{f}/{p.name}": p for f in read for p in sorted((outdir / f).glob("*.json"))},
    )  # fmt: skip
    write_json(outdir / name / "table.json", enclosed)
    frame = pd.DataFrame(cells_, columns=columns)
    latex = frame.map(_shown).to_latex(index=False, escape=True)  # with booktabs
    _write(outdir / name / "table.txt", text(content))
    _write(outdir / name / "table.csv", frame.to_csv(index=False))
    _write(outdir / name / "table.tex", f"% \\usepackage{{booktabs}}\n{latex}")
    write_results(outdir)
    return content


def write_results(outdir: Path) -> str:
    """Put the tables that are in a folder together, in results.json and results.txt.

    Returns:
        the text.
    """
    paths = [outdir / name / "table.json" for name in TABLES]
    found = [json.loads(p.read_text()) for p in paths if p.exists()]
    for content in found:
        content.pop(results.KEY)
    write_json(outdir / "results.json", {"tables": found})
    together = "\n\n".join(text(t) for t in found)
    _write(outdir / "results.txt", together)
    return together


def text(content: Json) -> str:
    """A table as aligned text."""
    columns = content["columns"]
    rows = [[_shown(row.get(c)) for c in columns] for row in content["rows"]]
    head = f"{content['title']}\n{content['table']}, scale {content['scale']}; commit "
    head += f"{content['commit']}\n{content['machine']}"
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
