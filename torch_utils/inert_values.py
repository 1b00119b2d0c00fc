"""What stands for names of Python and NumPy in `inert_pickle`: containers, bytes, arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from torch_utils.inert_pickle import Inert, RefusedError, plain_set, quote


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
    return np.frombuffer(raw, np.dtype(dtype.order + dtype.code)).reshape(shape, order=order)  # type: ignore[call-overload]


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
    "numpy.dtype": _Dtype,
    "numpy.ndarray": None,  # only ever an argument of _reconstruct
}
for _package in ("numpy.core", "numpy._core"):
    PLAIN |= {
        f"{_package}.multiarray._reconstruct": Array,
        f"{_package}.multiarray.scalar": _scalar,
        f"{_package}.numeric._frombuffer": _array,
    }
