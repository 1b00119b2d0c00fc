r"""Samples by the stochastic reverse process (Langevin), beside those by the flow's ODE.

The noisy data x_t = y + sqrt(gamma(t)) n is a diffusion run forwards; run backwards it is the
reverse SDE, here in ancestral steps from t to t' < t, exact if the denoiser were constant within a
step. With the field F, y = cos(phi) u + sin(phi) F and n = sin(phi) u - cos(phi) F (whitened), and

    u' = cos(phi') y + sin(phi') (sqrt(1 - c^2) n + c xi),   c^2 = churn^2 (1 - gamma'/gamma),

xi ~ N(0, I) fresh. churn = 1 is the reverse SDE, churn = 0 first-order steps of the ODE.

Reference: Song et al. 2021, "Denoising diffusion implicit models", eq. 12, one angle a dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from dnnlib import cli, density_plot, plot
from dnnlib.options import SEED, RunOptions, option, takes
from dnnlib.util import Json
from experiments.density.density import noise_at_start, true_log_density, true_model
from experiments.density.gaussianity import ks_distance
from flow.exact import MixtureField
from flow.flow import Flow, open_flow
from flow.integration import Watcher
from flow.options import NetworkOptions, SaveOptions
from flow.results import Record
from torch_utils import distributed, seeding
from torch_utils.work import compute
from training.data.toys import ToySource, trained_on

EXAMPLE = """
python -m experiments.density.langevin --save_dir=out/gmm1d --network=out/gmm1d
"""
Noise = Callable[[int], Tensor]


@torch.no_grad()
def generate(
    flow: Flow,
    u: Tensor,
    steps: int,
    noise: Noise,
    churn: float = 1.0,
    callback: Watcher | None = None,
) -> Tensor:
    """Carry whitened latents to whitened data by the reverse SDE.

    Args:
        flow: the flow, on whose `Arc.grid` the steps lie.
        u: latents at tmax, [n, d].
        steps: network evaluations.
        noise: step -> standard normals, [n, d].
        churn: 1 for the SDE, 0 for the ODE, or between.
        callback: called with (step, t, whitened state) at every state.

    Returns:
        whitened states at t = 0, [n, d].

    Raises:
        ValueError: if the schedule's noise shrinks in a dimension: there is no such SDE.
    """
    s = flow.schedule
    check_growth(flow)
    grid = [flow.arc.time(a) for a in flow.arc.grid(s.tmax, 0.0, steps)]
    if callback is not None:
        callback(0, grid[0], u)
    for k, (t, after) in enumerate(pairwise(grid)):
        (cos, sin), (cos_next, sin_next) = (
            tuple(v.to(u) for v in s.cos_sin(when)) for when in (t, after)
        )
        F = flow.field(u, t)
        y, n = cos * u + sin * F, sin * u - cos * F
        share = churn**2 * (1 - (s.gamma(after)[0] / s.gamma(t)[0]).to(u)).clamp_min(0)
        fresh = (1 - share).sqrt() * n + share.sqrt() * noise(k).to(u)
        u = cos_next * y + sin_next * fresh
        if callback is not None:
            callback(k + 1, after, u)
    return u


def check_growth(flow: Flow) -> None:
    """Check that no dimension's noise shrinks with time.

    Raises:
        ValueError: if it does: there is no such SDE.
    """
    lowest = float(flow.schedule.rates.min())
    if lowest < 0:
        raise ValueError(
            f"the noise of compressed dimensions shrinks in this network's schedule (growth rate "
            f"{lowest:.3g} < 0), so it has no reverse SDE; train with a smaller --inflation_gap or "
            "--g_rescaling, or use the ODE"
        )


def carry(
    flow: Flow, total: int, seed: int, keep: set[int], move: Callable, label: str
) -> tuple[Tensor | None, np.ndarray]:
    """States over time of samples that start as the latents of a seed.

    Args:
        flow: the flow.
        total: samples; sample i is the same whatever `total` and the process count are.
        seed: of the latents.
        keep: steps whose states are returned.
        move: called as move(u, block, callback), carries latents of a range of samples to data.
        label: of the progress bar.

    Returns:
        on rank 0 whitened states [kept, total, d], elsewhere None; and their times, [kept].
    """
    saved: list[tuple[float, Tensor]] = []

    def watch(k: int, t: float, u: Tensor) -> None:
        if k in keep:
            saved.append((t, u))

    def states(block: range) -> dict[str, Tensor]:
        saved.clear()
        move(flow.latents(len(block), seed, start=block.start), block, watch)
        return {"states": torch.stack([u for _, u in saved], dim=1)}

    rows = compute(states, total, flow.block, label)
    times = np.array([t for t, _ in saved])
    return None if rows is None else rows["states"].transpose(0, 1), times


def both(
    flow: Flow, total: int, seed: int, steps: int, churn: float, keep: set[int]
) -> tuple[dict[str, Tensor], np.ndarray]:
    """The same latents carried by the ODE and by the SDE, with as many steps; see `carry`.

    Returns:
        on rank 0 the whitened states of each, elsewhere nothing; and their times.
    """

    def by_sde(u: Tensor, block: range, watch: Watcher) -> None:
        def noise(k: int) -> Tensor:
            d = flow.schedule.data_dim
            drawn = seeding.normals(seed, f"langevin {k}", block.start, block.stop, d)
            return torch.from_numpy(drawn)

        generate(flow, u, steps, noise, churn, watch)

    def by_ode(u: Tensor, block: range, watch: Watcher) -> None:
        flow.integrate(u, flow.schedule.tmax, 0.0, "ab3", steps, callback=watch)

    ode, times = carry(flow, total, seed, keep, by_ode, "ODE")
    sde, _ = carry(flow, total, seed, keep, by_sde, "SDE")
    if ode is None or sde is None:
        return {}, times
    return {"ODE": ode, "SDE": sde}, times


@dataclass(frozen=True, kw_only=True)
class LangevinOptions(SaveOptions, NetworkOptions, RunOptions):
    """Options of the command."""

    total_samples: int = option(20000, type=click.IntRange(min=2), help="of each process")
    steps: int = option(
        250, type=click.IntRange(min=2),
        help="of each process; the SDE is of first order and needs many",
    )  # fmt: skip
    churn: float = option(
        1.0, type=click.FloatRange(min=0, max=1),
        help="share of fresh noise: 1 is the SDE, 0 the ODE in first-order steps",
    )  # fmt: skip
    seed: int = option(0, type=SEED, help="of latents and noise")


@cli.command(EXAMPLE)
@takes(LangevinOptions)
def main(options: LangevinOptions) -> None:
    """Generate by the Langevin (reverse SDE) and by the flow's ODE from the same latents.

    Writes {data}_{schedule}_langevin.npz (states of both over time, paper's coordinates),
    .json (how near each comes to the data), _paths.png and _samples.png.
    """
    flow = open_flow(options)
    with cli.user_errors():
        check_growth(flow)
    if flow.images:
        raise cli.UserError(f"--network={options.network} is one of images; name one of vectors")
    cli.check_writable(options.save_dir, "--save_dir")
    n, steps = options.total_samples, options.steps
    distributed.print0(f"{n} samples, {steps} steps of the SDE, {steps} of the ODE (ab3)")
    if options.dry_run:
        return
    with distributed.session(options.device):
        run(flow, options)


def run(flow: Flow, options: LangevinOptions) -> None:
    """Generate, compare and write, within a session."""
    n, seed, steps = options.total_samples, options.seed, options.steps
    keep = {*range(0, steps, max(1, steps // 60)), steps}
    name = trained_on(flow.info)
    stem = Path(options.save_dir, f"{name or 'data'}_{flow.schedule.name}_langevin")
    record = Record.begin(f"{stem}.json", flow, options)
    states, times = both(flow, n, seed, steps, options.churn, keep)
    if not states:
        return
    truth = true_model(flow, str(name))
    ends = {
        k: flow.from_whitened(v[-1].to(flow.device), 0.0, "unscaled").cpu().numpy()
        for k, v in states.items()
    }
    known = noisy_data(flow, n)
    if known is not None:
        ends = {"data": known, **ends}
    result = {k: describe(x, truth) for k, x in ends.items()}
    pairs = {k: in_paper_coordinates(flow, v, times) for k, v in states.items()}
    record.save(f"{stem}.npz", {"ode": pairs["ODE"], "sde": pairs["SDE"], "t": times})
    if options.plot:
        draw(stem, pairs, times, ends, truth)
    record.finish(result, f"{stem}*", "ODE and SDE")


def in_paper_coordinates(flow: Flow, states: Tensor, times: np.ndarray) -> np.ndarray:
    """Whitened states [k, n, d] at times [k] as x~, in the data's axes."""
    pairs = zip(states, times, strict=True)
    scaled = [flow.from_whitened(u.to(flow.device), float(t), "scaled") for u, t in pairs]
    return torch.stack(scaled).cpu().numpy()


def noisy_data(flow: Flow, n: int) -> np.ndarray | None:
    """Samples of the toy set that the network knows, with the flow's noise of t = 0, [n, d]."""
    data = flow.info.get("data", {})
    if data.get("kind") != "toy" or "augment_to" in data:
        return None
    noise = noise_at_start(flow, 0, 0, n).cpu()
    return (ToySource(trained_on(flow.info) or "").samples(0, 0, n) + noise).numpy()


def describe(x: np.ndarray, truth: MixtureField | None) -> Json:
    """Moments of samples [n, d]; where the true density is known, how probable they are there."""
    told: Json = {"mean": x.mean(0).tolist(), "variance": x.var(0).tolist()}
    if truth is not None:
        told["mean_true_log_density"] = float(true_log_density(truth, x).mean())
    if truth is not None and x.shape[1] == 1:
        grid = np.linspace(x.min() - 1, x.max() + 1, 4001)
        cdf = np.cumsum(np.exp(true_log_density(truth, grid[:, None])))
        told["ks_from_truth"] = float(ks_distance(np.interp(np.sort(x, 0), grid, cdf / cdf[-1]))[0])
    return told


def draw(
    stem: Path,
    states: dict[str, np.ndarray],
    times: np.ndarray,
    ends: dict[str, np.ndarray],
    truth: MixtureField | None,
) -> None:
    """Paths of both processes over time, and their samples beside the data."""
    captions = {"ODE": "probability flow (ODE)", "SDE": "Langevin (reverse SDE)"}
    d = states["ODE"].shape[2]
    label = "x̃(t)" if d == 1 else "first coordinate of x̃(t)"
    density_plot.paths(
        f"{stem}_paths.png", times, {captions[k]: v[:, :, 0] for k, v in states.items()}, label,
        "The same latents carried to data by two processes",
    )  # fmt: skip
    if d > 1:
        clouds = {captions.get(k, k): (x, None) for k, x in ends.items()}
        plot.panels(f"{stem}_samples.png", clouds)
        return
    low, high = plot.limits_of(*ends.values(), own=True)[0]
    x = np.linspace(low, high, 801)
    curves = {}
    if truth is not None:
        curves["true density"] = np.exp(true_log_density(truth, x[:, None]))
    samples = {captions.get(k, k): v[:, 0] for k, v in ends.items()}
    density_plot.density_1d(f"{stem}_samples.png", x, curves, samples, "Samples of both processes")


if __name__ == "__main__":
    main()
