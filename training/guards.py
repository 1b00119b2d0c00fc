"""What can befall a run between two steps: it is told to stop, or a loss is not finite."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_utils import checkpoint, distributed
from training.batches import Piece
from training.options import TrainOptions

NONFINITE = "nonfinite-batch-{:06d}.pt"
SCALE_FLOOR = 2.0**-10  # of fp16's loss scale: a loss that overflows even there is a fault


class Step(NamedTuple):
    """A step whose outcome the device has yet to tell.

    Attributes:
        nimg: samples before it.
        times: of the samples of this rank's pieces, [n] each.
        losses: of the same samples, [n] each.
    """

    nimg: int
    times: list[Tensor]
    losses: list[Tensor]


class Watch:
    """Decides of every step, alike on all ranks, whether it is taken and whether it was the last.

    The device decides whether to take a step; the process learns of it one step late, so that it
    never waits for a device that has nothing left to do.

    While it is entered, SIGTERM and the first SIGINT are noted and do not end the process.

    Args:
        options: of the run.
        run_dir: its folder.
        model: with the gradient of the step.
        optimizer: of the run.
        scaler: of the loss, in fp16.

    Attributes:
        skipped: steps left out because loss or gradient were not finite.
        stopped: the signal that the run stops by; None so far.
    """

    def __init__(
        self,
        options: TrainOptions,
        run_dir: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ):
        self.options, self.run_dir = options, run_dir
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.skipped = 0
        self.stopped: str | None = None
        self._signal: str | None = None
        self._flags: Copied | None = None  # of the last step: not finite, to stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():  # others may not
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        if number == signal.SIGINT and distributed.world_size() == 1:
            # Who presses Ctrl-C again means it. (torchrun hands one on that its workers had.)
            signal.signal(number, self._before[number])

    def look(self, loss: Tensor) -> Tensor:
        """Clip the gradient, and begin to find out if it and the loss are finite on all ranks.

        In fp16 a gradient that overflows is no fault: the scaler passes over the step and lowers
        its scale. It is one once the scale has fallen to `SCALE_FLOOR`.

        Args:
            loss: this rank's, scalar.

        Returns:
            on the device, 1 if the step is not to be taken, or else 0, alike on all ranks; `taken`
            says the same once the device has come that far.
        """
        if self.options.clip:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        else:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(grads)
        bad = ~torch.isfinite(norm + loss)
        if self.scaler.is_enabled():
            bad = bad & (self.scaler.scale(torch.ones_like(loss)) <= SCALE_FLOOR)
        stop = torch.full_like(bad, self._signal is not None)
        flags = distributed.all_sum_(torch.stack([bad, stop]).float()).clamp(max=1)
        self._flags = Copied(flags)
        return flags[0]

    def taken(self) -> bool:
        """Whether the last step that was looked at was fine everywhere; waits for the device."""
        assert self._flags is not None
        bad, stop = self._flags.values()
        if stop:
            self.stopped = self._signal or "a signal to another process"
        return not bad

    def skip(self, step: Step, pieces: Iterable[Piece]) -> None:
        """Count a step that was left out, or stop if there have been too many; all ranks call this.

        Args:
            step, pieces: see `save_batch`.

        Raises:
            FloatingPointError: in the latter case.
        """
        c, at = self.options, f"at {step.nimg / 1000:.1f} kimg"
        self.skipped += 1
        path = None
        if self.skipped in (1, c.skip_nonfinite + 1):
            path = save_batch(self.run_dir, step, pieces)
        loss = float(torch.cat(step.losses).mean())
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss:g}"
        if self.skipped <= c.skip_nonfinite:
            saved = f"; its batch is {path}" if path else ""
            distributed.print0(
                f"Skipped a step {at}: {what} ({self.skipped} of "
                f"--skip-nonfinite={c.skip_nonfinite}{saved})"
            )
            return
        before = f", after {c.skip_nonfinite} steps that were skipped" if c.skip_nonfinite else ""
        run = self.run_dir
        raise FloatingPointError(
            f"{what} {at}{before}. The batch is {path}; networks and states are as they were. To "
            f"skip such steps: --resume={run} --skip-nonfinite=100. If there are too many: "
            f"start again with a lower --lr or --clip=1, and --transfer={run} for the "
            "weights of the last snapshot"
        )


class Copied:
    """Numbers on their way from a device, which whoever sent them does not wait for.

    Args:
        values: on the device, [n].
    """

    def __init__(self, values: Tensor):
        self._arrived: torch.cuda.Event | None = None
        self._there = values
        if values.device.type == "cuda":
            self._there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._there.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def values(self) -> list[float]:
        """The numbers, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._there.tolist()


def save_batch(run_dir: Path, step: Step, pieces: Iterable[Piece]) -> Path | None:
    """Write the batch whose loss or gradient is not finite, all ranks' parts; all must call this.

    Args:
        run_dir: folder of the run.
        step: that was not taken.
        pieces: this rank's parts of its batch: data, noise, labels.

    Returns:
        the file, on rank 0; None elsewhere. It holds "nimg", and for each sample its "positions" in
        the stream, "x", "t", "noise", "loss" and labels.
    """
    pieces = list(pieces)
    mine = {
        "x": [p[0] for p in pieces],
        "noise": [p[1] for p in pieces],
        "t": step.times,
        "loss": step.losses,
        **{name: [p[2][name] for p in pieces] for name in pieces[0][2]},
    }
    parts = distributed.gather_objects({k: torch.cat(v).cpu() for k, v in mine.items()})
    if not distributed.is_main():
        return None
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    nimg = step.nimg
    whole["positions"] = torch.arange(nimg, nimg + len(whole["x"]))
    path = run_dir / NONFINITE.format(nimg // 1000)
    checkpoint.save(path, "nonfinite-batch", {"nimg": nimg, **whole})
    return path
