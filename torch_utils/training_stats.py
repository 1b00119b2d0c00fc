"""What a run tells about itself: stats.jsonl, TensorBoard events and the status line."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import psutil
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dnnlib.util import atomic_path, format_time


class StatsWriter:
    """Records of a run, one each tick; made on rank 0 only.

    Args:
        run_dir: folder of the run.
        kimg: where the run starts; records of later work, which is about to be done again, go.
        device: whose memory is reported.
    """

    def __init__(self, run_dir: Path, kimg: float, device: torch.device):
        self.path = run_dir / "stats.jsonl"
        self.device = device
        self.started = time.monotonic()
        self._forget_after(kimg)
        self.events: SummaryWriter | None = None
        try:
            str(run_dir).encode()
        except UnicodeEncodeError:
            print(
                "Note: no TensorBoard events, as it cannot say this folder's name; stats.jsonl "
                "holds the same"
            )
        else:
            self.events = SummaryWriter(str(run_dir), purge_step=int(kimg))

    def write(self, tick: int, kimg: float, sec_per_kimg: float, values: dict[str, float]) -> None:
        """Add one record everywhere and print its status line."""
        total = time.monotonic() - self.started
        record = {
            "tick": tick,
            "kimg": kimg,
            **values,
            "sec_per_kimg": sec_per_kimg,
            "sec_total": total,
            "cpu_mem_gib": psutil.Process().memory_info().rss / 2**30,
            "gpu_mem_gib": self._gpu_memory(),
            "timestamp": time.time(),
        }
        with open(self.path, "ab", buffering=0) as file:  # a line by one call, never in part
            file.write(json.dumps(record).encode() + b"\n")
        if self.events is not None:
            for name, value in record.items():
                self.events.add_scalar(name, value, int(kimg))
        shown = " ".join(f"{name} {value:<9.5g}" for name, value in values.items())
        with tqdm.external_write_mode():
            print(
                f"tick {tick:<5d} kimg {kimg:<9.1f} {shown} sec/kimg {sec_per_kimg:<8.3f} "
                f"time {format_time(total):<9s} cpumem {record['cpu_mem_gib']:.2f}G "
                f"gpumem {record['gpu_mem_gib']:.2f}G",
                flush=True,
            )

    def close(self) -> None:
        """Close the TensorBoard events."""
        if self.events is not None:
            self.events.close()

    def _gpu_memory(self) -> float:
        if self.device.type != "cuda":
            return 0.0
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def _forget_after(self, kimg: float) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines()
        kept = [line for line in lines if _kimg(line) <= kimg]
        if len(kept) < len(lines):
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))


def _kimg(line: str) -> float:
    try:
        return float(json.loads(line)["kimg"])
    except (ValueError, KeyError):
        return math.inf  # a line cut off by a crash
