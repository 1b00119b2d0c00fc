"""What network files, training states and kept eigenbases must hold: see docs/file-formats.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from torch_utils.files.inert_pickle import quote

MAX_SIZE = 2**16  # of any number that is a size: channels, resolution, classes
MAX_REPEATS = {"num_blocks": 64, "depth": 256}
MAX_LIST = 16
BASIS = ("mean", "scale", "W", "schedule.xi")
# Number -> the range that it must be in.
RANGES = {
    "inflation_gap": (-1e6, 1e6),
    "g_rescaling": (-1e6, 1e6),
    "rho": (1e-9, 1e6),
    "gamma0": (1e-30, 1e6),
    "A0": (1e-9, 1e9),
    "tmax": (1e-9, 1e6),
}
_PRECOND = {"space": (str,)} | dict.fromkeys(
    ("time_input", "output", "augmentation"), (str, type(None))
)
_PLAIN = (str, int, float, bool, type(None))


def check(content: dict[str, Any], kind: str) -> None:
    """Check that a file of a kind holds what it must, of the right types.

    Args:
        content: what was read.
        kind: "network", "training-state" or "basis".

    Raises:
        ValueError: naming the entry.
    """
    for name, entry in _ENTRIES[kind].items():
        if name not in content:
            raise ValueError(f"lacks the entry {name!r}")
        if not isinstance(content[name], entry) or (entry is int and content[name] is True):
            raise ValueError(f"has the entry {name!r} as a {type(content[name]).__name__}")
    _CHECKS[kind](content)


def _network(content: dict[str, Any]) -> None:
    state, network, precond = content["state"], content["network"], content["precond"]
    _check_state(state, "state")
    if type(network.get("class")) is not str or type(network.get("kwargs")) is not dict:
        raise ValueError("has a network that is not {class, kwargs}")
    for name, value in network["kwargs"].items():
        _check_argument(name, value)
    _check_schedule(content["schedule"])
    shape = precond.get("shape")
    if shape is not None and not (
        type(shape) is list
        and 0 < len(shape) < 5
        and all(type(n) is int and 0 < n < MAX_SIZE for n in shape)
    ):
        raise ValueError("has a precond whose shape is no list of sizes")
    for name, kind in _PRECOND.items():
        if not isinstance(precond.get(name), kind):
            raise ValueError(f"has a precond whose {name} is missing or no text")
    _check_denoiser(precond.get("denoiser"))
    _check_basis([state.get(name) for name in BASIS])
    _check_info(content["info"], "info")


def _check_denoiser(denoiser: Any) -> None:
    if denoiser is None:
        return
    if type(denoiser) is not dict or type(denoiser.get("class")) is not str:
        raise ValueError("has a denoiser that is not {class, kwargs}")
    kwargs = denoiser.get("kwargs")
    if type(kwargs) is not dict or not all(
        type(v) in (int, float) and 0 < v < MAX_SIZE for v in kwargs.values()
    ):
        raise ValueError("has a denoiser with arguments that are no positive numbers")


def _check_argument(name: Any, value: Any) -> None:
    values = value if type(value) is list else [value]
    if type(name) is not str or len(values) > MAX_LIST:
        raise ValueError(f"has the network argument {quote(name)} in an unknown form")
    for x in values:
        size = type(x) in (int, float) and not (0 <= x < MAX_REPEATS.get(name, MAX_SIZE))
        if type(x) not in _PLAIN or size:
            raise ValueError(f"has the network argument {quote(name)}={quote(x)} out of range")


def _check_schedule(schedule: dict[str, Any]) -> None:
    if type(schedule.get("dims_to_keep")) is not int:
        raise ValueError("has a schedule without dims_to_keep")
    for name, (low, high) in RANGES.items():
        value = schedule.get(name)
        value = high if value is None else value  # left out; an older file may lack its tmax
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(
                f"has the schedule's {name}={quote(value)} outside {low:g} to {high:g}"
            )


def _check_basis(tensors: list[Any]) -> None:
    mean, scale, W, xi = tensors
    if not all(isinstance(x, Tensor) and x.is_floating_point() for x in tensors):
        raise ValueError(f"lacks the eigenbasis: {', '.join(BASIS)}")
    d = len(xi) if xi.dim() == 1 else -1
    if mean.shape != (d,) or scale.shape != (d,) or W.shape != (d, d) or d < 1:
        raise ValueError("has an eigenbasis whose parts do not fit each other")
    if not all(bool(x.isfinite().all()) for x in tensors):
        raise ValueError("has an eigenbasis with values that are not finite")
    if bool((xi <= 0).any()) or float(xi.max()) > 1e30 or float(xi.min()) < 1e-30:
        raise ValueError("has eigenvalues that are no variances")


def _check_state(state: dict[str, Any], name: str) -> None:
    for key, value in state.items():
        if type(key) is not str or not isinstance(value, Tensor):
            raise ValueError(f"has {quote(key)} in {name!r}, which is no tensor")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"has values in {quote(key)} that are not finite")


def _check_info(value: Any, name: str) -> None:
    """Check that a value is what JSON can say."""
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"has a key in {name!r} that is no text")
            _check_info(item, name)
    elif type(value) in (list, tuple):
        for item in value:
            _check_info(item, name)
    elif type(value) not in _PLAIN:
        raise ValueError(f"has a {type(value).__name__} in {name!r}")
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"has a number in {name!r} that is not finite")


def _training_state(content: dict[str, Any]) -> None:
    for name in ("model", "ema"):
        _check_state(content[name], name)
    if content["nimg"] < 0 or {"state", "param_groups"} - content["optimizer"].keys():
        raise ValueError("has an optimizer or progress in an unknown form")


def _basis(content: dict[str, Any]) -> None:
    _check_basis([content[name] for name in ("mean", "scale", "W", "xi")])


_ENTRIES: dict[str, dict[str, type]] = {
    "network": dict.fromkeys(("network", "schedule", "precond", "state", "info"), dict),
    "training-state": {"nimg": int, "model": dict, "ema": dict, "optimizer": dict},
    "basis": {"mean": Tensor, "scale": Tensor, "xi": Tensor, "W": Tensor, "floored": int},
}
_CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "network": _network,
    "training-state": _training_state,
    "basis": _basis,
}
