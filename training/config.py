"""Settings of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.augment import AugmentPipe


@dataclass
class TrainConfig:
    """What the loop needs to know; counts are in samples (images).

    Attributes:
        run_dir: folder of the run.
        network: class and arguments of the network, for the file.
        options: the user's options, for the file.
        duration: samples to train on in all.
        stop_after: samples after which to save and stop early; None for never.
        batch: samples a step, over all processes.
        batch_gpu: most samples at once in one process; None for no limit.
        lr: learning rate at its highest.
        lr_rampup: samples of linear warm-up.
        lr_decay: "none", or "cosine" to zero at `duration`.
        ema: half-life of the weight average.
        ema_rampup: the half-life is at most this share of the samples seen; None for no warm-up.
        clip: largest norm of the gradient; 0 for no limit.
        tmin: first of uniform times.
        t_sampling: how times are drawn, see `training.batches`.
        weighting: "edm", "noise" or "likelihood", see `flow_loss`.
        second_order: add the second-order penalty, see `flow_loss`.
        tick: samples between status lines.
        snap: ticks between network snapshots.
        dump: ticks between training states.
        seed: seed of data, noise and weights.
        augment: augmentation of images; None for none.
        precision: of the network's inside: "fp32", "bf16", or "fp16" with a dynamic loss scale.
        loss_scale: at which that starts.
        compile: compile the network.
        workers: threads that prepare batches ahead; 0 for none.
        skip_nonfinite: steps to skip, in all, whose loss or gradient is not finite.
        progress: whether to show a progress bar.
    """

    run_dir: Path
    network: dict[str, Any]
    options: dict[str, Any]
    duration: int
    batch: int
    lr: float
    ema: int
    tick: int
    stop_after: int | None = None
    batch_gpu: int | None = None
    lr_rampup: int = 0
    lr_decay: str = "none"
    ema_rampup: float | None = 0.05
    clip: float = 0.0
    tmin: float = 1e-7
    t_sampling: str = "uniform"
    weighting: str = "edm"
    second_order: bool = False
    snap: int = 10
    dump: int = 10
    seed: int = 0
    augment: AugmentPipe | None = None
    precision: str = "fp32"
    loss_scale: float = 2.0**16
    compile: bool = False
    workers: int = 0
    skip_nonfinite: int = 0
    progress: bool = True


def learning_rate(c: TrainConfig, nimg: int) -> float:
    """Learning rate after nimg samples: linear warm-up, then constant or cosine to zero."""
    warmup = min((nimg + c.batch) / max(c.lr_rampup, c.batch), 1.0)
    decay = 1.0
    if c.lr_decay == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * min(nimg / c.duration, 1.0)))
    return c.lr * warmup * decay
