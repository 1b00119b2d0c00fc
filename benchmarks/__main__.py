"""Time to answer: the benchmarks of `make bench`, and one table of all their figures.

Each benchmark runs in a process of its own, in the size that there is time for (--quick of those
that take longer as a whole). Every line of the table is a ratio to a yardstick that was measured in
the same run; times are those of the benchmark as a whole, trainings that it needs included.

python -m benchmarks [--only=unet]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import click

from benchmarks.common import LINES, ROOT, Line, report
from dnnlib.util import aligned

# In this order: networks that the first ones train serve those after them.
BENCHMARKS: dict[str, list[str]] = {
    "toy_training": ["--quick"],
    "integrators": ["--quick"],
    "nll": ["--quick"],
    "mcmc": ["--quick"],
    "correlations": [],
    "basis": [],
    "batches": [],
    "frechet": [],
    "unet": ["--quick"],
}
MINUTES = 30.0


def measured(name: str) -> tuple[list[Line], float, bool]:
    """Run a benchmark: its lines, seconds, and whether it ended well."""
    path = LINES / f"{name}.json"
    path.unlink(missing_ok=True)
    started = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name]]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    found = json.loads(path.read_text()) if path.exists() else []
    return [Line(**line) for line in found], time.monotonic() - started, code == 0


@click.command()
@click.option("--only", type=click.Choice(list(BENCHMARKS)), multiple=True, help="some of them")
def main(only: tuple[str, ...]) -> None:
    """Run the benchmarks and write the table."""
    rows, failed, total = [], [], 0.0
    for name in only or BENCHMARKS:
        click.echo(f"== {name}", err=True)
        lines, seconds, fine = measured(name)
        total += seconds
        if not fine:
            failed.append(name)
        for k, line in enumerate(lines):
            goal = "" if line.target is None else f">= {line.target:g}"
            rows.append((
                name if k == 0 else "", line.what, line.ours, line.yardstick, f"{line.ratio:.3g}",
                goal, line.met, f"{seconds:.0f}" if k == 0 else "",
            ))  # fmt: skip
    header = ("benchmark", "figure", "ours", "yardstick", "ratio", "target", "met", "seconds")
    within = "met" if total <= 60 * MINUTES else "missed"
    notes = [f"All of it: {total / 60:.1f} minutes (target {MINUTES:g}: {within})."]
    notes += [f"FAILED: {name}" for name in failed]
    title = "Time to answer: each figure beside its yardstick of the same run"
    report("bench", title, [aligned(header, rows), *notes], quick=bool(only or failed))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
