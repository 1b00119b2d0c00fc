"""Runs the commands in a checkout, two at a time, in forks of a process that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.golden.commands import COMMANDS, SPOKEN

WORKERS = 2
TIMEOUT = 600  # seconds of one command
HERE = Path(__file__).resolve().parents[2]
PRELOAD = (
    "matplotlib.pyplot", "scipy.interpolate", "scipy.optimize", "scipy.stats", "sklearn.datasets",
    "torch", "torch._dynamo", "torch.utils.tensorboard",
)  # fmt: skip


class Tiny(nn.Module):
    """A detector of six features: means of squared convolutions."""

    def __init__(self) -> None:
        super().__init__()
        wave = torch.sin(torch.arange(6 * 27.0) ** 2).reshape(6, 3, 3, 3)
        self.kernels = nn.Parameter(wave / 255)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.conv2d(x, self.kernels).square().mean((2, 3))


def make_inputs(folder: Path) -> None:
    """What the commands read that no command writes."""
    folder.mkdir(parents=True)
    torch.jit.script(Tiny()).save(str(folder / "tiny.pt"))
    i = np.arange(150.0)[:, None]
    vectors = np.sin(i * np.sqrt([2, 3, 5, 7]) + 0.3 * np.sin(i)) * [3, 2, 1, 0.3]
    np.savetxt(folder / "vectors.csv", vectors, delimiter=",", fmt="%.6f")


def run(checkout: Path, work: Path, names: Iterable[str]) -> dict[str, int]:
    """Run commands, and those whose results they read, each in a folder of its own.

    Args:
        checkout: tree whose scripts are run.
        work: new folder for everything.
        names: of COMMANDS.

    Returns:
        the exit code of each command, whose files lie in {work}/{name}, its output beside.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # before the fork server imports torch
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    make_inputs(work / "inputs")
    wanted = set(names)
    for name in reversed(COMMANDS):  # what a command reads comes before it
        if name in wanted:
            wanted |= needs(name)
    places = {name: str(work / name) for name in ("inputs", *COMMANDS)}
    codes: dict[str, Future[int]] = {}

    def one(name: str) -> int:
        for need in needs(name):
            codes[need].result()
        for line in COMMANDS[name]:
            out = work / name
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            words = shlex.split(line.format(**places, out=out))
            log = work / f"{name}.log"
            process = context.Process(target=_command, args=(words, str(checkout), str(log)))
            process.start()
            process.join(TIMEOUT)
            if process.exitcode is None:
                process.kill()
                process.join()
            if name in SPOKEN:
                shutil.copy(log, out / "output.txt")
            if process.exitcode != 2:
                break
        return process.exitcode or 0

    with ThreadPoolExecutor(WORKERS) as pool:
        for name in (n for n in COMMANDS if n in wanted):
            codes[name] = pool.submit(one, name)
    return {name: code.result() for name, code in codes.items()}


def needs(name: str) -> set[str]:
    """Commands whose results a command reads."""
    return set(re.findall(r"{(\w+)}", " ".join(COMMANDS[name]))) - {"out", "inputs"}


def _command(words: list[str], checkout: str, log: str) -> None:
    """Run one command line in this process, which ends with its exit code."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(checkout)
    os.environ |= {"PYTHONPATH": checkout, "INFLATIONARY_FLOWS_CACHE": f"{log}-cache"}
    sys.path[:] = [checkout, *(p for p in sys.path if p and Path(p).resolve() != HERE)]
    if words[0] == "2x":
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words[1:]]
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
