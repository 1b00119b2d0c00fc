"""CIFAR-size U-Net, forward and forward + backward, beside its plain formulation.

Plain is float32, channels first, and attention with an explicit softmax, which is how the network
is usually written down. All variants hold the same weights and take turns in one process, so that
a busy machine slows all of them alike; peak memory comes from a process for each. bfloat16 is left
out where the processor only emulates it, which takes many times longer.

python -m benchmarks.unet [--quick]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import click
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import ROOT, Line, peak_rss, quick_option, report
from dnnlib.util import aligned
from training.networks import layers as unet_layers
from training.networks.image import PRESETS, SongUNet

BATCH, ROUNDS = 8, 5
QUICK = 4, 3  # and no peak memory
PLAIN = "plain"
# Name -> (channels last and fused attention, dtype inside the network, compiled)
VARIANTS = {
    PLAIN: (False, torch.float32, False),
    "float32": (True, torch.float32, False),
    "float32 compiled": (True, torch.float32, True),
    "bfloat16": (True, torch.bfloat16, False),
    "bfloat16 compiled": (True, torch.bfloat16, True),
}
TARGET = 1.25
fused_attention = unet_layers.image_attention


def explicit_attention(qkv: Tensor, heads: int) -> Tensor:
    """`unet_layers.image_attention` with the softmax written out."""
    n, c, h, w = qkv.shape[0], qkv.shape[1] // 3, *qkv.shape[2:]
    q, k, v = qkv.reshape(n * heads, c // heads, 3, h * w).unbind(2)  # [n head, channel, pixel]
    weight = torch.einsum("ncq,nck->nqk", q, k / k.shape[1] ** 0.5).softmax(dim=2)
    return torch.einsum("nqk,nck->ncq", weight, v).reshape(n, c, h, w)


def make(name: str, batch: int = BATCH) -> tuple[nn.Module, Callable[[], None], Callable[[], None]]:
    """A variant's network, and functions that run it forward and forward + backward."""
    fused, dtype, compiled = VARIANTS[name]
    torch.manual_seed(0)
    size = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "augment_dim": 9}
    net = SongUNet(**(PRESETS["ddpmpp"]["kwargs"] | size | {"dropout": 0.0}))
    layout = torch.channels_last if fused else torch.contiguous_format
    net.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks this overload
    if compiled:
        net.compile()
    x = torch.randn(batch, 3, 32, 32).to(memory_format=layout)
    t = 999 * torch.rand(batch)
    half = dtype != torch.float32

    def call() -> Tensor:
        unet_layers.image_attention = fused_attention if fused else explicit_attention
        with torch.autocast("cpu", dtype) if half else nullcontext():
            return net(x, t, None)

    def forward() -> None:
        with torch.no_grad():
            call()

    def both() -> None:
        net.zero_grad(set_to_none=True)
        call().float().square().mean().backward()

    return net, forward, both


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory(name: str) -> float:
    """Peak memory of a training step in a process of its own, GiB."""
    command = [sys.executable, "-m", "benchmarks.unet", "--memory", name]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


@click.command()
@quick_option
@click.option("--memory", hidden=True)
def main(quick: bool, memory: str | None) -> None:
    """Measure and write the table."""
    if memory is not None:
        _, _, both = make(memory)
        both()
        print(peak_rss() / 2**30)
        return
    batch, rounds = QUICK if quick else (BATCH, ROUNDS)
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    names = [name for name, how in VARIANTS.items() if native or how[1] == torch.float32]
    made = {name: make(name, batch) for name in names}
    with FlopCounterMode(display=False) as counter:
        made[PLAIN][1]()
    flop = counter.get_total_flops()
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for _, forward, both in made.values():  # warm up, compile
        forward()
        both()
    for _ in range(rounds):
        for name, (_, forward, both) in made.items():
            times[name][0].append(seconds(forward))
            times[name][1].append(seconds(both))
    rows, best = [], [0.0, 0.0]
    for name in names:
        ratios = [
            statistics.median(p / o for p, o in zip(times[PLAIN][k], times[name][k], strict=True))
            for k in (0, 1)
        ]
        best = [max(b, r) for b, r in zip(best, ratios, strict=True)]
        one_way, training = (statistics.median(times[name][k]) for k in (0, 1))
        rows.append(
            (
                name,
                f"{batch / one_way:.1f}",
                f"{ratios[0]:.2f}x",
                f"{batch / training:.1f}",
                f"{ratios[1]:.2f}x",
                "-" if quick else f"{peak_memory(name):.2f}",
            )
        )
    header = (
        "variant", "forward images/s", "beside plain", "forward+backward images/s", "beside plain",
        "peak GiB",
    )  # fmt: skip
    notes = [
        f"DDPM++, 128 channels x [2, 2, 2], 4 blocks, 3x32x32, batch {batch}; medians of {rounds} "
        f"rounds in which the variants take turns;\n{flop / batch / 1e9:.1f} Gflop an image "
        "forward.",
        f"Best beside plain: forward {best[0]:.2f}x, forward + backward {best[1]:.2f}x; target "
        f"{TARGET}x: {'met' if min(best) >= TARGET else 'missed'}.",
    ]
    if not native:
        notes.append("bfloat16 left out: this processor has no instructions for it.")
    lines = []
    for k, what in enumerate(("forward", "forward + backward")):
        rates = {n: batch / statistics.median(t[k]) for n, t in times.items()}
        name = max(rates, key=lambda n: rates[n])
        lines.append(Line(f"CIFAR-size U-Net, {what}, images/s", f"{rates[name]:.1f} ({name})",
                          f"plain {rates[PLAIN]:.1f}", best[k], TARGET))  # fmt: skip
    title = "CIFAR-size U-Net beside its plain formulation"
    report("unet", title, [aligned(header, rows), *notes], lines, quick)


if __name__ == "__main__":
    main()
