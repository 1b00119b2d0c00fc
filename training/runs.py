"""Runs of training: the options are resolved, a folder is made or found, and the loop runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.util import Logger, fill_dir, next_run_dir, write_json
from torch_utils import checkpoint, distributed
from torch_utils.peers import agree_on_file, of_rank0
from torch_utils.seeding import BLOCKS
from training.data.source import Source
from training.edm_precond import NOISE_LABELS, RECIPES
from training.network_file import NETWORKS, attention_of, build, load_network, transfer
from training.options import OPTIONS_FILE, TrainOptions
from training.precond import InflationPrecond
from training.resume import LAUNCH_FILE, find_run
from training.times import levels_note
from training.training_loop import Snapshot, Trainer

Trained = TypeVar("Trained", bound=TrainOptions)


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
        options: with what the data and --transfer decide.
        model: seeded, on the CPU; with the weights of --transfer.
        network: class and arguments of its network.
        notes: lines to say before it starts.
    """

    options: TrainOptions
    model: InflationPrecond
    network: dict[str, Any]
    notes: list[str]


def run(options: TrainOptions, draw: Callable[[Any], Snapshot]) -> None:
    """Resolve the options, check them against the data, and train.

    Args:
        options: of the script.
        draw: data -> callback that draws samples of a snapshot; called if the options want it.

    Raises:
        UserError: naming the option, its value and the remedy, before anything is written.
    """
    if "transfer" in options.given and options.resume:
        raise UserError("--transfer starts a run and --resume goes on with one; give one of them")
    opened: dict[str, Source] = {}

    def source_of(options: TrainOptions) -> Source:
        key = repr(options)
        if key not in opened:
            opened[key] = options.open()
        return opened[key]

    where, stored = of_rank0(lambda: find_run(options, source_of))
    options = options.restored(stored)
    if options.outdir is None:
        raise UserError("--outdir is missing: name the folder that run folders go to")
    with cli.user_errors():
        distributed.pick_device(options.device)
    source = source_of(options)
    options = options.filled(source)
    options = replace(options, data_sha256=source.content_hash())
    which, name = options.named
    agree_on_file(f"--{which}", name, options.data_sha256)
    options = options.resolved(source)
    if where is None:
        options = options.begun()
    if options.dry_run:
        distributed.print0(json.dumps(options.record(), indent=2))
        return
    if where is None:
        cli.check_writable(options.outdir, "--outdir")
    try:
        train(options, where and Path(where), source, draw(source) if options.plot else None)
    except (FloatingPointError, ValueError) as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise UserError(_out_of_memory(options)) from error
        if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(
                f"--compile does not work here ({reason}); use --no-compile, or, where it has "
                "worked, delete what it left: torch's TORCHINDUCTOR_CACHE_DIR, by default "
                f"{tempfile.gettempdir()}/torchinductor_*"
            ) from error
        raise


def _out_of_memory(options: TrainOptions) -> str:
    """What to do where a device has not enough memory."""
    mine = -(-options.batch // distributed.world_size())
    size = min(options.batch_gpu or mine, mine)
    if size == 1:
        return "the GPU's memory is too small for one sample at once; use a smaller network"
    return (
        f"the GPU's memory is too small for --batch-gpu={size} samples at once; use --batch-gpu="
        f"{size // 2}, which trains the same network in smaller pieces (go on with --resume=latest)"
    )


def train(
    options: TrainOptions, run_dir: Path | None, source: Source, on_snapshot: Snapshot | None
) -> None:
    """Compute the eigenbasis, build the model, and train.

    Args:
        options: resolved.
        run_dir: run to go on with; None to start one.
        source: the data.
        on_snapshot: draws samples of a snapshot.

    Raises:
        UserError: if options and data do not go together.
        FloatingPointError: if the loss is not finite.
    """
    if options.batch < distributed.world_size():
        raise UserError(
            f"--batch={options.batch} is less than one sample for each of the "
            f"{distributed.world_size()} processes"
        )
    with distributed.session(options.device) as device:
        begun = distributed.of_rank0(
            lambda: run_dir is not None and bool(checkpoint.numbered(run_dir, checkpoint.STATE))
        )
        start = prepare(options, source, fresh=not begun)
        run_dir = _folder(start, source, run_dir)
        trainer = Trainer(
            start.options, run_dir, start.network, source, _placed(start, device), on_snapshot
        )
        if not distributed.is_main():
            trainer.train()
            return
        with Logger(run_dir / "log.txt"):
            write_json(run_dir / OPTIONS_FILE, start.options.record())
            print("\n".join([f"Run folder: {run_dir}", *start.notes]), flush=True)
            trainer.train()
            if trainer.watch.stopped is None:
                print(f"Done. Network: {checkpoint.find_network(run_dir)}", flush=True)
            else:
                print(
                    f"Stopped by {trainer.watch.stopped} at {trainer.nimg / 1000:.1f} kimg, with "
                    f"everything saved. To go on: the same command with --resume={run_dir}",
                    flush=True,
                )


def prepare(options: TrainOptions, source: Source, fresh: bool) -> Start:
    """What a run starts from.

    Args:
        options: resolved.
        source: the data.
        fresh: whether there is no state to go on from, so that --transfer has its part.
    """
    theirs = None
    if options.transfer and fresh:
        with cli.user_errors("--transfer"):
            options, theirs = _to_transfer(options)
    which, name = options.named
    with cli.user_errors(f"--data={name}" if which == "data" else "--data_name"):
        basis = options.basis(source)
    recipe = RECIPES[options.precond]
    if options.precond != "ifs":  # one variance for all dimensions, no rotation
        basis = basis.isotropic(recipe.variance)
    options = options.for_basis(basis)
    network = options.network(source)
    precond: dict[str, Any] = {"space": options.space, "shape": source.shape}
    precond["output"] = recipe.output
    published = getattr(NETWORKS[network["class"]], "time_input", "published") == "published"
    if options.precond in NOISE_LABELS and published:
        precond["time_input"] = options.precond
    torch.manual_seed(options.seed)
    model = build(network, options.schedule(), basis, precond)
    if theirs is not None:
        with cli.user_errors("--transfer"):
            distributed.print0("\n".join(transfer(model, theirs, str(options.transfer))))
    notes = model.schedule.summary(basis.floored)
    notes += levels_note(model.schedule, options.t_sampling, options.weighting)
    notes += options.remarks(source)
    if options.dropout and options.generator == BLOCKS:
        notes.append("Note: dropout masks depend on the number of processes and --batch-gpu")
    return Start(options, model, network, notes)


def _to_transfer(options: Trained) -> tuple[Trained, dict[str, Any]]:
    """The options with the attention of the network file of --transfer, and what that holds.

    Raises:
        ValueError: if it is no network.
    """
    path, _ = checkpoint.agreed_network(str(options.transfer), "--transfer")
    content = load_network(path, fallback_tmax=options.tmax)
    notes = [f"Weight average: half-life {options.ema:g} Mimg at once (--transfer)"]
    attention = attention_of(content, options.arch)
    if attention is not None:
        options = replace(options, attn_resolutions=attention)
        notes.append(f"Attention at resolutions {attention}, as {path} has it (--transfer)")
    distributed.print0("\n".join(notes))
    return options, content


def _folder(start: Start, source: Source, run_dir: Path | None) -> Path:
    """The folder of a run, which rank 0 makes if there is none."""
    options = start.options
    launchers = sorted({x for x in distributed.gather_objects(distributed.launcher()) if x})
    if run_dir is None and distributed.is_main():
        files: dict[str, object] = {OPTIONS_FILE: options.record()}
        if launchers:
            files[LAUNCH_FILE] = {"torchrun": launchers}
        name = f"{source.description()['name']}-{start.model.schedule.name}"
        name += f"-{options.desc}" if options.desc else ""
        if options.nosubdir:
            run_dir = fill_dir(options.outdir, files)
        else:
            run_dir = next_run_dir(options.outdir, name, files)
    return Path(str(distributed.broadcast(run_dir and str(run_dir))))


def _placed(start: Start, device: torch.device) -> InflationPrecond:
    """The model on the device, as that computes it best."""
    options, model = start.options, start.model
    torch.backends.cudnn.benchmark = options.bench
    if model.shape is not None:
        model.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this overload
    if device.type == "mps":  # which has no float64
        model = model.float()
    if device.type == "cpu":
        most = options.batch_gpu or options.batch // distributed.world_size()
        distributed.use_threads(model.operations(most))
    return model.to(device)
