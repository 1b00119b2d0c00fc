"""Simulations of the flow: what a run integrates, what it records, and what it says of the result.

One simulation carries this rank's blocks of samples from one time to another and keeps some of the
states, in every coordinate system that the result files hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from flow.flow import Flow, ifs_times, vp_ode_times
from flow.solvers import PAPER_SOLVERS
from torch_utils import distributed

ENDS_ONLY = 2**62  # a save_freq that keeps the first and the last state alone
KEYS = (
    "xs", "xs_es", "tilde_xs", "tilde_xs_es", "dxs", "dxs_es", "net_outs", "unscaled_scores",
)  # fmt: skip


@dataclass
class Method:
    """How to integrate.

    Attributes:
        solver: a name of `solvers.SOLVERS` or `solvers.PAPER_SOLVERS`.
        steps: steps of an angle solver, or time points of a paper solver.
        stop: time of the latents.
        start: time at which data enters.
        times: the time grid of a paper solver, increasing.
        disc: its kind, "ifs" or "vp_ode"; None of an angle solver.
        settings: further arguments of the solver.
        estimate: rms error estimated on pilots, where `steps` was chosen by it.
    """

    solver: str
    steps: int
    stop: float
    start: float = 0.0
    times: list[float] | None = None
    disc: str | None = None
    settings: dict[str, float] = field(default_factory=dict)
    estimate: float | None = None

    def describe(self) -> dict:
        """Plain values for a .json file."""
        return {k: v for k, v in asdict(self).items() if k != "times" and v not in (None, {})}

    def how(self) -> dict[str, Any]:
        """Arguments of `Flow.integrate`, `inflate`, `generate` and `round_trip`."""
        grid = {"solver": self.solver, "steps": self.steps, "times": self.times}
        return {**grid, **self.settings}


def paper_method(
    flow: Flow,
    solver: str,
    disc: str,
    steps: int | None = None,
    h: float | None = None,
    first: float = 1e-2,
) -> Method:
    """A solver of the paper on one of its grids.

    Args:
        flow: the flow.
        solver: a name of `PAPER_SOLVERS`.
        disc: "ifs", `steps` points `h` apart, or "vp_ode", `steps` points from `first` to tmax.
        steps: points of the grid; None on "ifs" for those that reach tmax.
        h: time step of "ifs"; None for 0.01.
        first: time at which "vp_ode" takes the data to be.

    Raises:
        ValueError: if the grid is not one of the flow's.
    """
    tmax = flow.schedule.tmax
    if flow.schedule.proportional:
        raise ValueError(
            f"--solver={solver}: this network's g_type=proportional is not regular in t; use an "
            "angle solver such as --solver=rk4"
        )
    if disc == "ifs":
        h = 1e-2 if h is None else h
        steps = steps or max(2, round(tmax / h))
    if steps is None or steps < 2:
        raise ValueError(f"--steps={steps}: the paper's solvers need at least 2 time points")
    if disc == "vp_ode":
        times = vp_ode_times(steps, tmax, first=first)
        if times[0] >= tmax:
            raise ValueError(f"--disc=vp_ode starts at t={times[0]:g}, not before tmax={tmax:g}")
        return Method(solver, steps, tmax, times[0], times, disc)
    assert h is not None
    stop = steps * h
    if stop > tmax * (1 + 1e-6):
        raise ValueError(
            f"--steps={steps} times --h={h:g} ends at t={stop:g}, beyond the flow's "
            f"tmax={tmax:g}; use --steps={int(tmax / h + 1e-9)}"
        )
    return Method(solver, steps, stop, times=ifs_times(steps, h), disc=disc)


def choose_method(
    flow: Flow,
    pilot: Tensor,
    solver: str | None,
    steps: int | None,
    h: float | None,
    tolerance: float,
    limit: int = 1024,
) -> Method:
    """Turn --solver, --steps, --h and --tol into a method.

    With --steps or --h alone it is the paper's Euler with exactly those; with nothing, RK4 in arc
    length with as few steps as the tolerance allows on pilot samples.

    Args:
        flow: the flow.
        pilot: whitened data at t = 0, [n, d], the same on every rank.
        solver, steps, h, tolerance: the options, None where not given.
        limit: most steps to try for the tolerance.

    Raises:
        ValueError: if the paper's grid ends beyond the network's tmax.
    """
    tmax = flow.schedule.tmax
    if solver is None and (steps is not None or h is not None):
        solver = "euler"
    if solver in PAPER_SOLVERS:
        return paper_method(flow, solver, "ifs", steps, h)
    if solver == "adaptive":
        settings = {"rtol": tolerance, "atol": tolerance}
        return Method(solver, steps or 32, tmax, settings=settings)
    if steps is not None:
        return Method(solver or "rk4", steps, tmax)
    solver = solver or "rk4"
    fixed = "angle_heun" if solver == "reversible" else solver
    found = flow.steps_for(pilot, tmax, tolerance, fixed, limit)
    found = distributed.broadcast(found)  # type: ignore[assignment]  # machines may round otherwise
    return Method(solver, found[0], tmax, estimate=found[1])


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
        final: this rank's blocks of final states as the solver carries them, see `simulate`.
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
    dtype: torch.dtype = torch.float64,
    labels: Tensor | None = None,
) -> Result:
    """Integrate `total` samples, block by block, each block on one rank.

    Args:
        flow: the flow.
        method: how to integrate.
        total: samples in all.
        start: (number among this rank's blocks, range of samples) -> whitened states [n, d], or a
            pair of states [2, n, d] of the reversible solver.
        backward: from latents to data instead of from data to latents.
        save_freq: see `kept_steps`.
        label: for the progress bar.
        dtype: of the arrays.
        labels: one-hot classes of all samples, [total, classes]; None for no classes.
    """
    wanted = set(kept_steps(method, save_freq))
    records, final, evaluations, times = [], [], 0, []
    ends = (method.stop, method.start) if backward else (method.start, method.stop)
    blocks = distributed.share(total, flow.block)
    quiet = True if not distributed.is_main() else None
    for number, block in enumerate(tqdm(blocks, desc=label, leave=False, disable=quiet)):
        saved: list[tuple[float, Tensor]] = []

        def keep(k: int, t: float, u: Tensor, saved: list = saved) -> None:
            if k in wanted:
                saved.append((t, u))

        here = flow.given(None if labels is None else labels[block.start : block.stop])
        here.evaluations = 0
        u = start(number, block).to(flow.device)
        u = here.integrate(u, *ends, callback=keep, **method.how())
        evaluations = max(evaluations, here.evaluations)
        final.append(u)
        times = [t for t, _ in saved]
        states = [state_record(here, t, u).to(dtype) for t, u in saved]
        records.append(torch.stack(states, dim=1))
    rows = distributed.gather_blocks(records, total, flow.block)  # [n, states, keys, d]
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
