"""What stands for names of Python and NumPy in `inert_pickle`, and how large values may get."""

from __future__ import annotations

from typing import Any

import numpy as np

from torch_utils.files.inert_pickle import (
    MAX_OPERATIONS,
    Inert,
    Record,
    RefusedError,
    plain_set,
    quote,
)

MAX_DEPTH = 100  # containers within containers


class Array(Inert):
    """Stands for a pickled NumPy array.

    Attributes:
        value: the array; None until its state arrives.
    """

    __slots__ = ("value",)

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return 0 if self.value is None else self.value.nbytes

    def build(self, state: Any) -> None:
        """Take (version, shape, dtype, whether in Fortran order, bytes)."""
        _, shape, dtype, fortran, raw = state
        self.value = _array(raw, dtype, shape, "F" if fortran else "C")


class _Dtype(Inert):
    """Stands for a pickled NumPy dtype."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any):
        if not (isinstance(code, str) and code in _DTYPES):
            raise RefusedError(f"holds an array of {quote(code)}, which is no number")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        """Take the byte order out of (version, byte order, ...)."""
        if state[1] not in ("<", ">", "|", "="):
            raise RefusedError("holds an array of unknown byte order")
        self.order = state[1]


_DTYPES = {"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"}


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if type(raw) is str:  # from Python 2
        raw = raw.encode("latin1")
    if type(raw) is not bytes or type(dtype) is not _Dtype or type(shape) is not tuple:
        raise RefusedError("holds an array in an unknown form")
    return np.frombuffer(raw, np.dtype(dtype.order + dtype.code)).reshape(shape, order=order)  # type: ignore[call-overload]  # order is checked to be C or F


def _scalar(dtype: Any, raw: Any) -> Any:
    return _array(raw, dtype, (), "C").item()


def _encode(text: Any, codec: Any) -> bytes:
    """How older protocols write bytes."""
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise RefusedError("holds bytes in an unknown form")
    return text.encode("latin1")


def _ordered(items: Any = ()) -> dict[Any, Any]:
    if type(items) not in (list, tuple) or any(type(p) not in (list, tuple) for p in items):
        raise RefusedError("holds a dict in an unknown form")
    plain_set([key for key, _ in items])  # keys are checked before they are hashed
    return dict(items)


PLAIN: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "builtins.set": plain_set,
    "__builtin__.set": plain_set,
    "_codecs.encode": _encode,
    "builtins.bytes": lambda: b"",  # how older protocols write empty ones
    "__builtin__.bytes": lambda: b"",
    "numpy.dtype": _Dtype,
    "numpy.ndarray": None,  # only ever an argument of _reconstruct
}
for _package in ("numpy.core", "numpy._core"):
    PLAIN |= {
        f"{_package}.multiarray._reconstruct": Array,
        f"{_package}.multiarray.scalar": _scalar,
        f"{_package}.numeric._frombuffer": _array,
    }


def check_size(value: Any, limit: int, nodes: int = MAX_OPERATIONS) -> None:
    """Check that a value, written out with all that it repeats, is not larger than it should be.

    A few hundred bytes of pickle can refer to each other so that a walk would never end.

    Args:
        value: what `read` gave.
        limit: bytes of tensors, arrays and text, those that are referred to twice counted twice.
        nodes: containers and values, counted likewise.

    Raises:
        RefusedError: if it is larger, deeper than MAX_DEPTH, or contains itself.
    """
    known: dict[int, tuple[int, int, int]] = {}

    def measure(x: Any, depth: int) -> tuple[int, int, int]:  # nodes, bytes, height
        if depth > MAX_DEPTH:
            raise RefusedError(f"is nested more than {MAX_DEPTH} deep, or contains itself")
        if id(x) in known:
            found = known[id(x)]
            if depth + found[2] > MAX_DEPTH:
                raise RefusedError(f"is nested more than {MAX_DEPTH} deep")
            return found
        total, size, height = 1, getattr(x, "nbytes", len(x) if type(x) in (str, bytes) else 0), 0
        for child in _children(x):
            n, b, h = measure(child, depth + 1)
            total, size, height = total + n, size + b, max(height, h + 1)
        known[id(x)] = total, size, height
        if total > nodes:
            raise RefusedError(f"holds more than {nodes} values")
        if size > limit:
            raise RefusedError(f"unfolds to more than {limit} bytes")
        return known[id(x)]

    measure(value, 0)


def _children(x: Any) -> Any:
    if isinstance(x, dict):
        return [*x.keys(), *x.values()]
    if isinstance(x, (list, tuple, set)):
        return x
    if isinstance(x, Record):
        return (x.state,)
    return ()
