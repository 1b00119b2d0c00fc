"""Shared pieces of the tests: conformance data, exact models, processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flow.exact import MixtureField
from flow.flow import Flow
from tests import forked
from training.basis import Basis
from training.edm_precond import Scalings
from training.precond import InflationPrecond
from training.schedule import Schedule

ROOT = Path(__file__).resolve().parent.parent
CONFORMANCE = Path(__file__).parent / "data" / "conformance"


def conformance(name: str) -> tuple[dict, dict[str, Tensor]]:
    """Arguments (if any) and arrays of a conformance file."""
    with np.load(CONFORMANCE / f"{name}.npz", allow_pickle=False) as data:
        args = json.loads(str(data["args"])) if "args" in data else {}
        arrays = {k: torch.from_numpy(data[k]) for k in data.files if data[k].dtype.kind != "U"}
    return args, arrays


@torch.no_grad()
def fill_weights(module: nn.Module, salt: str = "a") -> nn.Module:
    """The conformance weights: a sine wave per entry whose phase depends on the entry's name."""
    for name, tensor in module.state_dict().items():
        if name.endswith("resample_filter"):
            continue
        phase = zlib.crc32(f"{salt}:{name}".encode()) % 10000 / 1000
        wave = torch.sin(0.7311 * torch.arange(tensor.numel(), dtype=torch.float64) + phase)
        if name.endswith("freqs"):
            wave = 2 * wave
        elif tensor.dim() > 1:
            wave = wave * math.sqrt(2 / tensor[0].numel())
        elif "norm" in name and name.endswith("weight"):
            wave = 1 + 0.1 * wave
        else:
            wave = 0.1 * wave
        tensor.copy_(wave.reshape(tensor.shape))
    return module


def random_basis(xi: list[float], seed: int = 0) -> Basis:
    """A basis with given eigenvalues, a random rotation and a mean that is not zero."""
    rng = np.random.default_rng(seed)
    d = len(xi)
    W = torch.from_numpy(np.linalg.qr(rng.standard_normal((d, d)))[0])
    mean = torch.from_numpy(rng.standard_normal(d))
    return Basis(mean, torch.ones(d, dtype=torch.float64), torch.tensor(xi).double(), W)


def gaussian_flow(xi: list[float], variances: list[float], keep: int, **schedule) -> Flow:
    """A flow of Gaussian data whose variances are not the schedule's xi, so that F is not zero."""
    basis = random_basis(xi)
    schedule = Schedule(basis.xi, keep, **({"tmax": 7.01, "g_type": "orig"} | schedule))
    covariance = basis.W @ torch.diag(torch.tensor(variances).double()) @ basis.W.T
    return Flow(MixtureField(schedule, basis, basis.mean[None], covariance))


def gaussian_latent(flow: Flow, u: Tensor, variances: list[float], T: float) -> Tensor:
    """Closed form of the flow above: each dimension grows as the noisy data's sd does."""
    c = torch.tensor(variances).double()
    s = flow.schedule
    growth = ((c + s.gamma(T)[0]) / (c + s.gamma(0.0)[0])).sqrt()
    return u * growth * (s.total(0.0) / s.total(T)).sqrt()


def three_blobs(d: int, keep: int, **schedule) -> tuple[Flow, Tensor]:
    """The exact flow of a mixture of three anisotropic Gaussians, and 300 samples of it."""
    rng = np.random.default_rng(d)
    means = torch.from_numpy(rng.standard_normal((3, d)))
    roots = torch.from_numpy(0.3 * rng.standard_normal((3, d, d)))
    covariances = roots @ roots.mT + 0.02 * torch.eye(d, dtype=torch.float64)
    k = torch.from_numpy(rng.integers(0, 3, 300))
    noise = torch.from_numpy(rng.standard_normal((300, d)))
    L = torch.linalg.cholesky(covariances)
    x = means[k] + torch.einsum("nij,nj->ni", L[k], noise)
    total = covariances.mean(0) + torch.cov(means.T, correction=0)
    xi, W = torch.linalg.eigh(total)
    basis = Basis(means.mean(0), torch.ones(d, dtype=torch.float64), xi.flip(0), W.flip(1))
    schedule = Schedule(basis.xi, keep, **({"tmax": 8.0, "inflation_gap": 0.02} | schedule))
    return Flow(MixtureField(schedule, basis, means, covariances)), x


def run_script(
    *args: object, processes: int | None = None, timeout: float = 300
) -> subprocess.CompletedProcess:
    """Run a Python file of this suite.

    Args:
        args: the file, or Python's own options, and what follows.
        processes: 1 or more are forked, ranks as those of torchrun; None is a new interpreter.
        timeout: in seconds.
    """
    words = [*map(str, args)]
    if processes is not None:
        return forked.run_script(words, processes, timeout)
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=timeout,
        check=False,
    )


def paper_denoiser(flow: InflationPrecond, x: Tensor, t: Tensor) -> Tensor:
    """The paper's denoiser D(x, t) = c_skip x + c_out F of states [n, d] in the network's space."""
    es = x @ flow.W.to(x) if flow.space == "IS" else x
    xi, S = flow.schedule.xi.to(x), flow.schedule.total(t).to(x)
    sin = flow.schedule.cos_sin(t)[1].to(x)
    D = xi / S * es + xi.sqrt() * sin * flow(es / S.sqrt(), t)
    return D @ flow.W.T.to(x) if flow.space == "IS" else D


def loss_weight(flow: InflationPrecond, t: Tensor) -> Tensor:
    """The paper's weight 1/c_out on |D - y|, [n, d]."""
    return 1 / (flow.schedule.xi.sqrt() * flow.schedule.cos_sin(t)[1])


def sigma_denoiser(
    scalings: Callable[[Tensor], Scalings], net: nn.Module, x: Tensor, sigma: Tensor
) -> Tensor:
    """The denoiser D(x, sigma) of Karras et al. 2022, [n, ...], at noise levels [n]."""
    c_skip, c_out, c_in, c_noise = scalings(sigma.reshape(-1, *[1] * (x.dim() - 1)))
    return c_skip * x + c_out * net(c_in * x, c_noise.flatten(), None, None)
