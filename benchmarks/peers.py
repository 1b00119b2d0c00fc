"""Flows of other libraries beside ours, at equal processor seconds of training.

python -m benchmarks.peers [--seconds=40] [--table_seconds=20]

All learn the density of x + N(0, gamma0), which is what our flow generates. Tables are small, so
of five stages of each training that with the best density on a fifth of the training rows counts.
Clocks are processor time, since other work may share the machine, without the start of processes.
Needs pip install '.[peers]'.
"""

from __future__ import annotations

import copy
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from torch import Tensor, nn
from torchdiffeq import odeint

from benchmarks.common import ROOT, Line, report
from dnnlib.util import aligned
from experiments.density.density import true_log_density, true_model
from experiments.density.report import mean_and_error
from flow.flow import Flow, load_flow
from flow.likelihood import log_prob
from training.data.toys import ToySource

STAGES, BATCH, STEPS = 5, 512, 16
SAMPLES, POINTS, POOL = 20_000, 5_000, 500_000
PILOT = 0.1  # Mimg of ours, from which the duration that takes the budget is found
Density = Callable[[Tensor], Tensor]


class Case(NamedTuple):
    """Data: name of the set, rows to learn from, to choose by, and held out, [n, d] each."""

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    toy: bool


class Learnt(NamedTuple):
    """A trained model: its functions, and the processor seconds that training took."""

    log_prob: Density
    sample: Callable[[int], Tensor]
    round_trip: Callable[[Tensor], Tensor]
    seconds: float


def toy(name: str) -> Case:
    """A toy set, of which there is no end."""
    draw = ToySource(name).samples
    return Case(name, draw(0, 0, POOL).float(), draw(2, 0, POINTS), draw(1, 0, POINTS), True)


def table(name: str, data: np.ndarray) -> Case:
    """A real table in units of its columns' sds: 64, 16 and 20 % of its rows."""
    order = np.random.default_rng(0).permutation(len(data))
    a, b = int(0.64 * len(data)), int(0.8 * len(data))
    fit = data[order[:b]]
    rows = torch.from_numpy((data[order] - fit.mean(0)) / fit.std(0))
    return Case(name, rows[:a], rows[a:b], rows[b:], False)


def noisy(x: Tensor, sd: Tensor, seed: int) -> Tensor:
    """x [n, d] with the noise of t = 0, of sds [d]."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + sd * noise


def ours(case: Case, seconds: float) -> tuple[Learnt, Flow]:
    """toy_train.py with its defaults, as long as the budget lasts."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"--data_name={case.name}"
        if not case.toy:
            np.save(f"{folder}/train.npy", case.train.numpy())
            data = f"--data={folder}/train.npy"

        def run(where: str, duration: float, stages: int) -> float:
            tick = max(1.0, 1000 * duration / stages)
            began = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "toy_train.py", data, f"--outdir={where}", "--nosubdir",
                 f"--duration={duration:.4f}", f"--tick={tick:.2f}", "--snap=1", "--no-plot",
                 "--device=cpu"],
                cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime

        short, longer = run(f"{folder}/a", PILOT / 4, 1), run(f"{folder}/b", PILOT, 1)
        rate = max(longer - short, 0.1) / (0.75 * PILOT)
        start = short - rate * PILOT / 4  # of a process, before it trains
        duration = max(PILOT, seconds / rate)
        taken = run(f"{folder}/c", duration, 1 if case.toy else STAGES) - start
        flows = [load_flow(p) for p in sorted(Path(f"{folder}/c").glob("network-snapshot-*.pkl"))]
    flows = flows[-1:] if case.toy else flows

    def density(flow: Flow) -> Density:
        return lambda x: log_prob(flow, x, steps=STEPS, trace="exact").value

    sd = noise_sd(flows[-1])
    valid = noisy(case.valid, sd, 2)
    flow = max(flows, key=lambda f: float(density(f)(valid).mean()))
    how: dict[str, Any] = {"solver": "ab3", "steps": STEPS}
    return Learnt(
        density(flow),
        lambda n: flow.sample(n, seed=1, **how),
        lambda x: flow.round_trip(x, solver="rk4", steps=STEPS),
        taken,
    ), flow


def noise_sd(flow: Flow) -> Tensor:
    """Sds of the noise of t = 0 in the data's units, [d]."""
    return math.sqrt(float(flow.schedule.gamma0)) * flow.model.scale


def fit(
    net: nn.Module, loss: Density, density: Density, case: Case, sd: Tensor, seconds: float
) -> float:
    """Adam with a cosine rate over the budget; leaves the best stage, returns seconds taken."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    spent, stage, best = 0.0, 1, (-math.inf, net.state_dict())
    valid, rng = noisy(case.valid, sd, 2).float(), torch.Generator().manual_seed(0)
    while spent < seconds:
        began = time.process_time()
        rows = torch.randint(len(case.train), (BATCH,), generator=rng)
        x = case.train[rows].float() + sd.float() * torch.randn(BATCH, len(sd), generator=rng)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * spent / seconds))
        optimizer.zero_grad()
        loss(x).mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        spent += time.process_time() - began
        if not case.toy and spent >= stage * seconds / STAGES:
            stage += 1
            value = float(density(valid).mean())
            best = max(best, (value, copy.deepcopy(net.state_dict())), key=lambda b: b[0])
    if not case.toy:
        net.load_state_dict(best[1])
    net.eval().requires_grad_(False)
    return spent


def zuko_flow(kind: str) -> Callable[[Case, Tensor, float], Learnt]:
    """NSF or MAF with zuko's defaults, two hidden layers of 128."""

    def train(case: Case, sd: Tensor, seconds: float) -> Learnt:
        import zuko

        torch.manual_seed(0)
        count = {"NSF": 3, "MAF": 5}[kind]
        net = getattr(zuko.flows, kind)(len(sd), transforms=count, hidden_features=(128, 128))

        def density(x: Tensor) -> Tensor:
            with torch.no_grad():
                return net().log_prob(x.float()).double()

        def back(x: Tensor) -> Tensor:
            with torch.no_grad():
                transform = net().transform
                return transform.inv(transform(x.float())).double()

        taken = fit(net, lambda x: -net().log_prob(x), density, case, sd, seconds)
        return Learnt(density, lambda n: net().sample((n,)).double(), back, taken)

    return train


def matching(kind: str) -> Callable[[Case, Tensor, float], Learnt]:
    """Flow matching by torchcfm, with its own MLP; RK4 steps and the exact trace."""

    def train(case: Case, sd: Tensor, seconds: float) -> Learnt:
        from torchcfm.conditional_flow_matching import (
            ConditionalFlowMatcher,
            ExactOptimalTransportConditionalFlowMatcher,
        )
        from torchcfm.models import MLP

        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (torchcfm draws its couplings from it)
        matcher = {"FM": ConditionalFlowMatcher, "OT": ExactOptimalTransportConditionalFlowMatcher}
        plan, d = matcher[kind](sigma=0.0), len(sd)
        net = MLP(dim=d, w=128, time_varying=True)

        def loss(x: Tensor) -> Tensor:
            t, state, velocity = plan.sample_location_and_conditional_flow(torch.randn_like(x), x)
            return (net(torch.cat([state, t[:, None]], 1)) - velocity).square().sum(1)

        def rate(t: Tensor, y: Tensor) -> Tensor:
            x = y[:, :d].detach().requires_grad_(y.shape[1] > d)
            with torch.set_grad_enabled(y.shape[1] > d):
                v = net(torch.cat([x, t.expand(len(x), 1)], 1))
                if y.shape[1] == d:
                    return v
                rows = [torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i]
                        for i in range(d)]  # fmt: skip
            return torch.cat([v.detach(), sum(rows)[:, None]], 1)  # type: ignore[index]  # a sum of tensors

        def carry(y: Tensor, start: float, stop: float) -> Tensor:
            ends = torch.tensor([start, stop])
            return odeint(rate, y.float(), ends, method="rk4", options={"step_size": 1 / STEPS})[-1]

        def density(x: Tensor) -> Tensor:
            y = carry(torch.cat([x, x.new_zeros(len(x), 1)], 1), 1.0, 0.0).double()
            base = -0.5 * y[:, :d].square().sum(1) - d / 2 * math.log(2 * math.pi)
            return base + y[:, d]  # carried from 1 to 0: minus the divergence from 0 to 1

        taken = fit(net, loss, density, case, sd, seconds)
        return Learnt(
            density,
            lambda n: carry(torch.randn(n, d), 0.0, 1.0).double(),
            lambda x: carry(carry(x, 1.0, 0.0), 0.0, 1.0).double(),
            taken,
        )

    return train


PEERS = {
    "zuko NSF": zuko_flow("NSF"),
    "zuko MAF": zuko_flow("MAF"),
    "torchcfm FM": matching("FM"),
    "torchcfm OT": matching("OT"),
}


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, of rows [n, d] and [m, d]."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return float(2 * torch.cdist(x, y).mean() - within)


def clock(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What work gives, and its processor seconds."""
    began = time.process_time()
    done = work()
    return done, time.process_time() - began


def compare(case: Case, seconds: float) -> tuple[str, list[Line]]:
    """One data set: a table, and our figure beside the best peer's."""
    mine, flow = ours(case, seconds)
    sd = noise_sd(flow)
    models = {"this suite": mine} | {name: f(case, sd, seconds) for name, f in PEERS.items()}
    test = noisy(case.test, sd, 3)
    exact = true_model(flow, case.name) if case.toy else None
    truth = None if exact is None else torch.from_numpy(true_log_density(exact, test.numpy()))
    points = test.repeat(-(-POINTS // len(test)), 1)[:POINTS]
    rows, costs = [], {}
    for name, m in models.items():
        found, dense = clock(lambda m=m: m.log_prob(points))  # type: ignore[misc]  # a lambda with a default of its own
        drawn, drawing = clock(lambda m=m: m.sample(SAMPLES))  # type: ignore[misc]  # a lambda with a default of its own
        found = found[: len(test)]
        loss = mean_and_error((-found if truth is None else truth - found).numpy())
        costs[name] = loss["mean"]
        gap = energy_distance(drawn[:POINTS], test)
        error = float((m.round_trip(test) - test).square().mean().sqrt())
        rows.append((
            name, f"{m.seconds:.0f}", f"{loss['mean']:.4f} +- {loss['standard_error']:.4f}",
            f"{gap:.1e}", f"{error:.0e}", f"{drawing:.2f}", f"{dense:.2f}",
        ))  # fmt: skip
    what = "negative log density of held-out rows" if truth is None else "nats over true entropy"
    header = ("model", "training, s", what, "energy distance", "round trip, rms",
              f"{SAMPLES:,} samples, s", f"{POINTS:,} log densities, s")  # fmt: skip
    best = min(PEERS, key=costs.__getitem__)
    beat = "" if costs["this suite"] <= costs[best] else f"\n{best} wins here."
    sizes = f"{len(case.train):,} rows to learn from, {len(case.test):,} held out"
    line = Line(
        f"{case.name}: {what}", f"{costs['this suite']:.4f}", f"{best} {costs[best]:.4f}",
        math.exp(costs[best] - costs["this suite"]),
    )  # fmt: skip
    title = f"{case.name}, {case.test.shape[1]} dimensions, {sizes}"
    return f"{title}\n{aligned(header, rows)}{beat}", [line]


@click.command()
@click.option("--seconds", default=40.0, help="of training, toy sets")
@click.option("--table_seconds", default=20.0, help="of training, tables")
def main(seconds: float, table_seconds: float) -> None:
    """Train all on all sets, and write the tables."""
    torch.set_num_threads(1)
    tables = {"wine": load_wine().data, "breast cancer": load_breast_cancer().data}
    cases = [toy("circles"), toy("s_curve"), *(table(*item) for item in tables.items())]
    found = [compare(c, seconds if c.toy else table_seconds) for c in cases]
    report("peers", "Other libraries' flows at equal processor seconds of training",
           [text for text, _ in found], [line for _, lines in found for line in lines])  # fmt: skip


if __name__ == "__main__":
    main()
