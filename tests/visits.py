"""How far a reader walks: the files that one latent and one batch of training visit, in order.

python -m tests.visits

A visit is a change of file between calls of functions of this tree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import toy_train
from flow.flow import load_flow
from tests.image_networks import good

ROOT = f"{Path(__file__).resolve().parents[1]}/"
ROOMS = ("dnnlib", "torch_utils", "training", "flow")
OURS = {str(p.relative_to(ROOT)) for room in ROOMS for p in Path(ROOT, room).rglob("*.py")}
LOSS = "flow_loss"  # called once a batch


def calls(work: Callable[[], Any]) -> list[tuple[str, str]]:
    """(file, function) of all calls within this tree, in order; tests are no part of it."""
    found: list[tuple[str, str]] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(ROOT) and name.removeprefix(ROOT) in OURS:
            found.append((name.removeprefix(ROOT), frame.f_code.co_name))

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def visits(found: list[tuple[str, str]]) -> list[str]:
    """The files of these calls, each once for every time that it is come to."""
    files = [name for name, _ in found]
    return [name for k, name in enumerate(files) if k == 0 or name != files[k - 1]]


def main() -> None:
    """Print both walks."""
    with tempfile.TemporaryDirectory() as folder:
        args = [f"--outdir={folder}", "--data_name=circles", "--duration=.001", "--batch=100"]
        training = calls(lambda: good(toy_train.main, *args, "--no-plot", "--device=cpu"))
        flow = load_flow(folder, "cpu")
    at = [k for k, (_, name) in enumerate(training) if name == LOSS]
    z = torch.zeros(1, flow.schedule.data_dim)
    latent = calls(lambda: flow.generate(z, solver="angle_euler", steps=1))
    for what, some in {"batch": training[at[1] : at[2]], "latent": latent}.items():
        walk = visits(some)
        print(f"one {what}: {len(some)} calls, {len(walk)} visits of {len(set(walk))} files")
        print("  " + " > ".join(walk))


if __name__ == "__main__":
    main()
