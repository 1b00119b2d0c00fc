"""Files of torch.save read as data, by `inert_pickle` and with checked sizes.

torch.load(weights_only=True) runs no code from a file either, but takes memory as the file says:
bytearray(10**12), or a tensor much larger than its storage, are among what it allows. Here a
tensor must lie within its storage, and no storage is larger than the file.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from torch_utils.files.inert_pickle import Names, RefusedError, quote, read, table
from torch_utils.files.inert_values import PLAIN, check_size

ZIP_MAGIC = b"PK\x03\x04"
# How every file begins that torch.save wrote before it wrote zip archives: a number, a version.
STREAM_MAGIC, STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001
PURPOSE = "which no network file needs"
UNFOLDED = 4  # how many times its own size a file may hold, repeated values counted again
SLACK = 2**20
MAX_DIRECTORY = 2**24  # bytes of a zip archive's list of entries: some 150,000
MAX_PICKLE = 2**28  # bytes of the pickle in a zip archive, which holds no tensors

_DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Storage:
    """Memory of tensors, as a file describes it.

    Attributes:
        dtype: of its elements.
        data: 1-D; None until it is read.
        used: elements that tensors have taken; no element is given to two.
    """

    dtype: torch.dtype
    data: Tensor | None = None
    used: int = 0


def _from_bytes(raw: bytes, dtype: torch.dtype) -> Tensor:
    if not raw:
        return torch.empty(0, dtype=dtype)
    own = bytearray(raw)  # which may be written to
    if dtype == torch.bool:  # of which other bytes than 0 and 1 are no value
        return torch.frombuffer(own, dtype=torch.uint8) != 0
    return torch.frombuffer(own, dtype=dtype)


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: Any, **__: Any
) -> Tensor:
    """A tensor within its storage; whether it wants gradients, and its hooks, are left out."""
    if type(storage) is not Storage or storage.data is None:
        raise RefusedError("holds a tensor in an unknown form")
    if not (type(size) is type(stride) is tuple) or not len(size) == len(stride) <= 8:
        raise RefusedError("holds a tensor in an unknown form")
    numbers = (offset, *size, *stride)
    if any(type(n) is not int or not 0 <= n < 2**48 for n in numbers):
        raise RefusedError("holds a tensor of impossible shape")
    count, available = math.prod(size), len(storage.data)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if count else 0
    if last >= max(available, 1) or count > available - storage.used:
        raise RefusedError(
            f"holds a tensor of shape {list(size)} over {available - storage.used} numbers"
        )
    storage.used += count
    return storage.data.as_strided(size, stride, offset) if count else storage.data.new_empty(size)


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise RefusedError("holds a parameter that is no tensor")
    return data


TENSORS: dict[str, Any] = {
    **PLAIN,
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    **{str(dtype): dtype for dtype in _DTYPES.values()},
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes: sizes if type(sizes) is tuple else (),
    "torch.device": lambda *parts: ":".join(quote(part) for part in parts),
}
STATE_NAMES = table({k: v for k, v in TENSORS.items() if "numpy" not in k}, PURPOSE)


def _described(pid: Any) -> tuple[torch.dtype, str, int]:
    """dtype, key and number of elements that a persistent id tells."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise RefusedError("refers to data outside itself in an unknown form")
    dtype, key, count = pid[1], pid[2], pid[4]
    if len(pid) == 6 and pid[5] is not None:
        raise RefusedError("holds a view of a storage in an unknown form")
    if not isinstance(dtype, torch.dtype) or type(key) is not str or type(count) is not int:
        raise RefusedError("refers to a storage in an unknown form")
    return dtype, key, count


def read_zip(file: IO[bytes], names: Names = STATE_NAMES) -> Any:
    """What torch.save wrote, as plain values and CPU tensors.

    Args:
        file: a zip archive, open for reading.
        names: what stands for a name, see `inert_pickle.table`.

    Raises:
        RefusedError: one line that says why.
    """
    try:
        length = file.seek(0, io.SEEK_END)
        _check_directory(file, length)
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, length, names)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, struct.error) as error:
        raise RefusedError(f"is not a whole zip archive ({quote(str(error))})") from None
    except (UnicodeDecodeError, ValueError, RuntimeError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(f"is damaged ({quote(str(error))})") from None


def _check_directory(file: IO[bytes], length: int) -> None:
    """Check that the list of entries, which zipfile reads whole, is not huge."""
    file.seek(max(0, length - 2**16 - 100))
    tail = file.read()
    file.seek(0)
    end = tail.rfind(b"PK\x05\x06")
    if tail[-22:].startswith(b"PK\x05\x06"):
        end = len(tail) - 22
    sizes = [tail[end + 12 : end + 16]]
    if tail[end - 20 : end].startswith(b"PK\x06\x07"):  # large archives say it again before
        sizes = [tail[end - 36 : end - 28]]
    if end < 0 or any(int.from_bytes(size, "little") > MAX_DIRECTORY for size in sizes):
        raise RefusedError("is a damaged zip archive, or one with too many entries")


def _read_archive(archive: zipfile.ZipFile, length: int, names: Names) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    stored = all(
        info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        for info in entries.values()
    )
    size = sum(info.file_size for info in entries.values())
    if len(entries) < len(archive.infolist()) or not stored or size > length:
        raise RefusedError("is a zip archive with repeated, packed or overlapping entries")
    roots = [n.removesuffix("/data.pkl") for n in entries if n.count("/") == 1]
    roots = [root for root in roots if f"{root}/data.pkl" in entries]
    if len(roots) != 1 or entries[f"{roots[0]}/data.pkl"].file_size > MAX_PICKLE:
        raise RefusedError("is a zip archive, but not of torch.save")
    root = roots[0]
    order = entries.get(f"{root}/byteorder")
    if order is not None and (order.file_size > 9 or archive.read(order) != b"little"):
        raise RefusedError("was written on a machine of another byte order")
    storages: dict[str, Storage] = {}

    def storage(pid: Any) -> Storage:
        dtype, key, count = _described(pid)
        if key not in storages:
            info = entries.get(f"{root}/data/{key}")
            if info is None or info.file_size != count * dtype.itemsize:
                raise RefusedError(f"lacks the data of storage {quote(key)}, or has too much of it")
            storages[key] = Storage(dtype, _from_bytes(archive.read(info), dtype))
        if storages[key].dtype != dtype:
            raise RefusedError("reads one storage as two kinds of numbers")
        return storages[key]

    value = read(archive.read(f"{root}/data.pkl"), names, storage)
    check_size(value, UNFOLDED * length + SLACK)
    return value


def read_storage(raw: Any) -> Storage:
    """A storage within a pickle: what torch.storage._load_from_bytes is given.

    Args:
        raw: bytes of a small file of torch.save, of either layout, that holds one storage.
    """
    if type(raw) is not bytes:
        raise RefusedError("holds a storage in an unknown form")
    file = io.BytesIO(raw)
    value = read_zip(file) if raw[:4] == ZIP_MAGIC else _read_stream(file, len(raw))
    if type(value) is not Storage:
        raise RefusedError("holds a storage in an unknown form")
    return value


def _read_stream(file: IO[bytes], length: int) -> Any:
    """A storage in the layout that torch.save had before zip archives."""
    if (read(file, STATE_NAMES), read(file, STATE_NAMES)) != (STREAM_MAGIC, STREAM_VERSION):
        raise RefusedError("holds a storage in an unknown form")
    system = read(file, STATE_NAMES)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("was written on a machine of another byte order")
    described: list[tuple[torch.dtype, str, int]] = []

    def promise(pid: Any) -> Storage:
        described.append(_described(pid))
        return Storage(described[-1][0])

    value = read(file, STATE_NAMES, promise)
    keys = read(file, STATE_NAMES)
    if len(described) != 1 or type(value) is not Storage or keys != [described[0][1]]:
        raise RefusedError("holds a storage in an unknown form")
    dtype, _, count = described[0]
    (stated,) = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))
    if stated != count or length - file.tell() != count * dtype.itemsize:
        raise RefusedError("holds a storage that is shorter or longer than it says")
    value.data = _from_bytes(file.read(), dtype)
    return value
