"""The one training loop: toys and images differ in source, network and pictures, nothing else.

What a step sees depends on the seed and on the number of samples seen so far, never on the number
of processes or on how often the run was interrupted: to resume, run the same command again with
--resume.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dnnlib.plot import plot_loss
from torch_utils import checkpoint, distributed
from torch_utils.training_stats import StatsWriter
from training import seeding
from training.batches import Batches, Piece, Source
from training.config import TrainConfig, learning_rate
from training.flow import Flow
from training.loss import flow_loss
from training.model import network_to_dict
from training.precond import FieldModel, InflationPrecond
from training.schedule import Arc
from training.weighting import LikelihoodWeighting

STATES_KEPT = 2
Snapshot = Callable[[Flow, Path, int], None]  # (flow of the EMA, run folder, kimg)


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
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=(0.9, 0.999))
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
        self.stats: StatsWriter | None = None

    def run(self) -> None:
        """Train to the configured duration, from the last good state if there is one.

        Raises:
            FloatingPointError: if the loss is not finite; states and networks stay as they were.
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
        with bar, closing(self.batches.stream(self.nimg, self.pieces, c.workers)) as stream:
            self._loop(target, net, stream, bar)
        if self.stats is not None:
            self.stats.close()
        distributed.barrier()

    def _loop(self, target: int, net: nn.Module, stream: Iterator[Piece], bar: tqdm) -> None:
        c = self.config
        tick = self.nimg // c.tick
        loss_sum = torch.zeros((), device=self.device)
        tick_start, tick_nimg = time.time(), self.nimg
        while self.nimg < target:
            loss_sum = loss_sum + self._step(net, stream)
            self.nimg += c.batch
            bar.update(c.batch / 1000)
            done = self.nimg >= target
            if self.nimg // c.tick == tick and not done:
                continue
            tick = self.nimg // c.tick
            images = self.nimg - tick_nimg
            self._status(tick, loss_sum * c.batch / images, (time.time() - tick_start) / images)
            if tick % c.snap == 0 or done:
                self._snapshot()
            if tick % c.dump == 0 or done:
                self._save_state()
            loss_sum = torch.zeros_like(loss_sum)
            tick_start, tick_nimg = time.time(), self.nimg

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

    def _step(self, net: nn.Module, stream: Iterator[Piece]) -> Tensor:
        """One optimizer step on the batch at `nimg`; returns this rank's loss, detached."""
        c = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(c, self.nimg)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        times = self.batches.times(self.nimg)
        rank, world = distributed.rank(), distributed.world_size()
        torch.manual_seed(seeding.integer(c.seed, "dropout", self.nimg, rank))
        for part in self.pieces:
            last = part is self.pieces[-1]
            with nullcontext() if last or world == 1 else net.no_sync():  # type: ignore[operator]
                x, noise, labels = next(stream)
                t = times[part.start : part.stop]
                errors = flow_loss(self.model, x, t, noise, self._weights(t), net, **labels)
                loss = errors.sum() * (world / (c.batch * self.source.dim))  # DDP averages
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if c.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
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

    def _status(self, tick: int, loss: Tensor, sec_per_image: float) -> None:
        c = self.config
        mean_loss = float(distributed.all_sum_(loss.clone())) / distributed.world_size()
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the loss is {mean_loss} at {self.nimg / 1000:.1f} kimg; the last good state is "
                f"in {c.run_dir}: lower --lr and go on from it with --resume"
            )
        if self.stats is not None:
            values = {"loss": mean_loss, "lr": learning_rate(c, self.nimg)}
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
            self.on_snapshot(Flow(self.ema, info=info), c.run_dir, kimg)

    def _save_state(self) -> None:
        if not distributed.is_main():
            return
        content = {
            "nimg": self.nimg,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        run_dir = self.config.run_dir
        path = run_dir / checkpoint.STATE.format(self.nimg // 1000)
        checkpoint.save(path, "training-state", content)
        for old in checkpoint.numbered(run_dir, checkpoint.STATE)[:-STATES_KEPT]:
            old.unlink()

    def _restore(self) -> None:
        run_dir = self.config.run_dir
        for path in reversed(checkpoint.numbered(run_dir, checkpoint.STATE)):
            try:
                state = checkpoint.load(path, "training-state")
            except ValueError as error:
                distributed.print0(f"Passing over a damaged state: {error}")
                continue
            self.nimg = state["nimg"]
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state.get("scaler", {}))
            distributed.print0(f"Resuming at {self.nimg / 1000:.1f} kimg from {path}")
            break


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
