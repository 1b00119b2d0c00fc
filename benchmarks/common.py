"""What the benchmarks share: the machine's name, trained networks, tables."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.sources import WHOLE, digest
from dnnlib.results import commit, machine
from dnnlib.util import write_json
from flow.flow import Flow, load_flow

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ROOT / "out" / "bench"
RESULTS = ROOT / "benchmarks" / "results"
LINES = NETWORKS / "lines"
CIRCLES = ["--data_name=circles_sharp", "--data_dim=2", "--tmax=7.01", "--seed=0"]
RECIPES = {
    "gmm1d": ["--data_name=gmm1d", "--seed=0"],
    "PRP": [*CIRCLES, "--dims_to_keep=2"],
    "PRR to 1-D, orig": [*CIRCLES, "--dims_to_keep=1", "--g_type=orig"],
    "PRR to 1-D, rescaled": [
        *CIRCLES,
        "--dims_to_keep=1",
        "--g_type=orig",
        "--g_rescaling=0.15",
        "--rho=1",
        "--tmax=15.01",
    ],
    "PRR to 1-D, gap 1.02": [*CIRCLES, "--dims_to_keep=1", "--inflation_gap=0.02"],
    "S-curve, PRP": ["--data_name=s_curve_sharp", "--dims_to_keep=3", "--tmax=7.01", "--seed=0"],
    "S-curve, PRR to 2-D": [
        "--data_name=s_curve_sharp",
        "--dims_to_keep=2",
        "--g_type=orig",
        "--g_rescaling=0.15",
        "--rho=1",
        "--tmax=15.01",
        "--seed=0",
    ],
}


def peak_rss() -> int:
    """Largest memory of this process so far, bytes.

    From VmHWM: the figure of getrusage starts at that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def folder_of(name: str) -> Path:
    """Where the network of a recipe is."""
    return NETWORKS / name.replace(" ", "-").replace(",", "")


def trained(name: str) -> tuple[Flow, Path]:
    """The flow of a recipe, trained with the default settings if it is not there yet."""
    folder = folder_of(name)
    subprocess.run(
        [sys.executable, "toy_train.py", f"--outdir={folder}", *RECIPES[name], "--resume=latest"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return load_flow(folder), folder


@dataclass(frozen=True)
class Line:
    """A figure beside its yardstick, both from the same run: a line of `make bench`.

    Attributes:
        what: the quantity.
        ours: with its unit.
        yardstick: with its unit, and what it is.
        ratio: how many times better ours is.
        target: that the ratio was to reach; None if none was set.
    """

    what: str
    ours: str
    yardstick: str
    ratio: float
    target: float | None = None

    @property
    def met(self) -> str:
        """Whether the ratio reaches its target."""
        return "" if self.target is None else "yes" if self.ratio >= self.target else "NO"


quick_option = click.option(
    "--quick", is_flag=True, help="the share of it that `make bench` has time for"
)


def report(
    name: str, title: str, parts: Sequence[str], lines: Sequence[Line] = (), quick: bool = False
) -> None:
    """Print a result and write it to benchmarks/results/{name}.txt, its lines for `make bench`.

    Args:
        name: of the benchmark.
        title: heading.
        parts: tables and remarks.
        lines: what the benchmark comes down to.
        quick: leave the committed result of the whole benchmark as it is.
    """
    today = datetime.date.today().isoformat()
    measured = digest(WHOLE.get(name, name))
    head = f"{title}\n{today}; {machine()}; commit {commit()}\nsources {measured}"
    text = "\n\n".join([head, *parts]) + "\n"
    print(text)
    folder = NETWORKS / "quick" if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text)
    write_json(LINES / f"{name}.json", [asdict(line) for line in lines])
