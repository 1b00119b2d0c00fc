"""Simulations of the flow: what a run integrates, what it records, and what it says of the result.

One simulation carries this rank's blocks of samples from one time to another and keeps some of the
states, in every coordinate system that the result files hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from torch_utils import distributed
from training.flow import BLOCK, Flow, ifs_times
from training.solvers import PAPER_SOLVERS

KEYS = (
    "xs", "xs_es", "tilde_xs", "tilde_xs_es", "dxs", "dxs_es", "net_outs", "unscaled_scores",
)  # fmt: skip


@dataclass
class Method:
    """How to integrate.

    Attributes:
        solver: a name of `solvers.SOLVERS` or `solvers.PAPER_SOLVERS`.
        steps: steps of an angle solver, or time points of a paper solver.
        stop: end time of the flow.
        times: the time grid of a paper solver.
        settings: further arguments of the solver.
        estimate: rms error estimated on pilots, where `steps` was chosen by it.
    """

    solver: str
    steps: int
    stop: float
    times: list[float] | None = None
    settings: dict[str, float] = field(default_factory=dict)
    estimate: float | None = None

    def describe(self) -> dict:
        """Plain values for a .json file."""
        return {k: v for k, v in asdict(self).items() if k != "times" and v not in (None, {})}


def choose_method(
    flow: Flow,
    pilot: Tensor,
    solver: str | None,
    steps: int | None,
    h: float | None,
    tolerance: float,
) -> Method:
    """Turn --solver, --steps, --h and --tol into a method.

    With --steps or --h alone it is the paper's Euler with exactly those; with nothing, RK4 in arc
    length with as few steps as the tolerance allows on pilot samples.

    Args:
        flow: the flow.
        pilot: whitened data at t = 0, [n, d], the same on every rank.
        solver, steps, h, tolerance: the options, None where not given.

    Raises:
        ValueError: if the paper's grid ends beyond the network's tmax.
    """
    tmax = flow.schedule.tmax
    if solver is None and (steps is not None or h is not None):
        solver = "paper_euler"
    if solver in PAPER_SOLVERS:
        h = 1e-2 if h is None else h
        steps = steps or max(2, round(tmax / h))
        if steps < 2:
            raise ValueError(f"--steps={steps}: the paper's solvers need at least 2 time points")
        stop = steps * h
        if stop > tmax * (1 + 1e-6):
            raise ValueError(
                f"--steps={steps} times --h={h:g} ends at t={stop:g}, beyond the flow's "
                f"tmax={tmax:g}; use --steps={int(tmax / h + 1e-9)}"
            )
        return Method(solver, steps, stop, ifs_times(steps, h))
    if solver == "adaptive":
        settings = {"rtol": tolerance, "atol": tolerance}
        return Method(solver, steps or 32, tmax, settings=settings)
    if steps is not None:
        return Method(solver or "rk4", steps, tmax)
    solver = solver or "rk4"
    fixed = "heun" if solver == "reversible" else solver
    steps, error = flow.steps_for(pilot, tmax, tolerance, fixed)
    return Method(solver, steps, tmax, estimate=error)


def kept_steps(method: Method, save_freq: int | None) -> list[int]:
    """Steps whose states are saved: the first, every save_freq-th (None: about 36) and the last."""
    last = method.steps - 1 if method.times else method.steps
    every = save_freq or max(1, -(-last // 35))
    return sorted({*range(0, last, every), last})


@dataclass
class Result:
    """Outcome of a simulation.

    Attributes:
        arrays: on rank 0 the arrays of `KEYS`, each [saved states, samples, d], and t [states].
        final: this rank's blocks of final states as the solver carries them.
        evaluations: network evaluations a sample.
    """

    arrays: dict[str, np.ndarray]
    final: list[Tensor]
    evaluations: int


def simulate(
    flow: Flow,
    method: Method,
    total: int,
    start: Callable[[int, range], Tensor],
    backward: bool,
    save_freq: int | None,
    label: str,
) -> Result:
    """Integrate `total` samples, block by block, each block on one rank.

    Args:
        flow: the flow.
        method: how to integrate.
        total: samples in all.
        start: (number among this rank's blocks, range of samples) -> whitened states [n, d], or a
            pair of states [2, n, d] of the reversible solver.
        backward: from method.stop to 0 instead of from 0 to method.stop.
        save_freq: see `kept_steps`.
        label: for the progress bar.
    """
    wanted = set(kept_steps(method, save_freq))
    records, final, evaluations, times = [], [], 0, []
    times_grid = method.times[::-1] if backward and method.times else method.times
    blocks = distributed.share(total, BLOCK)
    quiet = True if not distributed.is_main() else None
    for number, block in enumerate(tqdm(blocks, desc=label, leave=False, disable=quiet)):
        saved: list[tuple[float, Tensor]] = []

        def keep(k: int, t: float, u: Tensor, saved: list = saved) -> None:
            if k in wanted:
                saved.append((t, u))

        ends = (method.stop, 0.0) if backward else (0.0, method.stop)
        flow.evaluations = 0
        u = flow.integrate(
            start(number, block).to(flow.device),
            *ends,
            solver=method.solver,
            steps=method.steps,
            times=times_grid,
            callback=keep,
            **method.settings,
        )
        evaluations = max(evaluations, flow.evaluations)
        final.append(u)
        times = [t for t, _ in saved]
        records.append(torch.stack([state_record(flow, t, u) for t, u in saved], dim=1))
    rows = distributed.gather_blocks(records, total, BLOCK)  # [n, states, keys, d]
    arrays = {}
    if rows is not None:
        arrays = {k: rows[:, :, i].transpose(0, 1).numpy() for i, k in enumerate(KEYS)}
        arrays["t"] = np.array(times)
    return Result(arrays, final, evaluations)


@torch.no_grad()
def state_record(flow: Flow, t: float, u: Tensor) -> Tensor:
    """All that result files hold of whitened states [n, d] at time t, [n, len(KEYS), d].

    net_outs is the denoiser D(x, t) and unscaled_scores the score of p_t, both in data
    coordinates; a score at an angle of zero, where it is not defined by the field, is NaN.
    """
    F = flow.field(u, t)
    cos, sin = (v.to(u) for v in flow.schedule.cos_sin(t))
    xi, S = flow.schedule.xi.to(u), flow.schedule.total(t).to(u)
    W, scale = flow.model.W.to(u), flow.model.scale.to(u)
    x_es = flow.from_whitened(u, t, "scaled_es")
    dx_es = flow.paper_rate(t, x_es, F)
    score = torch.where(sin == 0, torch.nan, (cos / sin * F - u) / S.sqrt())
    parts = (
        x_es @ W.T,
        x_es,
        flow.from_whitened(u, t, "unscaled"),
        flow.from_whitened(u, t, "unscaled_es"),
        dx_es @ W.T,
        dx_es,
        flow.model.decode(xi.sqrt() * (cos * u + sin * F)),
        score @ W.T / scale,
    )
    return torch.stack(parts, dim=1)


def latent_summary(flow: Flow, latents: np.ndarray, stop: float) -> dict[str, float]:
    """How Gaussian the latents of data are, by group of dimensions.

    Args:
        flow: the flow.
        latents: scaled_es latents, [n, d].
        stop: their time.

    Returns:
        participation ratio, and for kept, compressed and born-compressed dimensions the rms of
        the whitened latents (1 if Gaussian as assumed) and their mean excess kurtosis (0).
    """
    schedule = flow.schedule
    u = latents / schedule.latent_variance(stop).sqrt().cpu().numpy()
    born = (schedule.xi < schedule.gamma0).cpu().numpy() & (not schedule.proportional)
    kept = np.arange(schedule.data_dim) < schedule.dims_to_keep
    variances = torch.from_numpy(latents.var(0))
    summary = {
        "participation_ratio": float(variances.sum() ** 2 / variances.square().sum()),
        "share_born_compressed": float(born.mean()),
    }
    for name, group in {"kept": kept & ~born, "compressed": ~kept & ~born, "born": born}.items():
        if group.any():
            v = u[:, group]
            z = (v - v.mean(0)) / v.std(0).clip(1e-300)
            summary[f"latent_rms_{name}"] = float(np.sqrt(np.mean(v**2)))
            summary[f"excess_kurtosis_{name}"] = float(np.mean(z**4) - 3)
    return summary
