"""How long `make demo` takes beside two busy processes, against a quiet machine.

python -m benchmarks.busy

For a machine that does nothing else. Every command runs under `nice`, the busy processes too, so
that all have the same claim on the cores. `make demo` must have run before: it is run again here,
in a folder of its own, without what it builds. The last rows show what the number of threads and
their way of waiting are worth: they change neither commands nor results.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from benchmarks.common import ROOT, Line, report
from dnnlib.util import aligned

MOST = 2.5  # times its quiet time
BUSY = 2
SPIN = "while True: pass"
WAYS: dict[str, dict[str, str]] = {
    "as it is": {},
    "two threads, passive": {"OMP_NUM_THREADS": "2"},
    "two threads, spinning": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "active"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Processes that never wait, while the block lasts."""
    started = [subprocess.Popen(["nice", sys.executable, "-c", SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def demo(folder: str) -> list[list[str]]:
    """The commands of `make demo`, writing to a folder."""
    lines = subprocess.run(
        ["make", "-n", "demo"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    commands = [shlex.split(line.split("||")[-1]) for line in lines if "bin/python " in line]
    return [
        [sys.executable, *[word.replace("out/demo", folder) for word in words[1:]]]
        for words in commands
        if words[1].endswith(".py")
    ]


def seconds(commands: list[list[str]], processes: int, more: dict[str, str]) -> float:
    """Wall time of commands beside busy processes."""
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    with busy(processes):
        start = time.monotonic()
        for command in commands:
            subprocess.run(
                ["nice", *command], cwd=ROOT, env=env | more, check=True, stdout=subprocess.DEVNULL
            )
        return time.monotonic() - start


def row(what: str, lines: list[list[str]], more: dict[str, str]) -> tuple[str, float, float]:
    """Seconds on a quiet machine and on a busy one."""
    return what, seconds(lines, 0, more), seconds(lines, BUSY, more)


def short(folder: str) -> dict[str, list[list[str]]]:
    """A short training of each kind of network that the demo has."""
    toy, *_, images, _ = demo(folder)
    cut = {
        "circles, 0.5 Mimg": [w for w in toy if not w.startswith(("--duration", "--resume"))],
        "digits, 4 kimg": [w for w in images if not w.startswith(("--duration", "--resume"))],
    }
    length = dict(zip(cut, ("0.5", "0.004"), strict=True))
    return {name: [[*words, f"--duration={length[name]}"]] for name, words in cut.items()}


@click.command()
def main() -> None:
    """Time the demo, and its trainings with other numbers of threads."""
    rows = []
    for way, more in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            made = ["dataset_tool.py", "--source=digits", f"--dest={folder}/digits-8x8.zip"]
            subprocess.run([sys.executable, *made], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            for name, lines in short(folder).items():
                rows.append(row(f"{name}; {way}", lines, more))
    times = []
    for processes in (0, BUSY):
        with tempfile.TemporaryDirectory() as folder:
            times.append(seconds(demo(folder), processes, {}))
    rows.insert(0, ("make demo", times[0], times[1]))
    cells = [(name, f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}") for name, a, b in rows]
    ratio = times[1] / times[0]
    line = Line("make demo beside two busy processes, times its quiet time", f"{ratio:.2f}",
                f"{MOST} allowed", MOST / ratio, 1.0)  # fmt: skip
    header = ("what", "quiet, s", f"beside {BUSY} busy, s", "ratio")
    report("busy", "Small networks on a busy machine", [aligned(header, cells)], [line])


if __name__ == "__main__":
    main()
