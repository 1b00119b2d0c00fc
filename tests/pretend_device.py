"""An Apple GPU that is not there: tensors that say they are on one, and refuse float64 as it does.

They hold a tensor of the CPU, which does the work. As on the device, what mixes them with tensors
of the CPU fails, and only a copy brings their numbers back. The bytes that they hold are counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from torch_utils import distributed

NAME = "mps"
PRETEND = torch.device(NAME)
INSIDE = torch.device("meta")  # what PyTorch itself takes the tensors to be on
REFUSED = (torch.float64, torch.complex128)
aten = torch.ops.aten
# Operations that take tensors of two devices: copies, and indices of the CPU.
MIXED = {
    aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default,
    aten._index_put_impl_.default,
}  # fmt: skip


class OnDevice(Tensor):
    """A tensor on the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        if inner.dtype in REFUSED:
            raise TypeError(f"Cannot convert a MPS Tensor to {inner.dtype}: it is not supported")
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=INSIDE,
        )  # fmt: skip

    def __init__(self, inner: Tensor):
        self.inner = inner
        key = id(self)
        Memory.live[key] = weakref.ref(self, lambda _: Memory.live.pop(key, None))

    @property
    def device(self) -> torch.device:
        return PRETEND

    @classmethod
    def __torch_dispatch__(cls, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(f, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class Memory:
    """What the device holds: tensors that live, and the most bytes since `reset`."""

    live: dict[int, weakref.ref] = {}  # noqa: RUF012  (of the one device that there is)
    peak = 0

    @classmethod
    def held(cls) -> int:
        """Bytes that living tensors hold, those that several share counted once."""
        tensors = [t for t in (ref() for ref in list(cls.live.values())) if t is not None]
        storages = [t.inner.untyped_storage() for t in tensors if hasattr(t, "inner")]
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def dispatch(f: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation on the tensors inside; what comes out is on the device where it should be."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in given if isinstance(x, OnDevice)]
    strangers = [x for x in given if not isinstance(x, OnDevice) and x.dim()]
    if there and strangers and f not in MIXED:
        raise RuntimeError(f"{f}: tensors on {NAME} and on the CPU")
    on_device = isinstance(args[0], OnDevice) if f in MIXED else bool(there)
    wanted = kwargs.get("device")
    if wanted is not None:
        on_device = torch.device(wanted).type in (NAME, INSIDE.type)
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map(_inner, (args, kwargs))
    found = f(*args, **kwargs)
    if not on_device:
        return found
    if f._schema.name.endswith("_") and there:  # in place
        return there[0] if f._schema.returns else None
    found = tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, found)
    Memory.peak = max(Memory.peak, Memory.held())
    return found


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, OnDevice) else x


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(f, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Lets PyTorch, which was built without such devices, hear of them by another name."""

    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if f is torch.device:
            return f(*args, **(kwargs or {}))
        if f is torch.Tensor.tolist:
            args = (args[0].cpu(),)
        if f is torch.Tensor.numpy and isinstance(args[0], OnDevice):
            raise TypeError("can't convert mps:0 device type tensor to numpy")
        args, kwargs = tree_map(_renamed, (args, kwargs or {}))
        if f in (torch.tensor, torch.as_tensor) and kwargs.get("device") == INSIDE:
            return f(*args, **{**kwargs, "device": None}).to(INSIDE)
        return f(*args, **kwargs)


def _renamed(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == NAME:
        return INSIDE
    return INSIDE if isinstance(x, str) and x == NAME else x


@contextmanager
def pretend_device(monkeypatch: Any) -> Iterator[type[Memory]]:
    """While the block lasts, --device=mps and .to("mps") mean the pretended device."""
    honest = distributed.pick_device
    monkeypatch.setattr(
        distributed, "pick_device", lambda name="auto": PRETEND if name == NAME else honest(name)
    )
    Memory.peak = 0
    with _Functions(), _Dispatch():
        yield Memory
    distributed._device = torch.device("cpu")
