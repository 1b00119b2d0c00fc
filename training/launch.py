"""How a training script starts or resumes a run; shared by toys and images."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dnnlib.cli import UserError, user_errors
from dnnlib.download import cache_dir
from dnnlib.util import Logger, fill_dir, next_run_dir, write_json
from torch_utils import checkpoint, distributed
from training.augment import AugmentPipe
from training.basis import Basis, eigenbasis
from training.batches import Source
from training.data.images import ImageSource
from training.edm_precond import LEVELS, NOISE_LABELS, RECIPES
from training.model import NETWORKS, build, network_of, to_transfer, transfer
from training.precond import InflationPrecond, sigma_times
from training.resume import LAUNCH_FILE, OPTIONS_FILE
from training.schedule import Schedule
from training.training_loop import Snapshot, TrainConfig, Trainer, describe

STILL = 1e-3  # share of the mean variance below which a pixel counts as constant
SCHEDULE_OPTIONS = (
    "dims_to_keep", "g_type", "inflation_gap", "g_rescaling", "rho", "gamma0", "tmax",
)  # fmt: skip


def launch(
    options: dict[str, Any],
    run_dir: Path | None,
    description: Callable[[str], str],
    source: Source,
    on_snapshot: Snapshot | None,
) -> Path:
    """Compute the eigenbasis, build the model, and train.

    Args:
        options: all options of the script, resolved; see `toy_train.py`.
        run_dir: run to go on with; None to start one in options["outdir"].
        description: schedule name -> name of the run folder.
        source: the data.
        on_snapshot: draws samples of a snapshot.

    Returns:
        the run folder.

    Raises:
        UserError: if options and data do not go together.
        FloatingPointError: if the loss is not finite.
    """
    if options["batch"] < distributed.world_size():
        raise UserError(
            f"--batch={options['batch']} is less than one sample for each of the "
            f"{distributed.world_size()} processes"
        )
    with distributed.session(options["device"]) as device:
        theirs = None
        begun = distributed.of_rank0(
            lambda: run_dir is not None and bool(checkpoint.numbered(run_dir, checkpoint.STATE))
        )
        if options.get("transfer") and not begun:
            with user_errors("--transfer"):
                theirs = to_transfer(options)
        model, floored = prepare(options, source)
        if theirs is not None:
            with user_errors("--transfer"):
                notes = transfer(model, theirs, options["transfer"])
            distributed.print0("\n".join(notes))
        name = description(model.schedule.name)
        launchers = sorted({x for x in distributed.gather_objects(distributed.launcher()) if x})
        if run_dir is None and distributed.is_main():
            files: dict[str, object] = {OPTIONS_FILE: options}
            if launchers:
                files[LAUNCH_FILE] = {"torchrun": launchers}
            if options.get("nosubdir"):
                run_dir = fill_dir(options["outdir"], files)
            else:
                run_dir = next_run_dir(options["outdir"], name, files)
        run_dir = Path(str(distributed.broadcast(run_dir and str(run_dir))))
        if not distributed.is_main():
            return _train(options, run_dir, source, model, device, None)
        with Logger(run_dir / "log.txt"):
            write_json(run_dir / OPTIONS_FILE, options)
            print(f"Run folder: {run_dir}")
            notes = describe(model, floored) + _levels_note(options, model.schedule)
            if options.get("dropout"):
                notes.append(
                    "Note: dropout masks depend on the number of processes and --batch-gpu"
                )
            print("\n".join(notes), flush=True)
            return _train(options, run_dir, source, model, device, on_snapshot)


def prepare(options: dict[str, Any], source: Source) -> tuple[InflationPrecond, int]:
    """The preconditioned network of the options, seeded, on the CPU; and floored eigenvalues."""
    with user_errors(f"--data={options['data']}" if options.get("data") else "--data_name"):
        basis = basis_of(source)
    if options["precond"] != "ifs":  # one variance for all dimensions, no rotation
        basis = basis.isotropic(RECIPES[options["precond"]].variance)
    options |= {"augment": _augmentation(options.get("augment", 0.0), basis)}
    precond: dict[str, Any] = {"space": options["space"], "shape": source.shape}
    precond["output"] = RECIPES[options["precond"]].output
    network = NETWORKS[network_of(options, source)["class"]]
    published = getattr(network, "time_input", "published") == "published"
    if options["precond"] in NOISE_LABELS and published:
        precond["time_input"] = options["precond"]
    torch.manual_seed(options["seed"])
    schedule = {k: options[k] for k in SCHEDULE_OPTIONS}
    return build(network_of(options, source), schedule, basis, precond), basis.floored


def _levels_note(options: dict[str, Any], schedule: Schedule) -> list[str]:
    """What training at drawn noise levels says: which, and whether the schedule has them all."""
    name, weighting = options["t_sampling"], options["weighting"]
    if name not in LEVELS:
        return []
    sigma = LEVELS[name](torch.linspace(5e-5, 1 - 5e-5, 10_000, dtype=torch.float64))[0]
    low, high = (float(schedule.gamma(t)[0][0].sqrt()) for t in (0.0, schedule.tmax))
    there = schedule.gamma(sigma_times(schedule, sigma))[0][:, 0].sqrt()
    moved = float(((there / sigma).log().abs() > 1e-6).double().mean())
    lines = [f"Noise levels: {name} within {low:.3g} to {high:.3g}; loss weighting: {weighting}"]
    if moved > 1e-3:
        lines.append(
            f"Warning: {100 * moved:.1f} % of the noise levels of --t_sampling={name} lie outside "
            "those and are moved to the ends; widen them with --gamma0 and --tmax"
        )
    return lines


def _augmentation(wanted: float | None, basis: Basis) -> float:
    """The --augment that goes with the data; None stands for the paper's, where it is possible.

    Augmentation moves image content into pixels that never vary in the data, where whitening
    divides it by next to nothing. Directions of little variance are another matter: in CIFAR-10,
    whose pixels all vary, augmented images have no more variance in any of them than the data.
    """
    variances = basis.W.square() @ basis.xi  # of the columns: of pixels
    still = int((variances < STILL * variances.mean()).sum())
    if wanted is None:
        return 0.0 if still else 0.12
    if wanted and still:
        raise UserError(
            f"--augment={wanted:g} moves image content into pixels that hardly vary in this data "
            f"({still} of {len(variances)}); use --augment=0, or --precond=edm, vp or ve"
        )
    return wanted


def basis_of(source: Source) -> Basis:
    """The eigenbasis of a source; of images, computed only once.

    It is kept beside the data of rank 0, or in its cache folder where that cannot be written to.

    Raises:
        ValueError: if the data have none.
    """
    if not isinstance(source, ImageSource):
        return eigenbasis(source.basis_batches(), source.dim, source.scale)
    mirrored = "-xflip" if source.xflip else ""
    data = source.path
    name = f"{data.stem}.basis-{source.content_hash()[:16]}{mirrored}.pt"
    stored, path = None, data
    if distributed.is_main():
        path = (data.parent if os.access(data.parent, os.W_OK) else cache_dir()) / name
        with suppress(ValueError):  # a damaged file is computed again
            stored = checkpoint.load(path, "basis") if path.exists() else None
    found = distributed.broadcast(stored)
    if isinstance(found, dict):
        return Basis(**{k: found[k] for k in ("mean", "scale", "xi", "W", "floored")})
    basis = eigenbasis(source.basis_batches(), source.dim, source.scale)
    if distributed.is_main():
        checkpoint.save(path, "basis", vars(basis))
    return basis


def _train(
    options: dict[str, Any],
    run_dir: Path,
    source: Source,
    model: InflationPrecond,
    device: torch.device,
    on_snapshot: Snapshot | None,
) -> Path:
    count = {
        k: max(1, round(options[k] * scale)) if options[k] else 0
        for k, scale in {"duration": 1e6, "stop_after": 1e6, "ema": 1e6, "tick": 1e3}.items()
    }
    config = TrainConfig(
        run_dir=run_dir,
        network=network_of(options, source),
        options=options,
        duration=count["duration"],
        stop_after=count["stop_after"] or None,
        batch=options["batch"],
        batch_gpu=options["batch_gpu"],
        lr=options["lr"],
        lr_rampup=round(options["lr_rampup"] * 1e6),
        lr_decay=options["lr_decay"],
        ema=count["ema"],
        ema_rampup=None if options.get("transfer") else 0.05,  # as published
        clip=options["clip"],
        tmin=options["tmin"],
        t_sampling=options["t_sampling"],
        weighting=options["weighting"],
        second_order=options["second_order"],
        tick=count["tick"],
        snap=options["snap"],
        dump=options["dump"],
        seed=options["seed"],
        augment=AugmentPipe(options["augment"]) if options.get("augment") else None,
        precision=options.get("precision", "fp32"),
        loss_scale=options.get("ls", 2.0**16),
        compile=options.get("compile", False),
        skip_nonfinite=options.get("skip_nonfinite", 0),
        workers=options.get("workers", 1),
    )
    torch.backends.cudnn.benchmark = options.get("bench", True)
    if model.shape is not None:
        model.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "mps":  # which has no float64
        model = model.float()
    if device.type == "cpu":
        most = options["batch_gpu"] or options["batch"] // distributed.world_size()
        distributed.use_threads(model.operations(most))
    trainer = Trainer(config, source, model.to(device), on_snapshot)
    trainer.run()
    if distributed.is_main():
        latest = checkpoint.find_network(run_dir)
        if trainer.watch.stopped is None:
            print(f"Done. Network: {latest}", flush=True)
        else:
            print(
                f"Stopped by {trainer.watch.stopped} at {trainer.nimg / 1000:.1f} kimg, with "
                f"everything saved. To go on: the same command with --resume={run_dir}",
                flush=True,
            )
    return run_dir
