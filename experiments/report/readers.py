"""What each kind of result says: files of one folder to sections.

A reader takes the files that it understands from a folder; what nobody takes is shown as
it is at the end, so that no result is silently missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.report.entry import Curve, Entry, Table, counted, dig, number, records_table, text
from experiments.report.files import Folder, is_picture, tail
from experiments.report.plain import details_of, plain_results
from experiments.report.training import training

STAGES = {"latent": "latent", "gen": "after generation", "roundtrip": "after inflating back"}
MAX_BENCHMARK = 2**16  # bytes of a result of benchmarks/


def paper_table(folder: Folder) -> Iterator[Entry]:
    """A table of the paper: {outdir}/{table}/table.json of reproduce.py."""
    if "table.json" not in folder.files:
        return
    date = folder.date("table.json")
    content = folder.read("table.json")
    if content is None:
        return
    rows = [r for r in _list(content, "rows") if isinstance(r, dict)]
    columns = [str(c) for c in _list(content, "columns")]
    columns = [c for c in columns if any(r.get(c) is not None for r in rows)]
    entry = Entry(
        "Tables of the paper",
        text(content.get("title") or content.get("table") or folder.path.name),
        f"{folder.label}/table.json",
        date,
        headline=f"{counted(len(rows), 'row')}, scale {text(content.get('scale'))}",
        facts=[(k, content[k]) for k in ("scale", "date", "machine", "commit") if k in content],
        tables=[Table([text(c) for c in columns], [[r.get(c) for c in columns] for r in rows])],
        notes=[text(n) for n in _list(content, "notes")],
        folder=folder.path.resolve(),
    )
    for key in ("commands", "run_folders"):
        if lines := _list(content, key):
            entry.details[key.replace("_", " ").capitalize()] = "\n".join(map(text, lines))
    outdir = folder.path.parent.resolve()
    for name in map(text, _list(content, "pictures")):
        path = (outdir / name).resolve()
        if path.is_relative_to(outdir) and path.is_file() and is_picture(path.name):
            entry.pictures.append((path, Path(name).with_suffix("").as_posix().replace("_", " ")))
        else:
            folder.problems.append(f"{entry.source} names a picture that is not there: {name}")
    yield entry


def _list(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    return value if isinstance(value, list) else []


def coverage(folder: Folder) -> Iterator[Entry]:
    """Coverage of one network, a file a stage: one table beside chi-square."""
    matches = folder.matches(r"(.+)_coverages_(latent|gen|roundtrip)\.json")
    for stem in sorted({m[1] for _, m in matches}):
        names = {s: f"{stem}_coverages_{s}.json" for s in STAGES}
        dates = [folder.date(n) for n in names.values() if n in folder.files]
        found = {s: c for s, n in names.items() if (c := folder.read(n)) is not None}
        if not found:
            continue
        first = next(iter(found.values()))
        columns = [_list(first, "radii"), [_percent(v) for v in _list(first, "chi_square")]]
        columns += [_shares(c) for c in found.values()]
        changes = [number(c.get("largest_change_from_latent")) or 0.0 for c in found.values()]
        yield Entry(
            "Coverage",
            stem.replace("_", " "),
            f"{folder.label}/{stem}_coverages_*.json",
            max(dates),
            headline=f"largest change from the latent: {100 * max(changes):.2g} points of percent",
            tables=[
                Table(
                    ["radius", "chi-square", *(STAGES[s] for s in found)],
                    [list(row) for row in zip(*columns, strict=False)],
                    "Latents inside the boundary, %, ± 2 sd over seeds",
                )
            ],
            pictures=folder.claim_pictures(f"{stem}_coverages")
            + folder.claim_pictures(f"{stem}_boundaries"),
            details=details_of(first, ("options", "schedule", "method", "boundaries")),
        )


def _percent(value: Any) -> str | None:
    share = number(value)
    return None if share is None else f"{100 * share:.2f}"


def _shares(content: dict[str, Any]) -> list[str | None]:
    """Mean and spread of the shares of one stage, as text, a radius each."""
    spreads = [_percent(v) for v in _list(content, "two_sd")]
    means = [_percent(v) for v in _list(content, "mean")]
    return [f"{m} ± {s}" if m and s else m for m, s in zip(means, spreads, strict=False)]


def posterior(folder: Folder) -> Iterator[Entry]:
    """Weights seen through a flow: summary.json of toy_MCMC_exps.py."""
    if "run.json" in folder.files and not {"summary.json", "sbc.json", "tarp.json"} & set(
        folder.files
    ):
        date, started = folder.date("run.json"), folder.read("run.json") or {}
        yield Entry(
            "Posteriors", folder.path.name, f"{folder.label}/run.json", date, "not finished",
            details=details_of(started, ("facts",)), notes=["This run has no results yet."],
        )  # fmt: skip
        return
    if not {"summary.json", "run.json"} <= set(folder.files):
        return
    date = folder.date("summary.json")
    content = folder.read("summary.json")
    folder.claim("run.json")
    if content is None:
        return
    measures = {
        "truth": "truth", "share in the data": "share_of_components_in_data", "mean": "mean",
        "sd": "sd", "R-hat": "r_hat", "effective draws": "ess_bulk",
        "in the tails": "ess_tail",
    }  # fmt: skip
    columns = {name: c for name, key in measures.items() if (c := _list(content, key))}
    rows = list(zip(*columns.values(), strict=False))
    means = ", ".join(text(number(v)) for v in _list(content, "mean"))
    worst = max((v for x in _list(content, "r_hat") if (v := number(x)) is not None), default=None)
    scalars = ("evaluations", "seconds", "evaluations_per_effective_draw", "prior")
    yield Entry(
        "Posteriors",
        f"{folder.path.name}, sampler {text(dig(content, 'options', 'sampler'))}",
        f"{folder.label}/summary.json",
        date,
        headline=f"weights {means}; R-hat at most {text(worst)}",
        facts=[(k.replace("_", " "), content[k]) for k in scalars if k in content],
        tables=[Table(["weight", *columns], [[f"w{i + 1}", *r] for i, r in enumerate(rows)])],
        pictures=[p for n in ("posterior", "traces") for p in folder.claim_pictures(n)],
        details=details_of(content, ("options", "integration", "settings", "statistics")),
        notes=[text(w) for w in _list(content, "warnings")],
    )


KINDS = {"residuals": "residual", "network outputs": "output", "network errors": "error"}


def correlations(folder: Folder) -> Iterator[Entry]:
    """Residual correlations over time: ..._autocorrelations*.json."""
    for name, match in folder.matches(r"(.+?)_?autocorrelations(.*)\.json"):
        date = folder.date(name)
        content = folder.read(name)
        if content is None:
            continue
        t = [number(v) for v in _list(content, "t")]
        lines = {
            label: [number(v) for v in _list(content, f"net_{key}_acs_mean_diagonal")]
            for label, key in KINDS.items()
        }
        lines = {k: v for k, v in lines.items() if len(v) == len(t)}
        entry = Entry(
            "Residual correlations",
            match[1].replace("_", " "),
            f"{folder.label}/{name}",
            date,
            headline=f"{text(content.get('n_samples'))} samples, {len(t)} times",
            facts=[(k, content[k]) for k in ("n_samples", "dim", "seconds") if k in content],
            details=details_of(content, ("options", "source")),
        )
        pictures = folder.claim_pictures(Path(name).stem)
        keep = [i for i in range(len(t)) if None not in (t[i], *(v[i] for v in lines.values()))]
        if lines and len(keep) > 1:
            columns = {k: [float(v[i] or 0) for i in keep] for k, v in lines.items()}
            labels = ("t", "mean diagonal of R(0, t)")
            x = [float(t[i] or 0) for i in keep]
            entry.curves.append(Curve("Correlation with the first time", labels, x, columns))
        else:
            entry.pictures = pictures
        yield entry


def quality(folder: Folder) -> Iterator[Entry]:
    """Images in the features of a classifier: the .json of metrics.digit_quality."""
    for name, _ in folder.matches(r".*quality.*\.json"):
        date = folder.date(name)
        content = folder.read(name)
        rows = dig(content, "rows")
        if content is None or not isinstance(rows, dict):
            continue
        records = [
            {"images of": k} | {c: v for c, v in row.items() if not isinstance(v, list)}
            for k, row in rows.items()
            if isinstance(row, dict)
        ]
        yield Entry(
            "Sample quality",
            "In the features of a classifier (not FID)",
            f"{folder.label}/{name}",
            date,
            headline=counted(len(records), "set") + " of images",
            tables=[records_table(records)],
            details=details_of(content, ("options", "classifier")),
        )


def benchmarks(folder: Folder) -> Iterator[Entry]:
    """Texts of benchmarks/results: a title, a line of date and machine, tables."""
    for name, _ in folder.matches(r".+\.txt"):
        if folder.files[name].stat().st_size > MAX_BENCHMARK:
            continue
        lines = tail(folder.files[name]).splitlines()
        when = re.match(r"(\d{4}-\d\d-\d\d); (.+)", lines[1]) if len(lines) > 1 else None
        if not when:
            continue
        entry = Entry(
            "Benchmarks", lines[0], f"{folder.label}/{name}", folder.date(name),
            facts=[("date", when[1]), ("machine", when[2])],
        )  # fmt: skip
        entry.details["Tables"] = "\n".join(lines[2:]).strip("\n")
        folder.claim(name)
        yield entry


def gallery(folder: Folder) -> Iterator[Entry]:
    """Pictures that belong to no file of results."""
    names = sorted(n for n in folder.files if is_picture(n))
    if names:
        date = max(folder.date(n) for n in names)
        pictures = folder.claim_pictures("")
        yield Entry(
            "Other pictures", folder.label, folder.label, date, counted(len(pictures), "picture"),
            pictures=pictures,
        )  # fmt: skip


# In this order: those of longer names first, so that a simulation does not take another's pictures.
READERS: tuple[Callable[[Folder], Iterator[Entry]], ...] = (
    paper_table, training, coverage, posterior, correlations, quality, plain_results, benchmarks,
    gallery,
)  # fmt: skip
