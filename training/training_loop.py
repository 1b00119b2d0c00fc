"""The one training loop: toys and images differ in source, network and pictures, nothing else.

What a step sees depends on the seed and on the number of samples seen so far, never on how often
the run was interrupted and, but for dropout masks, never on the number of processes: to resume, run
the same command again with --resume.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dnnlib.cli import UserError
from dnnlib.plot import plot_loss
from torch_utils import checkpoint, distributed, seeding
from torch_utils.training_stats import StatsWriter
from training.augment import CONVENTION
from training.batches import Batches, Piece, Source
from training.config import TrainConfig, learning_rate
from training.guards import Watch
from training.loss import flow_loss
from training.model import network_to_dict
from training.precond import FieldModel, InflationPrecond
from training.schedule import Arc
from training.states import latest_state, save_state
from training.weighting import LikelihoodWeighting

# (weight average of the model, run folder, kimg)
Snapshot = Callable[[InflationPrecond, Path, int], None]


class Trainer:
    """One training run.

    Args:
        config: its settings.
        source: its data.
        model: the preconditioned network on this rank's device.
        on_snapshot: draws samples of a snapshot.
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        model: InflationPrecond,
        on_snapshot: Snapshot | None = None,
    ):
        self.config, self.source, self.model = config, source, model
        self.on_snapshot = on_snapshot
        self.device = distributed.device()
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=config.lr, betas=(0.9, 0.999), fused=fused
        )
        self.batches = Batches(
            source,
            model.schedule,
            config.seed,
            config.batch,
            self.device,
            model.W.dtype,
            config.tmin,
            config.t_sampling,
            config.augment,
            probes=config.second_order,
        )
        self.weighting: LikelihoodWeighting | None = None
        if config.weighting == "likelihood":
            straight = model.output == "straight"
            self.weighting = LikelihoodWeighting(model.schedule, config.tmin, straight)
            drawn = config.t_sampling == "likelihood"
            self.batches.drawn_by = self.weighting if drawn else None
        if config.t_sampling == "arc":
            self.batches.drawn_by = Arc(model.schedule)
        self._set_precision()
        rank, world = distributed.rank(), distributed.world_size()
        mine = range(rank * config.batch // world, (rank + 1) * config.batch // world)
        size = min(config.batch_gpu or len(mine), len(mine))
        self.pieces = [mine[i : i + size] for i in range(0, len(mine), size)]
        self.nimg = 0
        self.watch = Watch(config, model, self.optimizer, self.scaler)
        self.stats: StatsWriter | None = None

    def run(self) -> None:
        """Train to the configured duration, from the last good state if there is one.

        SIGTERM or SIGINT on any rank ends it after the current step, with everything saved, as if
        the duration were over; `watch.stopped` then says which.

        Raises:
            FloatingPointError: if loss or gradient are not finite (more often than
                `skip_nonfinite`); nothing was done with them, and files stay as they were.
            UserError: if there are states, but none that can be read.
        """
        c = self.config
        self._restore()
        target = min(c.duration, self.nimg + (c.stop_after or c.duration))
        net = distributed.data_parallel(_FieldModule(self.model))
        if distributed.is_main():
            self.stats = StatsWriter(c.run_dir, self.nimg / 1000, self.device)
        bar = tqdm(
            total=c.duration / 1000, initial=self.nimg / 1000, unit="kimg", leave=False,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} kimg [{elapsed}<{remaining}]",
            disable=None if c.progress and distributed.is_main() else True,
        )  # fmt: skip
        stream = closing(self.batches.stream(self.nimg, self.pieces, c.workers))
        with self.watch, bar, stream as pieces:
            self._loop(target, net, pieces, bar)
        if self.stats is not None:
            self.stats.close()
        distributed.barrier()

    def _loop(self, target: int, net: nn.Module, stream: Iterator[Piece], bar: tqdm) -> None:
        c = self.config
        tick = self.nimg // c.tick
        losses = torch.zeros(2, device=self.device)  # their sum, and how many
        tick_start, tick_nimg = time.monotonic(), self.nimg
        while self.nimg < target:
            loss = self._step(net, stream)
            if loss is not None:
                counted = torch.stack([loss, torch.ones_like(loss)])
                losses = losses + counted.where(loss.isfinite(), 0.0)  # fp16 passes over some
            self.nimg += c.batch
            bar.update(c.batch / 1000)
            done = self.nimg >= target or self.watch.stopped is not None
            if self.nimg // c.tick == tick and not done:
                continue
            tick = self.nimg // c.tick
            seconds = time.monotonic() - tick_start
            self._status(tick, losses, seconds / (self.nimg - tick_nimg))
            if tick % c.snap == 0 or done:
                self._snapshot()
            if tick % c.dump == 0 or done:
                self._save_state()
            if self.watch.stopped is not None:
                return
            losses = torch.zeros_like(losses)
            tick_start, tick_nimg = time.monotonic(), self.nimg

    def _set_precision(self) -> None:
        """Half precision inside the network only; weights, schedule and loss stay as they are."""
        half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        self.model.amp_dtype = half[self.config.precision]
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=self.config.loss_scale,
            enabled=self.config.precision == "fp16",
        )
        if self.config.compile:
            self.model.model.compile()

    # One step ----------------------------------------------------------------------------------

    def _step(self, net: nn.Module, stream: Iterator[Piece]) -> Tensor | None:
        """One optimizer step on the batch at `nimg`; this rank's loss, detached; None if skipped.

        Raises:
            FloatingPointError: see `run`.
        """
        c = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(c, self.nimg)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        times = self.batches.times(self.nimg)
        rank, world = distributed.rank(), distributed.world_size()
        torch.manual_seed(seeding.integer(c.seed, "dropout", self.nimg, rank))
        pieces: list[Piece] = []
        each: list[Tensor] = []
        for part in self.pieces:
            last = part is self.pieces[-1]
            with nullcontext() if last or world == 1 else net.no_sync():  # type: ignore[operator]
                pieces.append(next(stream))
                x, noise, labels = pieces[-1]
                t = times[part.start : part.stop]
                errors = flow_loss(self.model, x, t, noise, self._weights(t), net, **labels)
                loss = errors.sum() * (world / (c.batch * self.source.dim))  # DDP averages
                self.scaler.scale(loss).backward()
            each.append(errors.detach().sum(1) / self.source.dim)
            total += loss.detach()
        if not self.watch.may_take(total):
            when = [times[part.start : part.stop] for part in self.pieces]
            self.watch.skip(self.nimg, pieces, when, each)
            return None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._update_ema()
        return total

    def _weights(self, t: Tensor) -> str | Tensor:
        if self.weighting is None:
            return self.config.weighting
        return self.weighting.weights(t, self.batches.drawn_by is self.weighting)

    @torch.no_grad()
    def _update_ema(self) -> None:
        c = self.config
        halflife = float(c.ema)
        if c.ema_rampup is not None:
            halflife = min(halflife, self.nimg * c.ema_rampup)
        beta = 0.5 ** (c.batch / max(halflife, 1e-8))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1.0 - beta)

    # Files -------------------------------------------------------------------------------------

    def _status(self, tick: int, losses: Tensor, sec_per_image: float) -> None:
        c = self.config
        total, count = distributed.all_sum_(losses.clone()).tolist()
        if self.stats is not None:
            values = {"loss": total / count} if count else {}  # all may have been skipped
            values["lr"] = learning_rate(c, self.nimg)
            if c.skip_nonfinite:
                values["skipped"] = self.watch.skipped
            self.stats.write(tick, self.nimg / 1000, 1000 * sec_per_image, values)

    def _snapshot(self) -> None:
        if not distributed.is_main():
            return
        c, kimg = self.config, self.nimg // 1000
        info = {
            "data": self.source.description(),
            "kimg": self.nimg / 1000,
            "training_options": c.options,
            "licence": "Apache-2.0",
        }
        content = network_to_dict(self.ema, c.network, info)
        checkpoint.save(c.run_dir / checkpoint.SNAPSHOT.format(kimg), "network", content)
        plot_loss(c.run_dir / "stats.jsonl", c.run_dir / "loss.png")
        if self.on_snapshot is not None:
            self.on_snapshot(self.ema, c.run_dir, kimg)

    def _save_state(self) -> None:
        if not distributed.is_main():
            return
        content = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.watch.skipped,
            "augmentation": CONVENTION if self.config.augment else None,
        }
        save_state(self.config.run_dir, self.nimg, content)

    def _restore(self) -> None:
        state = latest_state(self.config.run_dir)
        if state is None:
            return
        if self.config.augment and state.get("augmentation") != CONVENTION:
            raise UserError(
                f"--resume={self.config.run_dir}: its augmentation labels are of an earlier "
                "version, with other signs; start another run from it with --transfer"
            )
        self.nimg, self.watch.skipped = state["nimg"], state.get("skipped", 0)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))


class _FieldModule(nn.Module):
    """`InflationPrecond.field` as a forward method, which is what DDP wraps."""

    def __init__(self, precond: InflationPrecond):
        super().__init__()
        self.precond = precond

    def forward(self, u: Tensor, t: Tensor, **labels: Tensor | None) -> Tensor:
        """See `InflationPrecond.field`."""
        return self.precond.field(u, t, **labels)


def describe(model: FieldModel, floored: int) -> list[str]:
    """What a run says about its schedule before it starts: participation ratios and warnings."""
    s = model.schedule
    rates = s.rates.cpu().numpy()
    lines = [
        f"Schedule {s.name} ({s.g_type}): rho={float(s.rho):g}, gamma0={float(s.gamma0):g}, "
        f"tmax={s.tmax:g}, growth rates {_spread(rates)}",
        f"Latent variances (the paper's eps): {_spread(s.latent_variance().cpu().numpy())}",
        f"Participation ratio: data {s.data_participation_ratio():.3f}, "
        f"latent {s.participation_ratio(s.tmax):.3f}",
    ]
    if floored:
        lines.append(
            f"Warning: {floored} of {s.data_dim} directions of the data are constant or nearly so; "
            "their variance is floored at 1e-6 of the largest"
        )
    return lines + [f"Warning: {w}" for w in s.warnings()]


def _spread(values: np.ndarray) -> str:
    distinct = np.unique(np.round(values, 12))[::-1]
    if len(distinct) <= 4:
        return ", ".join(f"{v:.4g}" for v in distinct)
    return f"{distinct[0]:.4g} to {distinct[-1]:.4g}"
