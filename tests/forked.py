"""Processes forked from one that has imported everything: milliseconds each instead of seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

MODULES = (
    "toy_train", "train", "toy_pfODE_int", "pfODE_int", "gen_fid_samples", "calc_roundtrip_mse",
    "calc_nll", "calc_net_residuals_autocorrelations", "toy_MCMC_exps",
    "run_toy_alphashape_mesh_exps", "fid", "dataset_tool", "calc_posterior",
)  # fmt: skip
# What training and others import only when they need it is imported once, too, where it is there.
LATER = ("torch._dynamo", "torch.onnx", "arviz", "h5netcdf", "shapely", "trimesh")
ROOT = Path(__file__).resolve().parent.parent
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.conftest", "tests.forked", *MODULES, *LATER])


def redirect(stdout: str, stderr: str) -> None:
    """Append what this process says to files, as a shell would."""
    for number, path in ((1, stdout), (2, stderr)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def ranks(processes: int) -> list[dict[str, str]]:
    """What torchrun sets in the environment of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    return [where | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]


def _script(words: list[str], folder: Path, env: dict[str, str], said: list[str]) -> None:
    redirect(*said)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    torch.set_num_threads(1)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def run_script(
    words: list[str], processes: int = 1, timeout: float = 300, place: Path = ROOT
) -> subprocess.CompletedProcess:
    """Run a Python file, or -m and a module, in processes that find each other as torchrun's do.

    Args:
        words: what would follow `python`.
        processes: how many.
        timeout: in seconds.
        place: folder to run it in.

    Returns:
        what subprocess.run would; the exit code is the first that is not 0.

    Raises:
        subprocess.TimeoutExpired: after `timeout` seconds.
    """
    own = [os.environ | rank for rank in (ranks(processes) if processes > 1 else [{}])]
    with tempfile.TemporaryDirectory() as folder:
        said = [f"{folder}/stdout", f"{folder}/stderr"]
        started = [context.Process(target=_script, args=(words, place, env, said)) for env in own]
        for process in started:
            process.start()
        for process in started:
            process.join(timeout)
            if process.exitcode is None:
                for other in started:
                    other.kill()
                raise subprocess.TimeoutExpired(words, timeout)
        codes = [process.exitcode for process in started]
        texts = [Path(path).read_text() if Path(path).exists() else "" for path in said]
    return subprocess.CompletedProcess(words, next(filter(None, codes), 0), *texts)
