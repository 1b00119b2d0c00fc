"""What users pass to a flow from Python, checked like a command line.

Every error is a ValueError of one line that names the argument.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor

from flow.coordinates import Coordinates
from flow.steppers import PAPER_SOLVERS, SOLVERS
from training.data.table_columns import shown


class How(TypedDict, total=False):
    """How to integrate: keyword arguments of `Integrator.carry`, which says what they are."""

    solver: str
    steps: int
    times: Sequence[float] | None
    callback: Callable[[int, float, Tensor], None] | None
    differentiable: bool
    rtol: float
    atol: float
    coupling: float


class VolumeHow(How, total=False):
    """The same, and keyword arguments of `likelihood.inflate_with_volume`."""

    trace: Any
    probes: int
    seed: int
    start: int
    progress: Callable[[int], Any] | None


def rows(x: Any, d: int, columns: list[str] | None = None) -> Tensor:
    """Finite numbers [n, d] of a tensor, an array, nested lists or a pandas DataFrame.

    Args:
        x: what the user passed.
        d: columns that there must be.
        columns: names of these, by which a DataFrame is read; None to take its columns as they are.

    Raises:
        ValueError: what is wrong with it.
    """
    if hasattr(x, "columns") and hasattr(x, "dtypes"):
        x = _of_frame(x, columns)
    if not isinstance(x, Tensor):
        try:
            array = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a {type(x).__name__} is no array of numbers [n, {d}]") from error
        if array.dtype.kind not in "fiub":
            raise ValueError(f"an array of {array.dtype} holds no real numbers; convert it first")
        x = torch.from_numpy(np.array(array, dtype=np.float64))
    if x.is_complex():
        raise ValueError(f"a tensor of {x.dtype} holds no real numbers; convert it first")
    if x.dim() != 2 or x.shape[1] != d:
        raise ValueError(
            f"this flow has {d} dimensions; got an array of shape {tuple(x.shape)}, not [n, {d}]"
        )
    bad = (~torch.isfinite(x)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{len(bad)} values are NaN or infinite, the first in row {row}, column {column} "
            "(counted from 0); remove or fill them"
        )
    return x


def _of_frame(frame: Any, columns: list[str] | None) -> np.ndarray:
    names = [str(name).strip() for name in frame.columns]
    if columns is not None:
        lacking = [name for name in columns if names.count(name) != 1]
        if lacking:
            raise ValueError(
                f"the DataFrame must have the columns {shown(columns)}, each once, and has "
                f"{shown(names)}; for values in that order pass its .to_numpy()"
            )
        frame = frame.iloc[:, [names.index(name) for name in columns]]
    for name, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if getattr(dtype, "kind", "O") not in "fiub":
            raise ValueError(
                f"the DataFrame's column {str(name)!r} holds {dtype}, not numbers; select others"
            )
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


def check_coordinates(coords: Any) -> None:
    """Check the name of coordinates.

    Raises:
        ValueError: naming those that exist.
    """
    if coords not in get_args(Coordinates):
        raise ValueError(f"coords={coords!r} is none of {', '.join(get_args(Coordinates))}")


def check_integration(
    solver: Any, steps: Any, times: Sequence[float] | None, settings: Mapping[str, Any], graph: bool
) -> None:
    """Check arguments of `Integrator.integrate`.

    Raises:
        ValueError: naming the argument.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}: known are {', '.join(SOLVERS)}")
    if solver in PAPER_SOLVERS:
        if times is None or len({float(t) for t in times}) < 2:
            raise ValueError(
                f"solver={solver!r} is the paper's and needs a grid: times=ifs_times(...) or "
                f"vp_ode_times(...); in the angle it is solver='angle_{solver}'"
            )
    else:
        whole("steps", steps, 1)
        if times is not None:
            raise ValueError(f"times is for {' and '.join(PAPER_SOLVERS)}, not for {solver!r}")
    taken = inspect.signature(SOLVERS[solver]).parameters
    for name, value in settings.items():
        if name not in taken:
            raise ValueError(
                f"solver={solver!r} has no {name}; it has {', '.join(taken) or 'none'}"
            )
        positive(name, value)
    if graph and torch.is_inference_mode_enabled():
        raise ValueError("differentiable=True: torch.inference_mode keeps no graph; leave it first")


def check_latents(n: Any, seed: Any, eps: Any, start: Any) -> None:
    """Check arguments of `Flow.latents`.

    Raises:
        ValueError: naming the argument.
    """
    whole("n", n, 0)
    whole("seed", seed, 0)
    whole("start", start, 0)
    if eps is not None:
        positive("eps", eps)


def check_state(dtype: Any) -> None:
    """Check the dtype of a flow's states.

    Raises:
        ValueError: if it is not one.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype!r}: give torch.float64 or torch.float32")


def whole(name: str, value: Any, least: int) -> None:
    """Check that an argument is a whole number, not less than `least`.

    Raises:
        ValueError: naming it.
    """
    right = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not right or value < least:
        raise ValueError(f"{name}={value!r}: give a whole number, {least} or more")


def positive(name: str, value: Any) -> None:
    """Check that an argument is a positive finite number.

    Raises:
        ValueError: naming it.
    """
    right = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not right or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: give a number above 0")
