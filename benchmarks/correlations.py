"""Cross-correlation of residuals at one lag, beside batched outer products: time and memory.

Each runs in a process of its own on the same files of 5,000 x 3,072 residuals. Outer products, the
older way, come in batches that fit into memory; they are timed on the first samples and scaled.

python -m benchmarks.correlations
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import ROOT, Line, peak_rss, report
from dnnlib.util import aligned
from experiments.residuals.autocorrelation import cross_correlation
from experiments.residuals.files import RESIDUALS, ArrayFile
from torch_utils import seeding

SAMPLES, D, CHUNK = 5000, 3072, 500
OUTER_SAMPLES, OUTER_BATCH = 64, 8  # a batch of 500 needs 19 GB
LEAST_FASTER, MOST_MEMORY, MOST_APART = 50.0, 2**30, 1e-5
OURS, OUTER = "one product a chunk (this suite)", "batched outer products"


def write_files(folder: Path) -> None:
    """Residuals at two times, correlated."""
    e0 = seeding.normals(0, "first", 0, SAMPLES, D).astype(np.float32)
    e1 = 0.6 * e0 + 0.8 * seeding.normals(0, "second", 0, SAMPLES, D).astype(np.float32)
    np.savez(folder / "time0.npz", net_residuals=e0)
    np.savez(folder / "time1.npz", net_residuals=e1)


def chunks(folder: Path, samples: int, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of chunks of the two files."""
    files = [ArrayFile(folder / f"time{k}.npz").rows(RESIDUALS, 0, samples, size) for k in (0, 1)]
    return ((torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(*files, strict=True))


def outer_products(folder: Path) -> torch.Tensor:
    """The same matrix, of OUTER_SAMPLES, from outer products of a batch at a time."""
    pairs = list(chunks(folder, OUTER_SAMPLES, OUTER_BATCH))
    a, b = (torch.cat([p[i] for p in pairs]) for i in (0, 1))
    mean_a, mean_b = a.mean(0), b.mean(0)
    total = torch.zeros(D, D)
    for x, y in zip(a.split(OUTER_BATCH), b.split(OUTER_BATCH), strict=True):
        total += ((x - mean_a)[:, :, None] * (y - mean_b)[:, None, :]).sum(0)
    return total / len(a) / torch.outer(a.std(0, correction=0), b.std(0, correction=0))


def measure(folder: Path, name: str) -> None:
    """Run one method and print what it took, as JSON."""
    before = time.perf_counter()
    if name == OURS:
        cross_correlation(chunks(folder, SAMPLES, CHUNK))
        took = time.perf_counter() - before
        peak = peak_rss()
        few = cross_correlation(chunks(folder, OUTER_SAMPLES, OUTER_BATCH)).matrix
    else:
        few = outer_products(folder)
        took = (time.perf_counter() - before) * SAMPLES / OUTER_SAMPLES
        peak = peak_rss()
    print(json.dumps({"seconds": took, "bytes": peak, "row": few[7].tolist()}))


def main() -> None:
    """Measure and write the table."""
    if sys.argv[1:2] == ["--measure"]:
        return measure(Path(sys.argv[2]), sys.argv[3])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for name in (OURS, OUTER):
            command = [sys.executable, "-m", "benchmarks.correlations", "--measure", folder, name]
            run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            found[name] = json.loads(run.stdout.splitlines()[-1])
    rows = [
        (
            name,
            f"{f['seconds']:.1f}",
            f"{found[OUTER]['seconds'] / f['seconds']:.0f}x",
            f"{f['bytes'] / 2**30:.2f}",
        )
        for name, f in found.items()
    ]
    faster = found[OUTER]["seconds"] / found[OURS]["seconds"]
    memory = found[OURS]["bytes"]
    differ = np.abs(np.subtract(found[OURS]["row"], found[OUTER]["row"])).max()
    met = faster >= LEAST_FASTER and memory <= MOST_MEMORY and differ <= MOST_APART
    verdict = (
        f"{faster:.0f}x faster (target {LEAST_FASTER:g}), {memory / 2**30:.2f} GiB at most, of the "
        f"whole process (target 1); the two differ by {differ:.0e} on the same {OUTER_SAMPLES} "
        f"samples (target {MOST_APART:g}): {'met' if met else 'missed'}."
    )
    notes = (
        f"Outer products: measured on {OUTER_SAMPLES} samples in batches of {OUTER_BATCH}, time "
        f"scaled to {SAMPLES:,}; a batch of 500 would take {500 * D * D * 4 / 1e9:.0f} GB."
    )
    title = f"Correlation at one lag of {SAMPLES:,} samples in {D:,} dimensions, read from files"
    header = ("method", "seconds", "faster", "peak GiB")
    lines = [
        Line(f"correlations at one lag, {SAMPLES:,} x {D:,}, s", f"{found[OURS]['seconds']:.1f}",
             f"{OUTER} {found[OUTER]['seconds']:.0f}", faster, LEAST_FASTER),
        Line("their memory, GiB", f"{memory / 2**30:.2f}", f"bound {MOST_MEMORY / 2**30:g}",
             MOST_MEMORY / memory, 1.0),
    ]  # fmt: skip
    report("correlations", title, [aligned(header, rows), notes, verdict], lines)


if __name__ == "__main__":
    main()
