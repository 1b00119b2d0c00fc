"""The one training loop: toys and images differ in source, network and pictures, nothing else.

What a step sees depends on the seed and on the number of samples seen so far, never on how often
the run was interrupted and never on the number of processes: to resume, run the same command again
with --resume.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dnnlib.behind import Behind
from dnnlib.cli import UserError
from dnnlib.plot import plot_loss
from torch_utils import checkpoint, distributed, seeding
from torch_utils.seeding import BLOCKS
from torch_utils.training_stats import StatsWriter
from training.augment import CONVENTION, AugmentPipe
from training.batches import Batches, Piece
from training.data.source import Source
from training.guards import Step, Watch
from training.loss import average_decay, flow_loss, learning_rate
from training.network_file import network_to_dict
from training.options import TrainOptions
from training.precond import InflationPrecond
from training.resume import latest_state, save_state
from training.times import Times

# (weight average of the model, run folder, kimg)
Snapshot = Callable[[InflationPrecond, Path, int], None]


class Trainer:
    """One training run.

    Args:
        options: resolved.
        run_dir: its folder.
        network: class and arguments of the network, for the file.
        source: its data.
        model: the preconditioned network on this rank's device.
        on_snapshot: draws samples of a snapshot.
    """

    def __init__(
        self,
        options: TrainOptions,
        run_dir: Path,
        network: dict[str, Any],
        source: Source,
        model: InflationPrecond,
        on_snapshot: Snapshot | None = None,
    ):
        self.options, self.run_dir, self.network = options, run_dir, network
        self.source, self.model = source, model
        self.on_snapshot = on_snapshot
        self.device = distributed.device()
        shared = {id(b): b for b in model.buffers()}  # schedule and basis, which stay as they are
        self.ema = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=options.lr, betas=(0.9, 0.999), fused=self.fused
        )
        self.batches = Batches(
            source,
            options.seed,
            options.batch,
            self.device,
            model.W.dtype,
            AugmentPipe(options.augment) if options.augment else None,
            probes=options.second_order,
            dropout=bool(options.dropout),
            generator=options.generator,
        )
        self.times = Times(
            model.schedule,
            options.t_sampling,
            options.weighting,
            options.tmin,
            straight=model.output == "straight",
        )
        self._set_precision()
        rank, world = distributed.rank(), distributed.world_size()
        mine = range(rank * options.batch // world, (rank + 1) * options.batch // world)
        size = min(options.batch_gpu or len(mine), len(mine))
        self.pieces = [mine[i : i + size] for i in range(0, len(mine), size)]
        self.nimg = 0
        self.watch = Watch(options, run_dir, model, self.optimizer, self.scaler)
        self.stats: StatsWriter | None = None
        self._last: Step | None = None  # until it is settled
        self.files = Behind(ahead=2)  # a network and a state

    def train(self) -> None:
        """Train to the configured duration, from the last good state if there is one.

        SIGTERM or SIGINT on any rank ends it after the current step, with everything saved, as if
        the duration were over; `watch.stopped` then says which.

        Raises:
            FloatingPointError: if loss or gradient are not finite (more often than
                `skip_nonfinite`); nothing was done with them, and files stay as they were.
            UserError: if there are states, but none that can be read.
        """
        c = self.options
        self._restore()
        target = min(c.total, self.nimg + (c.early or c.total))
        net = distributed.data_parallel(self.model)
        if distributed.is_main():
            self.stats = StatsWriter(self.run_dir, self.nimg / 1000, self.device)
        bar = tqdm(
            total=c.total / 1000, initial=self.nimg / 1000, unit="kimg", leave=False,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} kimg [{elapsed}<{remaining}]",
            disable=None if distributed.is_main() else True,
        )  # fmt: skip
        stream = closing(self.batches.stream(self.nimg, self.pieces, c.workers))
        with self.watch, bar, stream as pieces, self.files:
            self._loop(target, net, pieces, bar)
        if self.stats is not None:
            self.stats.close()
        distributed.barrier()

    def _loop(self, target: int, net: nn.Module, stream: Iterator[Piece], bar: tqdm) -> None:
        c = self.options
        tick = self.nimg // c.tick_samples
        losses = torch.zeros(2, device=self.device)  # their sum, and how many
        tick_start, tick_nimg = time.monotonic(), self.nimg
        while self.nimg < target:
            losses += self._step(net, stream)
            self.nimg += c.batch
            bar.update(c.batch / 1000)
            going = self.nimg < target and self.watch.stopped is None
            if going and self.nimg // c.tick_samples == tick:
                continue
            self._settle()
            done = self.nimg >= target or self.watch.stopped is not None
            tick = self.nimg // c.tick_samples
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
        self.model.amp_dtype = half[self.options.precision]
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=self.options.ls,
            enabled=self.options.precision == "fp16",
        )
        if self.options.tf32:
            distributed.set_tf32(True)
        self.loss = flow_loss
        if self.options.compiles(self.device.type):
            self.loss = torch.compile(flow_loss)
            self.ema.compile()

    # One step ----------------------------------------------------------------------------------

    def _step(self, net: nn.Module, stream: Iterator[Piece]) -> Tensor:
        """One optimizer step on the batch at `nimg`, which the device takes if all is finite.

        The step before is settled meanwhile: see `_settle`.

        Returns:
            this rank's loss and 1; or (0, 0) where it is not finite or the step not taken, [2].

        Raises:
            FloatingPointError: see `train`.
        """
        c = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(c, self.nimg)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        times = self.times.batch(c.seed, self.nimg, c.batch, c.generator)
        rank, world = distributed.rank(), distributed.world_size()
        if c.generator == BLOCKS:
            torch.manual_seed(seeding.integer(c.seed, "dropout", self.nimg, rank))
        taken = Step(self.nimg, [times[part.start : part.stop] for part in self.pieces], [])
        for part, t in zip(self.pieces, taken.times, strict=True):
            last = part is self.pieces[-1]
            with nullcontext() if last or world == 1 else net.no_sync():  # type: ignore[operator]  # net is DDP where world > 1
                x, noise, labels = next(stream)
                errors = self.loss(net, x, t, noise, self.times.weights(t), **labels)
                loss = errors.sum() * (world / (c.batch * self.source.dim))  # DDP averages
                self.scaler.scale(loss).backward()
            taken.losses.append(errors.detach().sum(1) / self.source.dim)
            total += loss.detach()
        self._settle()
        bad = self.watch.look(total)
        if self.fused:
            if not self.scaler.is_enabled():  # which tells the optimizer itself
                self.optimizer.found_inf = bad  # type: ignore[attr-defined]  # as the scaler does
            self.scaler.step(self.optimizer)
        elif self.watch.taken():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self._last = taken
        fine = total.isfinite() & (bad == 0)  # fp16 passes over some
        return torch.stack([total, torch.ones_like(total)]).where(fine, 0.0)

    def _settle(self) -> None:
        """Average the weights after the last step, or note that it was left out, unless done.

        Raises:
            FloatingPointError: see `train`.
        """
        step, self._last = self._last, None
        if step is None:
            return
        if self.watch.taken():
            self._update_ema(step.nimg)
        else:
            pieces = (self.batches.piece(step.nimg, part) for part in self.pieces)
            self.watch.skip(step, pieces)

    @torch.no_grad()
    def _update_ema(self, nimg: int) -> None:
        """The average after the step on the batch at `nimg`."""
        averages, weights = tuple(self.ema.parameters()), tuple(self.model.parameters())
        torch._foreach_lerp_(averages, weights, 1.0 - average_decay(self.options, nimg))

    # Files -------------------------------------------------------------------------------------

    def _status(self, tick: int, losses: Tensor, sec_per_image: float) -> None:
        c = self.options
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
        kimg = self.nimg // 1000
        info = {
            "data": self.source.description(),
            "kimg": self.nimg / 1000,
            "training_options": self.options.record(),
            "licence": "Apache-2.0",
        }
        content = network_to_dict(self.ema, self.network, info)
        path = self.run_dir / checkpoint.SNAPSHOT.format(kimg)
        self.files(checkpoint.save, path, "network", checkpoint.frozen(content))
        plot_loss(self.run_dir / "stats.jsonl", self.run_dir / "loss.png")
        if self.on_snapshot is not None:
            self.on_snapshot(self.ema, self.run_dir, kimg)

    def _save_state(self) -> None:
        if not distributed.is_main():
            return
        content = {
            "model": self.model.state_dict(),
            "ema": dict(self.ema.named_parameters()),  # its buffers are the model's
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.watch.skipped,
            "augmentation": CONVENTION if self.options.augment else None,
        }
        self.files(save_state, self.run_dir, self.nimg, checkpoint.frozen(content))

    def _restore(self) -> None:
        state = latest_state(self.run_dir)
        if state is None:
            return
        if self.options.augment and state.get("augmentation") != CONVENTION:
            raise UserError(
                f"--resume={self.run_dir}: its augmentation labels are of an earlier "
                "version, with other signs; start another run from it with --transfer"
            )
        self.nimg, self.watch.skipped = state["nimg"], state.get("skipped", 0)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"], strict=False)  # older ones have buffers too
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
