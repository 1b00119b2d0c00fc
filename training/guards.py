"""What can befall a run between two steps: it is told to stop, or a loss is not finite."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from torch_utils import checkpoint, distributed
from training.batches import Piece
from training.options import TrainOptions

NONFINITE = "nonfinite-batch-{:06d}.pt"
SCALE_FLOOR = 2.0**-10  # of fp16's loss scale: a loss that overflows even there is a fault


class Watch:
    """Decides at every step, alike on all ranks, whether to take it and whether to stop after it.

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

    def may_take(self, loss: Tensor) -> bool:
        """Clip the gradient, and see whether it and the loss are finite on all ranks.

        In fp16 a gradient that overflows is no fault: the scaler passes over the step and lowers
        its scale. It is one once the scale has fallen to `SCALE_FLOOR`.

        Args:
            loss: this rank's, scalar.
        """
        if self.options.clip:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        else:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(grads)
        fine = torch.isfinite(norm + loss)
        if self.scaler.is_enabled() and self.scaler.get_scale() > SCALE_FLOOR:
            fine = torch.ones_like(fine)
        fine_everywhere, stop = agree(fine, self._signal is not None)
        if stop:
            self.stopped = self._signal or "a signal to another process"
        return fine_everywhere

    def skip(self, nimg: int, pieces: list[Piece], t: list[Tensor], losses: list[Tensor]) -> None:
        """Leave a step out, or stop if there have been too many; every rank calls this.

        Args:
            nimg, pieces, t, losses: see `save_batch`.

        Raises:
            FloatingPointError: in the latter case.
        """
        c, at = self.options, f"at {nimg / 1000:.1f} kimg"
        self.skipped += 1
        if self.scaler.is_enabled():
            self.scaler.update(self.scaler.get_scale())
        path = None
        if self.skipped in (1, c.skip_nonfinite + 1):
            path = save_batch(self.run_dir, nimg, pieces, t, losses)
        loss = float(torch.cat(losses).mean())
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


def agree(fine: Tensor, stop: bool) -> tuple[bool, bool]:
    """Whether a step is fine on all ranks, and whether any is to stop.

    One small sum over ranks, and on a GPU one wait for the step's gradient.

    Args:
        fine: boolean scalar on this rank's device.
        stop: whether this rank is to stop.
    """
    if distributed.world_size() == 1:
        return bool(fine), stop
    flags = torch.stack([~fine, torch.as_tensor(stop, device=fine.device)]).float()
    bad, stopping = distributed.all_sum_(flags).tolist()
    return not bad, stopping > 0


def save_batch(
    run_dir: Path, nimg: int, pieces: list[Piece], t: list[Tensor], losses: list[Tensor]
) -> Path | None:
    """Write the batch whose loss or gradient is not finite, all ranks' parts; all must call this.

    Args:
        run_dir: folder of the run.
        nimg: samples before the batch.
        pieces: this rank's parts of it: data, noise, labels.
        t: their times, [n] each.
        losses: of each sample, [n] each.

    Returns:
        the file, on rank 0; None elsewhere. It holds "nimg", and for each sample its "positions" in
        the stream, "x", "t", "noise", "loss" and labels.
    """
    mine = {
        "x": [p[0] for p in pieces],
        "noise": [p[1] for p in pieces],
        "t": t,
        "loss": losses,
        **{name: [p[2][name] for p in pieces] for name in pieces[0][2]},
    }
    parts = distributed.gather_objects({k: torch.cat(v).cpu() for k, v in mine.items()})
    if not distributed.is_main():
        return None
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    whole["positions"] = torch.arange(nimg, nimg + len(whole["x"]))
    path = run_dir / NONFINITE.format(nimg // 1000)
    checkpoint.save(path, "nonfinite-batch", {"nimg": nimg, **whole})
    return path
