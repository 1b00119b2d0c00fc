"""One command for a GPU: what the suite does on it, each figure beside its yardstick of this run.

At most 7 minutes on one card: what there is no time for is left out, and said. Without a GPU the
same runs in a small size on the CPU, so that it is known to work, and the committed table stays.

python -m benchmarks.gpu
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import ROOT, Line, report
from dnnlib.util import aligned
from flow.flow import Flow
from torch_utils import distributed
from training.basis import Basis, eigenbasis
from training.loss import flow_loss
from training.network_file import build
from training.networks.image import PRESETS
from training.precond import InflationPrecond

BUDGET = 7 * 60.0  # seconds
FOR_TESTS = 90.0  # of them, for tests marked gpu
# Name -> (TF32, dtype inside the network, compiled); the first is the yardstick.
VARIANTS = {
    "fp32": (False, None, False),
    "tf32": (True, None, False),
    "bf16": (False, torch.bfloat16, False),
    "bf16 compiled": (False, torch.bfloat16, True),
}


@dataclass(frozen=True, eq=False)
class Size:
    """How much is measured.

    Attributes:
        device: of all of it.
        network: arguments that differ from the published ones.
        batches: of training, and of generation.
        gemm: side of square matrices.
        dimensions, images: of the eigenbasis.
        steps: of AB2; 32 are 33 evaluations.
        toys: samples that a toy is trained on, Mimg.
        enough: seconds after which no more repetitions are made.
    """

    device: str
    network: dict[str, Any]
    batches: tuple[int, tuple[int, ...]]
    gemm: int
    dimensions: int
    images: int
    steps: int
    toys: float
    enough: float


CARD = Size("cuda", {}, (64, (64, 512)), 8192, 3072, 20_000, 32, 1.0, 3.0)
SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "img_resolution": 8}
PLAIN = Size("cpu", SMALL, (4, (2, 4)), 256, 192, 2_000, 2, 0.005, 0.01)
Row = tuple[str, str, str, str, str]  # what, ours, share of the peak, memory, beside the yardstick


def sync(size: Size) -> None:
    """Wait for the device."""
    if size.device == "cuda":
        torch.cuda.synchronize()


def seconds(size: Size, work: Callable[[], object], most: int = 20) -> float:
    """Shortest time of a call, after one that warms up."""
    work()
    sync(size)
    taken: list[float] = []
    while len(taken) < most and sum(taken) < size.enough:
        started = time.perf_counter()
        work()
        sync(size)
        taken.append(time.perf_counter() - started)
    return min(taken)


def peaks(size: Size) -> dict[str, float]:
    """Variant -> best rate of a square matrix product in its arithmetic, flop/s."""
    found, n = {}, size.gemm
    for name, (tf32, dtype, _) in VARIANTS.items():
        distributed.set_tf32(tf32)
        a, b = (torch.randn(n, n, device=size.device, dtype=dtype) for _ in range(2))
        found[name] = 2 * n**3 / seconds(size, partial(torch.mm, a, b))
    return found


@cache
def network(size: Size) -> InflationPrecond:
    """The CIFAR DDPM++ with random weights, of which none are nearly zero."""
    kwargs = {**PRESETS["ddpmpp"]["kwargs"], "img_resolution": 32, "in_channels": 3,
              "out_channels": 3, "dropout": 0.0} | size.network  # fmt: skip
    side = kwargs["img_resolution"]
    one = torch.ones(3 * side**2, dtype=torch.float64)
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(len(one), len(one)).double())[0]
    description = {"class": "SongUNet", "kwargs": kwargs}
    model = build(description, {"dims_to_keep": len(one)}, Basis(0 * one, one, one, rotation),
                  {"space": "IS", "shape": [3, side, side]})  # fmt: skip
    for p in model.parameters():
        if p.dim() > 1 and float(p.detach().abs().max()) < 1e-3:
            torch.nn.init.normal_(p, std=0.1 * p[0].numel() ** -0.5)
    return model.to(size.device)


def variant(size: Size, name: str) -> InflationPrecond:
    """A copy of the network that computes as a variant does, and TF32 so set."""
    tf32, dtype, compiled = VARIANTS[name]
    distributed.set_tf32(tf32)
    model = copy.deepcopy(network(size))
    model.amp_dtype = dtype
    if compiled:
        model.compile()
    return model


def operations(size: Size) -> float:
    """Of the field of one image, flop."""
    return network(size).operations(1)


def measured(size: Size, work: Callable[[], object]) -> tuple[float, str]:
    """Seconds of a call, and the most memory of the device meanwhile."""
    if size.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = seconds(size, work)
    gib = torch.cuda.max_memory_allocated() / 2**30 if size.device == "cuda" else None
    return taken, "-" if gib is None else f"{gib:.1f} GiB"


def training(size: Size, name: str) -> Callable[[], object]:
    """A step: loss, gradient, Adam."""
    model, n = variant(size, name), size.batches[0]
    optimizer = torch.optim.Adam(model.parameters(), fused=size.device == "cuda")
    x, noise = (torch.randn(n, len(model.W), device=size.device) for _ in range(2))
    t = torch.rand(n, device=size.device, dtype=torch.float64) * model.schedule.tmax

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        flow_loss(model, x, t, noise).mean().backward()
        optimizer.step()

    return step


def flow_of(size: Size, name: str) -> Flow:
    """The network of a variant as a flow."""
    return Flow(variant(size, name).eval().requires_grad_(False))


def generation(size: Size, name: str, batch: int) -> Callable[[], object]:
    """A batch of images by `Size.steps`."""
    flow = flow_of(size, name)
    flow.block = batch
    latents = flow.latents(batch, 0)
    return lambda: flow.generate(latents, "whitened", solver="ab2", steps=size.steps)


def images_per_second(size: Size, gemm: dict[str, float], left: Callable[[], float]) -> list[Row]:
    """Training and generation in all variants, beside fp32."""
    flop, rows = operations(size), []
    cases: list[tuple[str, int, float, Callable[[str], Callable[[], object]]]] = [
        ("training", size.batches[0], 3 * flop, partial(training, size)),
        *[
            (
                f"generation, --bs={n}",
                n,
                (size.steps + 1) * flop,
                partial(generation, size, batch=n),
            )
            for n in size.batches[1]
        ],
    ]
    fp32: dict[str, float] = {}
    for (what, n, cost, make), name in product(cases, VARIANTS):
        why = "no time left" if left() < FOR_TESTS else None
        if size is PLAIN and VARIANTS[name][2]:
            why = "left out: compilers take minutes on a CPU"
        if why is not None:
            rows.append((f"{what}, {name}", why, "", "", ""))
            continue
        print(f"{left():.0f} s left: {what}, {name}", file=sys.stderr, flush=True)
        taken, memory = measured(size, make(name))
        rate = n / taken
        fp32.setdefault(what, rate)
        share = f"{rate * cost / gemm[name]:.0%}"
        beside = f"{rate / fp32[what]:.2f} x fp32"
        rows.append((f"{what}, {name}", f"{rate:.1f} images/s", share, memory, beside))
    return rows


def round_trips(size: Size) -> list[Row]:
    """Error there and back in grey levels, TF32 off, as the suite has it, and on."""
    rows, errors = [], []
    for name in ("fp32", "tf32"):
        flow = flow_of(size, name)
        x = torch.rand(size.batches[1][0], len(flow.model.W), generator=torch.manual_seed(0))
        x = 2 * x.double().to(size.device) - 1
        started = time.perf_counter()
        back = flow.round_trip(x, solver="ab2", steps=size.steps)
        sync(size)
        errors.append(127.5 * float((back - x).square().mean().sqrt()))
        rate = f"{len(x) / (time.perf_counter() - started):.1f} images/s"
        beside = f"{errors[-1] / errors[0]:.2f} x fp32's error"
        rows.append((f"round trip, {name}", f"{errors[-1]:.2e} levels; {rate}", "", "", beside))
    return rows


def basis(size: Size) -> list[Row]:
    """Eigenbasis of 8-bit images, beside one float64 product and LAPACK's or cuSOLVER's eigh."""
    levels = torch.randint(0, 256, (size.images, size.dimensions), dtype=torch.uint8)

    def plain() -> object:
        x: Tensor = levels.to(size.device).double()
        x = x - x.mean(0)
        return torch.linalg.eigh(x.T @ x)

    ours, theirs = (
        seconds(size, work, 2)
        for work in (lambda: eigenbasis(levels.split(4096), size.dimensions), plain)
    )
    what = f"eigenbasis, {size.images} images of {size.dimensions}"
    return [(what, f"{ours:.2f} s", "", "", f"{theirs / ours:.2f} x plain float64")]


def toys(size: Size) -> list[Row]:
    """toy_train.py from start to end, beside the CPU."""
    taken = {}
    for device in dict.fromkeys((size.device, "cpu")):
        with TemporaryDirectory() as folder:
            command = ["toy_train.py", f"--outdir={folder}", "--data_name=circles", "--no-plot",
                       f"--duration={size.toys}", f"--device={device}"]  # fmt: skip
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
            taken[device] = time.perf_counter() - started
    ours, theirs = taken[size.device], taken["cpu"]
    what = f"toy_train.py, {size.toys:g} Mimg"
    return [(what, f"{ours:.1f} s", "", "", f"{theirs / ours:.2f} x the CPU's {theirs:.1f} s")]


def tests(limit: float) -> str:
    """What tests marked gpu end with."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit,
                              check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"pytest -m gpu: not done after {limit:.0f} s"
    return f"pytest -m gpu: {done.stdout.strip().splitlines()[-1]}"


def main() -> None:
    """Measure and write the table."""
    started = time.monotonic()
    size = CARD if torch.cuda.is_available() else PLAIN
    distributed.init(size.device)

    def left() -> float:
        return BUDGET - (time.monotonic() - started)

    gemm = peaks(size)
    rows = [(f"matrix product, {name}", f"{rate / 1e12:.3g} Tflop/s", "100%", "",
             f"{rate / gemm['fp32']:.2f} x fp32") for name, rate in gemm.items()
            if not VARIANTS[name][2]]  # fmt: skip
    rows += [*basis(size), *toys(size), *round_trips(size)]
    rows += images_per_second(size, gemm, left)
    distributed.set_tf32(False)
    verdict = tests(max(left(), 10.0))
    header = ("what", "ours", "of GEMM peak", "peak memory", "beside")
    name = torch.cuda.get_device_name() if size.device == "cuda" else "CPU, small size"
    notes = [verdict, f"{time.monotonic() - started:.0f} s in all, of {BUDGET:.0f}."]
    lines = [Line(row[0], row[1], row[4], 1.0) for row in rows]
    title = f"What one device does: {name}"
    report("gpu", title, [aligned(header, rows), *notes], lines, quick=size is PLAIN)


if __name__ == "__main__":
    main()
