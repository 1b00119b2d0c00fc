"""How cost grows with dimensions, images and processes, beside what the model of it says.

Each stage of the suite runs on random images and a small U-Net with random weights: one process of
one thread is the yardstick of two. Growth with size is compared with the floating-point operations
that PyTorch counts (of the eigenbasis: n d^2 for the covariance, 9 d^3 for the eigenvectors).

python -m benchmarks.scaling
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import ROOT, report
from benchmarks.nll import unet_flow
from calc_roundtrip_mse import round_trip
from dnnlib.util import aligned
from experiments.density.density import Settings, evaluate
from experiments.residuals.extract import Extraction, extract_here
from flow.flow import Flow
from flow.images import Drawn
from flow.integration import IMAGE_BLOCK
from flow.method import Method
from flow.numbered_images import make_images
from torch_utils import distributed
from torch_utils.work import compute
from training.basis import Basis, eigenbasis
from training.data.images import ImageSource
from training.network_file import build
from training.options import TrainOptions
from training.training_loop import Trainer

RESOLUTIONS = (8, 16, 32)  # d = 192, 768, 3,072
BASIS_RESOLUTIONS = (8, 16, 24)  # d = 192, 768, 1,728
COUNTS = (64, 128, 256)  # images, at the smallest resolution
TOGETHER = (16, 128)  # resolution and images of the runs on one and two processes
TIMES = 8  # of an extraction
STEPS = 2  # of RK4, 8 evaluations one way
BATCH = 64
REPEATS = 2
# More images for stages that take few operations for each, or have fixed costs beside them.
FACTORS = {"training": 4, "eigenbasis": 400}
Work = Callable[[], object]


@cache
def images(resolution: int, count: int) -> ImageSource:
    """Random colour images in a folder that lasts as long as this process."""
    folder = Path(_scratch().name) / f"{resolution}-{count}"
    folder.mkdir()
    rng = np.random.default_rng(resolution)
    for k in range(count):
        pixels = rng.integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:05d}.png")
    return ImageSource(folder)


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@cache
def flow_of(resolution: int) -> Flow:
    """A flow of images by a small U-Net of random weights."""
    return unet_flow(resolution)[0]


class Steps(Trainer):
    """Training without what it writes at its end, which is the same for any number of steps."""

    def _snapshot(self) -> None:
        pass

    def _save_state(self) -> None:
        pass


def training(resolution: int, count: int) -> Work:
    """The training loop: steps of 64 images, moving average, batches from the source."""
    count *= FACTORS["training"]
    source = images(resolution, max(COUNTS))
    d = source.dim
    one = torch.ones(d, dtype=torch.float64)
    network = {"class": "SongUNet", "kwargs": {
        "img_resolution": resolution, "in_channels": 3, "out_channels": 3, "model_channels": 16,
        "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
    }}  # fmt: skip
    basis = Basis(0 * one, one, one, torch.eye(d, dtype=torch.float64))
    torch.manual_seed(0)
    model = build(network, {"dims_to_keep": d}, basis, {"space": "ES", "shape": [*source.shape]})

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = TrainOptions(
                duration=count / 1e6, batch=BATCH, lr=1e-3, lr_rampup=0.0, clip=0.0, ema=1e-3,
                tick=1e6, snap=1, dump=1, weighting="edm", t_sampling="uniform", workers=0,
            )  # fmt: skip
            Steps(options, Path(folder), network, source, model).train()

    return work


def basis_of_images(resolution: int, count: int) -> Work:
    """Mean, covariance and eigenvectors of random numbers."""
    d, block = 3 * resolution**2, 1600
    count *= FACTORS["eigenbasis"]
    data = torch.randn(block, d, generator=torch.Generator().manual_seed(0))

    def work() -> object:
        blocks = distributed.share(count, block)
        return eigenbasis((data[: len(b)] for b in blocks), d)

    return work


def generation(resolution: int, count: int) -> Work:
    """Images from seeds, written as files."""
    flow = flow_of(resolution)
    method = Method("rk4", STEPS, flow.schedule.tmax)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            make_images(flow, method, list(range(count)), Path(folder), False, None, None, None)

    return work


def round_trip_mse(resolution: int, count: int) -> Work:
    """Round-trip error of images."""
    flow, source = flow_of(resolution), images(resolution, max(COUNTS))
    method = Method("rk4", STEPS, flow.schedule.tmax)
    drawn = Drawn(flow, source, 0, count)
    return lambda: compute(partial(round_trip, drawn, method), count, IMAGE_BLOCK, "round trips")


def likelihood(resolution: int, count: int) -> Work:
    """Log density with a Hutchinson trace of one probe."""
    flow, source = flow_of(resolution), images(resolution, max(COUNTS))
    settings = Settings(trace="hutchinson", how={"solver": "rk4", "steps": STEPS})
    return lambda: evaluate(flow, lambda r: source.samples(0, r.start, r.stop), count, settings)


def extraction(resolution: int, count: int) -> Work:
    """Outputs and residuals at 8 times."""
    flow, source = flow_of(resolution), images(resolution, max(COUNTS))
    times = np.linspace(0.0, flow.schedule.tmax, TIMES).tolist()
    job = Extraction(flow, times, lambda r: source.samples(0, r.start, r.stop), count, 0, "fresh")
    return lambda: extract_here(job)


STAGES: dict[str, Callable[[int, int], Work]] = {
    "training": training,
    "eigenbasis": basis_of_images,
    "generation": generation,
    "round-trip MSE": round_trip_mse,
    "likelihood": likelihood,
    "extraction": extraction,
}


def measured(work: Work, repeats: int = REPEATS) -> tuple[float, float]:
    """Shortest time of a work, and least processor time of all ranks together; after a warm-up."""
    taken, spent = [], []
    with contextlib.redirect_stdout(io.StringIO()):
        for k in range(repeats + 1):
            distributed.barrier()
            started, before = time.perf_counter(), time.process_time()
            work()
            distributed.barrier()
            busy = torch.tensor(time.process_time() - before, dtype=torch.float64)
            busy = distributed.all_sum_(busy)
            if k:
                taken.append(time.perf_counter() - started)
                spent.append(float(busy))
    return min(taken), min(spent)


class NoModules(contextlib.nullcontext):
    """For the counter's tracker of modules, whose hooks do not bear torch.autograd.grad."""

    parents = ("Global",)


@cache
def operations(name: str, resolution: int, count: int) -> float:
    """Floating-point operations of a stage, as the model of cost counts them."""
    if name == "eigenbasis":
        d = 3 * resolution**2
        return float(FACTORS[name] * count) * d**2 + 9.0 * d**3
    work = STAGES[name](resolution, count)
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()  # type: ignore[assignment]  # all that the counter asks of it
    with counter, contextlib.redirect_stdout(io.StringIO()):
        work()
    return float(counter.get_total_flops())


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log value over log size, by least squares."""
    x, y = np.log(sizes), np.log(values)
    return float(np.polyfit(x, y, 1)[0])


@cache
def used(name: str, resolution: int, count: int) -> float:
    """Processor seconds of a stage on one thread, which other programs hardly change."""
    repeats = 1 if resolution == max(RESOLUTIONS) else REPEATS
    return measured(STAGES[name](resolution, count), repeats)[1]


def growth() -> str:
    """Cost exponents in dimensions and images, counted and measured at three sizes."""
    rows = []
    for name in STAGES:
        resolutions = BASIS_RESOLUTIONS if name == "eigenbasis" else RESOLUTIONS
        for axis, cases in (
            ("dimensions", [(r, COUNTS[0]) for r in resolutions]),
            ("images", [(RESOLUTIONS[0], n) for n in COUNTS]),
        ):
            sizes = [3.0 * r**2 if axis == "dimensions" else float(n) for r, n in cases]
            counted = [operations(name, *case) for case in cases]
            taken = [used(name, *case) for case in cases]
            rows.append((
                name, axis, " ".join(f"{s:.3g}" for s in taken),
                *(f"{exponent(sizes, values):.2f}" for values in (counted, taken)),
            ))  # fmt: skip
    header = ("stage", "grows with", "processor seconds", "exponent, counted", "measured")
    dims = ", ".join(f"{3 * r**2:,}" for r in RESOLUTIONS)
    counts = ", ".join(map(str, COUNTS))
    return (
        f"Cost exponents: d = {dims} (eigenbasis: 1,728 for the last) at {COUNTS[0]} images, and "
        f"{counts} images at d = 192 (training 4, eigenbasis 400 times as many)\n"
        f"{aligned(header, rows)}"
    )


def worker(dest: str) -> None:
    """Time every stage under torchrun; rank 0 writes the seconds."""
    with distributed.session("cpu"):
        taken = {name: measured(stage(*TOGETHER), 1) for name, stage in STAGES.items()}
        if distributed.is_main():
            Path(dest).write_text(json.dumps(taken))


def launched(processes: int, dest: Path) -> dict[str, list[float]]:
    """What every stage takes on so many processes of one thread each, see `measured`."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "-m", "benchmarks.scaling"]
    subprocess.run(
        [*command, f"--worker={dest}"],
        cwd=ROOT,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(dest.read_text())


def processes() -> str:
    """One and two processes in turn, twice; the least of each counts."""
    runs: dict[int, list[dict[str, list[float]]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            for count, found in runs.items():
                found.append(launched(count, Path(folder) / "seconds.json"))
    best = {
        p: {n: np.min([r[n] for r in found], axis=0) for n in STAGES} for p, found in runs.items()
    }
    resolution, count = TOGETHER
    rows = []
    for name in STAGES:
        (one, busy_one), (two, busy_two) = best[1][name], best[2][name]
        total = FACTORS.get(name, 1) * count
        rows.append((
            name, f"{total / one:.0f}", f"{total / two:.0f}", f"{one / two:.2f}",
            f"{one / two / 2:.0%}", f"{math.log2(two / one):.2f}", f"{busy_two / busy_one:.2f}",
        ))  # fmt: skip
    header = ("stage", "images/s, 1 process", "2 processes", "faster", "efficiency",
              "exponent (ideal -1)", "processor time, both / one (ideal 1)")  # fmt: skip
    return (
        f"Processes of one thread each, gloo, {count} colour images, {resolution} x {resolution} "
        f"(training 4, eigenbasis 400 times as many)\n{aligned(header, rows)}"
    )


@click.command()
@click.option("--worker", "dest", hidden=True)
def main(dest: str | None) -> None:
    """Measure and write the tables."""
    torch.set_num_threads(1)
    if dest is not None:
        worker(dest)
        return
    parts = [processes(), growth()]
    load = (
        f"Load of the machine at the end: {os.getloadavg()[0]:.1f} (this benchmark's own: 1 to 2)."
    )
    report("scaling", "Scaling with processes, dimensions and images", [*parts, load])


if __name__ == "__main__":
    main()
