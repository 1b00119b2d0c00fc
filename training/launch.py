"""How a training script starts or resumes a run; shared by toys and images."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dnnlib.cli import UserError
from dnnlib.util import Logger, next_run_dir, run_dirs, write_json
from torch_utils import checkpoint, distributed
from training.basis import eigenbasis
from training.model import NETWORKS, build
from training.precond import InflationPrecond
from training.training_loop import Snapshot, Source, TrainConfig, Trainer, describe

OPTIONS_FILE = "training_options.json"
SCHEDULE_OPTIONS = (
    "dims_to_keep", "g_type", "inflation_gap", "g_rescaling", "rho", "gamma0", "tmax",
)  # fmt: skip
# Options that may differ when a run goes on: where, how long and how often, never what.
FREE = {"outdir", "resume", "device", "duration", "stop_after", "batch_gpu", "tick", "snap", "dump"}


def find_run(
    resume: str, outdir: str | None, explicit: dict[str, Any]
) -> tuple[Path | None, dict[str, Any]]:
    """The run that --resume means, and its options with those the user changed.

    Args:
        resume: a run folder, or "latest": the newest run in outdir that the options agree with.
        outdir: --outdir.
        explicit: options that the user gave.

    Returns:
        run folder and options; (None, {}) if "latest" finds nothing to go on with.

    Raises:
        UserError: if the folder is no run, or an option contradicts it.
    """
    if resume != "latest":
        stored = _stored(Path(resume))
        for name, (old, new) in _conflicts(stored, explicit).items():
            raise UserError(
                f"--{name}={new} contradicts {resume}, which was started with {old}; leave "
                f"--{name} out to go on with that run, or leave --resume out to start another"
            )
        return Path(resume), stored | explicit
    if outdir is None:
        raise UserError("--resume=latest needs --outdir, the folder of the runs")
    for folder in reversed(run_dirs(outdir)):
        if (folder / OPTIONS_FILE).exists():
            stored = _stored(folder)
            if not _conflicts(stored, explicit):
                return folder, stored | explicit
    return None, {}


def _stored(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / OPTIONS_FILE).read_text()))
    except (OSError, ValueError):
        raise UserError(
            f"--resume={folder}: no run there ({OPTIONS_FILE} is missing or damaged); name a run "
            "folder such as out/00000-circles-PRP, or latest"
        ) from None


def _conflicts(stored: dict[str, Any], explicit: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (stored.get(name), value)
        for name, value in explicit.items()
        if name not in FREE and stored.get(name) != value
    }


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
        model, floored = prepare(options, source)
        name = description(model.schedule.name)
        if run_dir is None and distributed.is_main():
            run_dir = next_run_dir(options["outdir"], name)
        run_dir = Path(str(distributed.broadcast(run_dir and str(run_dir))))
        if not distributed.is_main():
            return _train(options, run_dir, source, model, device, None)
        with Logger(run_dir / "log.txt"):
            write_json(run_dir / OPTIONS_FILE, options)
            print(f"Run folder: {run_dir}")
            print("\n".join(describe(model, floored)), flush=True)
            return _train(options, run_dir, source, model, device, on_snapshot)


def prepare(options: dict[str, Any], source: Source) -> tuple[InflationPrecond, int]:
    """The preconditioned network of the options, seeded, on the CPU; and floored eigenvalues."""
    basis = eigenbasis(source.basis_batches(), source.dim, source.scale)
    precond: dict[str, Any] = {"space": options["space"], "shape": getattr(source, "shape", None)}
    if options["precond"] == "edm":  # one variance for all dimensions, no rotation
        basis = basis.isotropic()
        network = NETWORKS[options["arch"]]
        if getattr(network, "time_input", "published") == "published":
            precond["time_input"] = "edm"
    torch.manual_seed(options["seed"])
    schedule = {k: options[k] for k in SCHEDULE_OPTIONS}
    return build(network_of(options, source), schedule, basis, precond), basis.floored


def network_of(options: dict[str, Any], source: Source) -> dict[str, Any]:
    """Class and all arguments, defaults spelled out, of the network that the options name."""
    signature = inspect.signature(NETWORKS[options["arch"]])
    arguments = signature.bind(in_channels=source.dim)
    arguments.apply_defaults()
    return {"class": options["arch"], "kwargs": dict(arguments.arguments)}


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
        clip=options["clip"],
        tmin=options["tmin"],
        t_sampling="lognormal" if options["precond"] == "edm" else "uniform",
        tick=count["tick"],
        snap=options["snap"],
        dump=options["dump"],
        seed=options["seed"],
    )
    if device.type == "mps":  # which has no float64
        model = model.float()
    Trainer(config, source, model.to(device), on_snapshot).run()
    if distributed.is_main():
        latest = checkpoint.find_network(run_dir)
        print(f"Done. Network: {latest}", flush=True)
    return run_dir
