"""Training runs in a report: the loss as a chart, the options, the last samples."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from dnnlib.util import format_time
from experiments.report.entry import Curve, Entry, number
from experiments.report.files import Folder, read_records, tail

MAX_POINTS = 600  # of a chart
WINDOW = 9  # ticks of the running median, as in loss.png


def training(folder: Folder) -> Iterator[Entry]:
    """A run folder of toy_train.py or train.py."""
    if not {"training_options.json", "stats.jsonl"} & set(folder.files):
        return
    dates = [folder.date(n) for n in ("training_options.json", "stats.jsonl") if n in folder.files]
    options = folder.read("training_options.json") or {}
    stats, log = folder.claim("stats.jsonl"), folder.claim("log.txt")
    records, bad = read_records(stats) if stats else ([], 0)
    ticks = [r for r in records if number(r.get("kimg")) is not None]
    entry = Entry("Training", folder.path.name, folder.label, max(dates), details={})
    if bad:
        entry.notes.append(f"{bad} lines of stats.jsonl could not be read.")
    if ticks:
        describe(entry, ticks)
    else:
        entry.headline = "no ticks yet"
    losses = [r for r in ticks if number(r.get("loss")) is not None]
    if len(losses) > 1:
        entry.curves.append(loss_curve(losses))
        folder.claim("loss.png")  # the same
    networks = folder.matches(r"network-snapshot-\d+\.pkl")
    if networks:
        entry.facts.append(("latest network", networks[-1][0]))
    samples = [n for n, _ in folder.matches(r"samples-\d+\.png")]
    for name in samples[:-1]:
        folder.claim(name)
    if len(samples) > 1:
        entry.facts.append(("sample pictures in the folder", len(samples)))
    entry.pictures = folder.claim_pictures("")
    if options:
        entry.details["Options"] = options
    if log:
        entry.details["Log"] = tail(log)
    yield entry


def describe(entry: Entry, ticks: list[dict[str, Any]]) -> None:
    """Headline and facts of a run, from its ticks."""
    last = ticks[-1]
    entry.headline = f"{last['kimg']:,.0f} kimg"
    entry.facts.append(("samples seen, thousands", last["kimg"]))
    if (loss := number(last.get("loss"))) is not None:
        entry.headline = f"loss {loss:.4g} at {entry.headline}"
        best = min(v for r in ticks if (v := number(r.get("loss"))) is not None)
        entry.facts += [("last loss", loss), ("lowest loss of a tick", best)]
    speeds = [v for r in ticks if (v := number(r.get("sec_per_kimg"))) is not None]
    if speeds:
        entry.facts.append(("seconds per thousand, median", median(speeds)))
    if (seconds := number(last.get("sec_total"))) is not None:
        entry.facts.append(("time of the last session", format_time(seconds)))
    for name, label in (("cpu_mem_gib", "memory, GiB"), ("gpu_mem_gib", "GPU memory, GiB")):
        peak = max((v for r in ticks if (v := number(r.get(name))) is not None), default=0.0)
        if peak:
            entry.facts.append((f"{label}, largest", peak))


def loss_curve(records: list[dict[str, Any]]) -> Curve:
    """The loss over training, with its running median."""
    losses = [float(r["loss"]) for r in records]
    lines = {"each tick": losses}
    half = WINDOW // 2
    if len(losses) > 2 * WINDOW:  # of fewer, the ends would mislead
        near = [losses[max(0, i - half) : i + half + 1] for i in range(len(losses))]
        lines["running median"] = [median(values) for values in near]
    notes = []
    for record in records:
        said = [
            f"{k} {v:.3g}"
            for k in ("lr", "sec_per_kimg")
            if (v := number(record.get(k))) is not None
        ]
        notes.append(", ".join(said).replace("sec_per_kimg", "s/kimg"))
    stride = -(-len(records) // MAX_POINTS)
    picks = sorted({*range(0, len(records), stride), len(records) - 1})
    title = "Training loss" + (f" (one tick in {stride})" if stride > 1 else "")
    return Curve(
        title,
        ("kimg", "loss"),
        [float(records[i]["kimg"]) for i in picks],
        {name: [values[i] for i in picks] for name, values in lines.items()},
        [notes[i] for i in picks],
    )
