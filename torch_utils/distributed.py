"""Processes and devices: the same code under torchrun with any number of processes and without it.

The default device is set before the first collective runs, so no rank ever talks to another
rank's GPU. Work on ODEs is never wrapped in DDP: each rank owns its samples (`share`).
"""

from __future__ import annotations

import inspect
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dnnlib.cli import UserError
from torch_utils.peers import (
    agree,
    local_rank,
    local_world_size,
    of_rank0,
    rank,
    together,
    world_size,
)

T = TypeVar("T")
SMALL = 2e9  # operations of a network on one batch, below which one thread does best

_device = torch.device("cpu")
_tf32 = False
_threads = torch.get_num_threads()


def pick_device(name: str = "auto") -> torch.device:
    """Turn --device (auto, cpu, cuda, cuda:N, mps) into this process's device.

    Raises:
        ValueError: if the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device={name}: not one of auto, cpu, cuda, mps")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device={name}: no CUDA device here; use --device=cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device=mps: no Apple GPU here; use --device=cpu")
    if name == "cuda":
        name = f"cuda:{local_rank() % torch.cuda.device_count()}"
    return torch.device(name)


def init(device: str = "auto") -> torch.device:
    """Choose this process's device and, under torchrun, join the process group.

    Returns:
        the device that this rank computes on.
    """
    global _device
    _device = pick_device(device)
    set_tf32(_tf32)
    if _device.type == "cuda":
        torch.cuda.set_device(_device)
    agree({f"--device={_device.type}": _device.type})
    if together() and not dist.is_initialized():
        if os.name == "nt":
            os.environ.setdefault("USE_LIBUV", "0")  # Windows builds lack libuv
        on_gpu = _device.type == "cuda" and os.name != "nt"
        dist.init_process_group(
            backend="nccl" if on_gpu else "gloo",
            init_method="env://",
            timeout=timedelta(minutes=60),
            device_id=_device if on_gpu else None,
        )
    return _device


def set_tf32(allowed: bool) -> None:
    """Turn TF32 on, or off, as `init` does: PyTorch leaves it on for convolutions."""
    settings: Any = torch.backends
    matmul, cudnn = settings.cuda.matmul, settings.cudnn
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    if hasattr(settings, "fp32_precision"):  # since 2.9; where that was set, it decides
        for part in (settings, matmul, cudnn, cudnn.conv, cudnn.rnn):
            part.fp32_precision = "tf32" if allowed else "ieee"


def compiles(device: str) -> bool:
    """Whether torch.compile is worth its time on such a device: on CUDA that has Triton."""
    return device == "cuda" and find_spec("triton") is not None


def allow_tf32(device: torch.device) -> None:
    """Let this process round products of float32 numbers to 10 bits, from now on (--tf32).

    Raises:
        UserError: if the device does not do that.
    """
    global _tf32
    if device.type != "cuda":
        raise UserError(f"--tf32: a --device={device.type} has no TF32; leave it out")
    _tf32 = True
    set_tf32(True)


def tf32_allowed() -> bool:
    """Whether `allow_tf32` was called in this process."""
    return _tf32


def use_threads(operations: float) -> None:
    """Choose this process's threads by the size of the work; a number in OMP_NUM_THREADS stays.

    Threads of small work spend their time waiting for each other, and on a busy machine for their
    turn as well: two took three times as long there as one.

    Args:
        operations: of a network on one batch, see `training.precond.FieldModel.operations`.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if operations < SMALL else _threads)


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def session(device: str = "auto") -> Iterator[torch.device]:
    """`init` at the start of the block and `shutdown` at its end.

    After an error the group stays until the other processes have been told of it (`peers.tell`):
    they would take its end for an error of their own.
    """
    try:
        yield init(device)
    except BaseException:
        if world_size() == 1:
            shutdown()
        raise
    shutdown()


def device() -> torch.device:
    """The device chosen by `init` (the CPU before it)."""
    return _device


def launcher() -> str | None:
    """A name for the torchrun that started this process, which no other has; None without one."""
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return None
    parts = [socket.gethostname(), str(os.getppid())]
    with suppress(OSError, IndexError):  # Linux: processes of other times may have the number
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        stat = Path(f"/proc/{os.getppid()}/stat").read_text()
        parts.append(stat.rpartition(")")[2].split()[19])  # when it was started
    return " ".join(parts)


def restarted() -> bool:
    """Whether torchrun started this process in place of one that died (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_main() -> bool:
    """Whether this is rank 0, the one that prints and writes."""
    return rank() == 0


def print0(*args: object) -> None:
    """Print on rank 0 only."""
    if is_main():
        print(*args, flush=True)


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def rank0_first() -> Iterator[None]:
    """Run the block on rank 0, then on the others: downloads and caches are filled once."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def broadcast(value: T) -> T:
    """Rank 0's value, a plain Python object, on every rank."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0, device=_device)
    return box[0]


def broadcast_(tensor: Tensor) -> Tensor:
    """Overwrite a tensor with rank 0's, in place, and return it."""
    if dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor


def all_sum_(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over all ranks, in place, and return it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_objects(value: T) -> list[T]:
    """The values of all ranks, plain Python objects or CPU tensors, on every rank."""
    if not dist.is_initialized():
        return [value]
    found = [value] * world_size()
    dist.all_gather_object(found, value)
    return found


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank."""
    return bool(all_sum_(torch.tensor(float(flag), device=_device)) > 0)


def check_shared(folder: str | Path, option: str) -> None:
    """Check that all processes write to one disk, where each writes files of its own.

    Raises:
        UserError: naming the option, and a process that has another.
    """
    if world_size() == local_world_size():
        return
    mark = Path(folder) / of_rank0(lambda: f".{secrets.token_hex(8)}")
    if is_main():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    deadline = time.monotonic() + 10  # of network disks, which remember what was not there
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    there = "the disk of rank 0" if mark.exists() else "a disk of its own"
    agree({f"{option}={folder} on {there}": there})
    if is_main():
        mark.unlink()


def share(count: int, block: int) -> list[range]:
    """This rank's blocks of range(count): whole blocks of fixed size, dealt in turn.

    Because blocks do not depend on the number of processes, neither do results computed block
    by block.
    """
    blocks = [range(i, min(i + block, count)) for i in range(0, count, block)]
    return blocks[rank() :: world_size()]


def gather_blocks(blocks: list[Tensor], count: int, block: int) -> Tensor | None:
    """Undo `share`: on rank 0 the rows of all ranks in order, [count, ...]; elsewhere None."""
    mine = [b.cpu() for b in blocks]
    if not dist.is_initialized():
        return torch.cat(mine) if mine else None
    boxes: list | None = [None] * world_size() if is_main() else None
    dist.gather_object(mine, boxes, dst=0)
    if boxes is None:
        return None
    number = -(-count // block)
    return torch.cat([boxes[i % world_size()][i // world_size()] for i in range(number)])


def data_parallel(module: nn.Module) -> nn.Module:
    """The module ready for distributed training: DDP if there are several processes."""
    if world_size() == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    DDP = nn.parallel.DistributedDataParallel
    known = inspect.signature(DDP).parameters  # buffers are alike on all ranks, and stay so
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    ids = [_device] if _device.type == "cuda" else None
    options: dict[str, Any] = {"device_ids": ids, name: False, "gradient_as_bucket_view": True}
    return DDP(module, **options)
