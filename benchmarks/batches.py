"""CPU time to prepare the batches of a step, beside what runs of before spend on the same.

Both prepare what a run with --augment=0.12 on 50,000 images of 32x32x3 sees in a step: images,
noise, augmentation and, now, keys of dropout. Before, random numbers came in blocks of 1,024
samples, of which a process drew all that it needed a row of, once for each piece. The floor is
torch.randn for as many numbers. Then the stratified times of a step: before, one by one or by
bisection. Fastest of several steps, one thread.

python -m benchmarks.batches
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Line, report
from dnnlib.util import aligned
from torch_utils import philox, seeding
from torch_utils.seeding import BLOCKS, PHILOX
from training.arc import Arc
from training.augment import AugmentPipe
from training.batches import Batches
from training.data.source import Source
from training.schedule import Schedule
from training.times import LikelihoodWeighting

SHAPE, COUNT, BATCH, PIECE = (3, 32, 32), 50_000, 512, 64
D = 3 * 32 * 32
# What a process has of a batch -> its pieces, and the most CPU time that they are to take, ms.
SHARES = {
    "1 of 8 ranks: 64 rows": ([range(192, 256)], 6.0),
    "512 rows in pieces of 64": ([range(i, i + PIECE) for i in range(0, BATCH, PIECE)], 40.0),
    "512 rows at once": ([range(BATCH)], None),
}
REPEATS = 9


class Pixels(Source):
    """Random 8-bit images in memory, read as those of --data are."""

    def __init__(self) -> None:
        self.dim, self.shape, self.count = D, SHAPE, COUNT
        self.scale = torch.ones(D, dtype=torch.float64)
        self.pixels = np.random.default_rng(0).integers(0, 256, (COUNT, D), dtype=np.uint8)

    def samples(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor:
        """See `Source.samples`."""
        raw = torch.from_numpy(self.pixels[seeding.epochs(seed, start, stop, COUNT)])
        return raw.float().div_(127.5).sub_(1)

    def basis_batches(self) -> Iterator[Tensor]:
        """None: nothing here needs an eigenbasis."""
        return iter(())

    def description(self) -> dict[str, object]:
        """Nothing."""
        return {}

    def content_hash(self) -> str:
        """Nothing."""
        return ""


def milliseconds(step: Callable[[int], object], repeats: int = REPEATS) -> float:
    """CPU time of a step, the fastest of some; step(k) is the k-th."""
    spent = []
    for k in range(repeats + 1):
        started = time.process_time()
        step(k)
        spent.append(time.process_time() - started)
    return 1e3 * min(spent[1:])


def bisected(weighting: LikelihoodWeighting, q: Tensor) -> Tensor:
    """Quantiles of the importance density as they were found before."""
    knots, spline = weighting._knots, weighting._cumulative
    wanted = q.numpy() * weighting.total
    low, high = np.full(len(q), knots[0]), np.full(len(q), knots[-1])
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = spline(middle) - spline(knots[0]) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return torch.from_numpy(0.5 * (low + high))


def prepared(source: Source) -> tuple[list[tuple[str, ...]], list[Line]]:
    """A row and a line for each share of a batch."""
    rows, lines = [], []
    for name, (pieces, target) in SHARES.items():
        count = sum(len(piece) for piece in pieces)
        spent = {}
        for generator in (BLOCKS, PHILOX):
            batches = Batches(
                source, 0, BATCH, philox.CPU, torch.float32, AugmentPipe(),
                dropout=True, generator=generator,
            )  # fmt: skip

            def step(k: int, b: Batches = batches, pieces: list[range] = pieces) -> None:
                for piece in pieces:
                    b._draw(k * BATCH, piece)

            spent[generator] = milliseconds(step, 3 if generator == BLOCKS else REPEATS)
        noise = milliseconds(partial(_noise, count))
        floors = [milliseconds(partial(_randn, count, t)) for t in (torch.float32, torch.float64)]
        before, now = spent[BLOCKS], spent[PHILOX]
        met = "" if target is None else f"{target:g}"
        rows.append((name, *(f"{v:.1f}" for v in (before, now)), met,
                     *(f"{v:.1f}" for v in (noise, *floors))))  # fmt: skip
        goal = {"1 of 8 ranks: 64 rows": 10.0, "512 rows in pieces of 64": 11.0}.get(name)
        lines.append(Line(f"batch preparation, {name}", f"{now:.1f} ms", f"blocks, {before:.1f} ms",
                          before / now, goal))  # fmt: skip
    return rows, lines


def _noise(count: int, k: int) -> Tensor:
    return philox.normals(0, "noise", k * count, (k + 1) * count, D)


def _randn(count: int, dtype: torch.dtype, _: int) -> Tensor:
    return torch.randn(count, D, dtype=dtype)


def _called(function: Callable[[Tensor], object], q: Tensor, _: int) -> object:
    return function(q)


def timed() -> list[tuple[str, ...]]:
    """A row for each way to draw times."""
    schedule = Schedule(torch.rand(D).double() + 0.1, 30, tmax=15.01, inflation_gap=0.02)
    arc, likelihood = Arc(schedule), LikelihoodWeighting(schedule, 1e-7)
    ways: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], object]]] = {
        "arc": (
            lambda q: torch.tensor([arc.time(a) for a in (q * arc.length).tolist()]),
            arc.times,
        ),
        "likelihood": (lambda q: bisected(likelihood, q), likelihood.times),
    }
    rows = []
    for size in (BATCH, 8192):
        q = (torch.arange(size).double() + 0.5) / size
        for name, both in ways.items():
            spent = [milliseconds(partial(_called, f, q), 3) for f in both]
            rows.append((f"{name}, {size}", *(f"{v:.2f}" for v in spent)))
    return rows


def main() -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    rows, lines = prepared(Pixels())
    header = ("a step of", "before, ms", "now, ms", "target", "noise alone", "randn float32",
              "randn float64")  # fmt: skip
    times = aligned(("times of a step", "before, ms", "now, ms"), timed())
    report("batches", "CPU time to prepare batches", [aligned(header, rows), times], lines)


if __name__ == "__main__":
    main()
