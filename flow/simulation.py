"""Simulations of the flow: what a run integrates, what it records, and what it says of the result.

One simulation carries this rank's blocks of samples from one time to another and keeps some of the
states, in every coordinate system that the result files hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnnlib import cli
from flow.arguments import How
from flow.flow import Flow
from flow.latents import (
    Lender,
    class_labels,
    classes_of,
    drawn_of,
    lender,
    one_hot,
    random_classes,
)  # fmt: skip
from flow.method import Method
from torch_utils import distributed
from torch_utils.work import compute

KINDS = ("melt", "roundtrip", "gen")
ENDS_ONLY = 2**62  # a save_freq that keeps the first and the last state alone
KEYS = (
    "xs", "xs_es", "tilde_xs", "tilde_xs_es", "dxs", "dxs_es", "net_outs", "unscaled_scores",
)  # fmt: skip


def kept_steps(method: Method, save_freq: int | None) -> list[int]:
    """Steps whose states are saved: the first, every save_freq-th (None: about 36) and the last."""
    last = method.steps - 1 if method.times else method.steps
    every = save_freq or max(1, -(-last // 35))
    return sorted({*range(0, last, every), last})


@dataclass
class Result:
    """Outcome of a simulation.

    Attributes:
        arrays: on rank 0 the arrays of `KEYS`, each [saved states, samples, d], t [states], and
            classes [samples], as the data calls them, of a conditional network.
        final: this rank's final states, see `Flow.carry`, by the first sample of each block, on
            the CPU.
        evaluations: network evaluations a sample, on rank 0.
    """

    arrays: dict[str, np.ndarray]
    final: dict[int, Tensor]
    evaluations: int


def simulate(
    flow: Flow,
    method: Method,
    total: int,
    start: Callable[[range], Tensor],
    backward: bool,
    save_freq: int | None,
    label: str,
    dtype: torch.dtype = torch.float64,
    classes: np.ndarray | None = None,
) -> Result:
    """Integrate `total` samples, block by block, each block on one rank.

    Args:
        flow: the flow.
        method: how to integrate.
        total: samples in all.
        start: a block of samples -> whitened states [n, d], or final ones of another simulation.
        backward: from latents to data instead of from data to latents.
        save_freq: see `kept_steps`.
        label: for the progress bar.
        dtype: of the arrays.
        classes: numbers of the classes of all samples, [total]; None without.
    """
    wanted = set(kept_steps(method, save_freq))
    ends = (method.stop, method.start) if backward else (method.start, method.stop)
    final: dict[int, Tensor] = {}
    times: list[float] = []

    def states(block: range) -> dict[str, Tensor]:
        mine = None if classes is None else classes[block.start : block.stop]
        here, beside = (flow.given(one_hot(flow, mine)) for _ in range(2))
        records: list[Tensor] = []
        times.clear()

        def keep(k: int, t: float, u: Tensor) -> None:  # nothing of it stays on the device
            if k in wanted:
                records.append(state_record(beside, t, u).to(dtype).cpu())
                times.append(t)

        how: How = {**method.how(), "callback": keep}
        final[block.start] = here.carry(start(block).to(flow.device), *ends, **how)[1].cpu()
        count = torch.full((len(block),), here.evaluations)
        return {"states": torch.stack(records, dim=1), "evaluations": count}

    rows = compute(states, total, flow.block, label)
    if rows is None:
        return Result({}, final, 0)
    table = rows["states"]  # [n, states, keys, d]
    arrays = {k: table[:, :, i].transpose(0, 1).numpy() for i, k in enumerate(KEYS)}
    arrays["t"] = np.array(times)
    arrays |= {} if classes is None else {"classes": class_labels(flow)[classes]}
    return Result(arrays, final, int(rows["evaluations"].max()))


def everywhere(result: Result, total: int, block: int) -> Tensor:
    """Final states of a simulation of `total` samples, on the CPU of every rank, [total, ...]."""
    rows = distributed.gather_blocks(list(result.final.values()), total, block)
    states = distributed.broadcast(rows)
    assert isinstance(states, Tensor)
    return states


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


@dataclass
class Simulations:
    """What to simulate.

    Attributes:
        flow: the flow.
        method: how to integrate.
        total: samples of each simulation.
        kinds: which of `KINDS`.
        seed: of the latents (and classes) of generation.
        x: data in its own units, [total, d]; needed to inflate.
        inflated: final states of an earlier inflation, [total, ...]; needed by a round trip
            without inflation.
        data_classes: numbers of the classes of the data, [total]; None without.
        eps: see `Flow.latents`.
        donors: of an earlier inflation, see `latents.lender`; None for none.
        gen_source: what generation takes of this run's own inflation, if it makes one.
        gen_class: number of the class to generate; None for random ones, or those of the donors.
        save_freq: see `simulation.kept_steps`.
        dtype: of the arrays that are kept.
    """

    flow: Flow
    method: Method
    total: int
    kinds: tuple[str, ...]
    seed: int
    x: Tensor | None = None
    inflated: Tensor | None = None
    data_classes: np.ndarray | None = None
    eps: float | None = None
    donors: Lender = None
    gen_source: str = "diag"
    gen_class: int | None = None
    save_freq: int | None = None
    dtype: torch.dtype = torch.float64

    def run(self) -> dict[str, Result]:
        """Simulate, in a session; every rank must call this.

        Raises:
            UserError: if there are no donors of the class.
        """
        results: dict[str, Result] = {}
        if "melt" in self.kinds:
            results["melt"] = self._simulate(self._data, False, "inflation", self.data_classes)
        if "roundtrip" in self.kinds:
            melt = results.get("melt")

            def latents(block: range) -> Tensor:
                if melt is not None:
                    return melt.final[block.start]
                assert self.inflated is not None
                return self.inflated[block.start : block.stop]

            results["roundtrip"] = self._simulate(latents, True, "round trip", self.data_classes)
        if "gen" in self.kinds:
            results["gen"] = self._generate(results.get("melt"))
        return results

    def _generate(self, melt: Result | None) -> Result:
        donors = self.donors
        if self.gen_source != "diag" and melt is not None:
            states = everywhere(melt, self.total, self.flow.block)
            with cli.user_errors():
                donors = lender(self.gen_source, states, self.data_classes)
        picks, classes = None, None
        if donors is not None:
            with cli.user_errors():
                donors = donors.of_class(self.gen_class)
            picks = donors.picks(self.seed, 0, self.total)
        if self.gen_class is not None:
            classes = np.full(self.total, self.gen_class)
        elif classes_of(self.flow) and donors is not None and donors.classes is not None:
            classes = donors.classes[picks]
        elif classes_of(self.flow):
            drawn = drawn_of(self.flow)
            classes = drawn[random_classes(self.seed, 0, self.total, len(drawn))]

        def latents(block: range) -> Tensor:
            n, stop = len(block), self.method.stop
            u = self.flow.latents(n, self.seed, self.eps, block.start, t=stop)
            if donors is None or picks is None:
                return u
            return donors.lend(self.flow, u, picks[block.start : block.stop])

        return self._simulate(latents, True, "generation", classes)

    def _simulate(
        self,
        start: Callable[[range], Tensor],
        backward: bool,
        label: str,
        classes: np.ndarray | None,
    ) -> Result:
        flow, method, total, every = self.flow, self.method, self.total, self.save_freq
        return simulate(flow, method, total, start, backward, every, label, self.dtype, classes)

    def _data(self, block: range) -> Tensor:
        assert self.x is not None
        x = self.x[block.start : block.stop]
        return self.flow.to_whitened(x, self.method.start, "unscaled")
