"""Older networks of the EDM family, as records of names and tensors, turned into our own.

What is read: networks SongUNet, DhariwalUNet and ToyConvUNet, recognised by their name or by the
names of their parameters, within an inflationary preconditioner (any class with g, W, data_eigs,
gamma0, rho, M and space), or within EDMPrecond, VPPrecond or VEPrecond; a ToyConvUNet also within
any class named for EDM that has sigma_data, with W if its network works in an eigenbasis.
"""

from __future__ import annotations

import inspect
import math
import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_utils.files.inert_pickle import Record, RefusedError, quote
from torch_utils.files.inert_values import Array
from torch_utils.files.legacy_pickle import attributes, state_of, submodules
from training.augment import CONVENTION
from training.edm_precond import DENOISERS, METHODS, RECIPES, SIGMA_DATA
from training.networks.image import IMAGE_NETWORKS
from training.networks.toy import ToyConvUNet
from training.schedule import Schedule

NETWORK_KEYS = ("ema", "net", "model")
INFLATION_KEYS = ("g", "W", "data_eigs", "gamma0", "rho", "M", "space")
TMAX_KEYS = ("tmax", "t_max", "end_time", "T_max", "T")
# Of the largest: embedded toys have zeros, whose denoiser is zero too. A D of 1e-8 stays of it.
EIGENVALUE_FLOOR = 1e-16
UNKNOWN = "ToySongUNet"
MAX_DIM = 12_288  # of networks without an eigenbasis, which get an identity matrix


def lift(content: dict[str, Any], file_name: str = "") -> dict[str, Any]:
    """What our own network file would hold.

    Args:
        content: of the older file, see `torch_utils.files.legacy_pickle.read_legacy`.
        file_name: of the file, which may tell how long the network was trained.

    Returns:
        the content of a network file; schedule["tmax"] is None where the file does not tell it.

    Raises:
        RefusedError: one line that says what cannot be used.
    """
    precond = next((content[k] for k in NETWORK_KEYS if isinstance(content.get(k), Record)), None)
    if precond is None:
        raise RefusedError(f"holds no network ({', '.join(NETWORK_KEYS)})")
    inner = submodules(precond).get("model")
    if inner is None:
        raise RefusedError(f"holds the class {quote(precond.name)} without a network in `model`")
    own = attributes(precond)
    network, shape = _network(inner, own)
    if all(k in own for k in INFLATION_KEYS):
        loss = content.get("loss_fn")
        others = attributes(loss) if isinstance(loss, Record) else {}
        parts = _inflation(own, others, shape)
    elif precond.name in DENOISERS and shape is not None:
        parts = _sigma(precond.name, own, shape, math.prod(shape))
    elif shape is None and "EDM" in precond.name and "sigma_data" in own:
        parts = _sigma("EDMPrecond", own, None, network["kwargs"]["in_channels"])
    else:
        raise RefusedError(
            f"holds the class {quote(precond.name)}; preconditioners that are read are "
            f"inflationary ones (with {', '.join(INFLATION_KEYS)}), {', '.join(DENOISERS)}"
        )
    weights = {f"model.{k}": _weight(k, v) for k, v in state_of(inner).items()}
    return {
        "network": network,
        "schedule": parts["schedule"],
        "precond": parts["precond"] | {"augmentation": CONVENTION if shape else None},
        "state": parts["state"] | weights,
        "info": _info(content, precond, shape, file_name),
    }


def _weight(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise RefusedError(f"holds {quote(name)}, which is no tensor of weights")
    return value.float()


def _network(record: Record, precond: dict[str, Any]) -> tuple[dict[str, Any], list[int] | None]:
    """Class and arguments of a network, and the shape of its samples (None for vectors)."""
    state = state_of(record)
    if "dense11.weight" in state:
        first = state["dense11.weight"]
        channels = first.shape[1] if isinstance(first, Tensor) and first.dim() == 2 else 0
        return {"class": ToyConvUNet.__name__, "kwargs": {"in_channels": channels}}, None
    name = record.name
    if name == UNKNOWN:
        raise RefusedError(
            f"holds a {UNKNOWN}, a toy network whose layers are published nowhere but in the code "
            f"that trained it; toys are read with the network {ToyConvUNet.__name__}"
        )
    if name not in IMAGE_NETWORKS:
        if not any(k.startswith("enc.") for k in state):
            raise RefusedError(f"holds a network of class {quote(name)}, which is not known")
        name = "DhariwalUNet" if "out_conv.weight" in state else "SongUNet"
    kwargs = _arguments(IMAGE_NETWORKS[name], record)
    found = {"in_channels": "img_channels", "out_channels": "img_channels", "img_resolution": ""}
    for key, other in found.items():
        if key not in kwargs:
            kwargs[key] = precond.get(key, precond.get(other))
    sizes = [kwargs[k] for k in ("in_channels", "out_channels", "img_resolution")]
    if any(type(n) is not int or not 0 < n < 2**16 for n in sizes) or sizes[0] != sizes[1]:
        raise RefusedError(f"holds a {name} of unknown image size or channels")
    return {"class": name, "kwargs": kwargs}, [sizes[0], sizes[2], sizes[2]]


def _arguments(cls: type, record: Record) -> dict[str, Any]:
    """The constructor's arguments as the older class was given them."""
    known = list(inspect.signature(cls).parameters)
    state = record.state if type(record.state) is dict else {}
    positional, named = state.get("_init_args"), state.get("_init_kwargs")
    given: dict[str, Any] = {}
    if isinstance(positional, (list, tuple)):
        given = dict(zip(known, positional, strict=False))
    given |= {str(k): _plain(v) for k, v in named.items()} if type(named) is dict else {}
    for key in [k for k in given if k not in known]:
        value = given.pop(key)
        if value is not None and value is not False:
            raise RefusedError(f"holds a {cls.__name__} with {quote(key)}, which is not known")
    return given


def _plain(value: Any) -> Any:
    return list(value) if type(value) is tuple else value


def _inflation(
    own: dict[str, Any], others: dict[str, Any], shape: list[int] | None
) -> dict[str, Any]:
    """Schedule, preconditioner and buffers of an inflationary preconditioner."""
    xi = _tensor(own, "data_eigs", 1)
    d = len(xi)
    g, W = _tensor(own, "g", 1), _tensor(own, "W", 2)
    if len(g) != d or W.shape != (d, d) or d < 1 or (shape and math.prod(shape) != d):
        raise RefusedError("holds g, W, data_eigs and a network of different dimensions")
    xi = xi.clamp_min(EIGENVALUE_FLOOR * float(xi.max()))
    if type(own["space"]) is not str or own["space"] not in ("ES", "IS"):
        raise RefusedError(f"has the space {quote(own['space'])}, which is neither ES nor IS")
    if round(_number(own, "M")) != 1000:
        raise RefusedError(f"has M={quote(own['M'])}; 1000 is what can be read")
    settings = _schedule_of(g) | {
        "rho": _number(own, "rho"),
        "gamma0": _number(own, "gamma0"),
        "A0": _number(own, "A0") if "A0" in own else 1.0,
        "tmax": _tmax(own, others),
    }
    precond = {"space": own["space"], "shape": shape, "time_input": "published"}
    return {
        "schedule": settings,
        "precond": precond,
        "state": _buffers(xi, W, settings, g),
    }


def _schedule_of(g: Tensor) -> dict[str, Any]:
    """Settings of `Schedule` that give the exponents g, [d]."""
    d, high, low = len(g), float(g.max()), float(g.min())
    if high == low == 0:
        return {"dims_to_keep": d, "g_type": "constant_inflation_gap", "inflation_gap": 0.0,
                "g_rescaling": 1.0}  # fmt: skip
    keep = int((g == high).sum())
    expected = torch.full_like(g, low)
    expected[:keep] = high
    if high <= 0 or keep == d or not torch.equal(g, expected):
        raise RefusedError("has a schedule g that is of no known kind")
    scale, gap = _short(high), _short(-low / high)
    orig = math.isclose(-low / high, keep / (d - keep), rel_tol=1e-5)
    return {
        "dims_to_keep": keep,
        "g_type": "orig" if orig else "constant_inflation_gap",
        "inflation_gap": 0.0 if orig else gap,
        "g_rescaling": scale,
    }


def _short(value: float) -> float:
    """A number as it was typed, from its float32."""
    return float(f"{value:.6g}")


def _tmax(own: dict[str, Any], others: dict[str, Any]) -> float | None:
    """The end time, where a file of such a network has it: published ones may not."""
    for source in (own, others):
        for key in TMAX_KEYS:
            if key in source:
                return _number(source, key)
    return None


def _sigma(name: str, own: dict[str, Any], shape: list[int] | None, d: int) -> dict[str, Any]:
    """The same of a preconditioner with one noise level for all dimensions.

    A toy's may hold the eigenbasis W that its network works in.
    """
    if d > MAX_DIM:
        raise RefusedError(f"has {d} dimensions; up to {MAX_DIM} are read for a {name}")
    known = list(inspect.signature(DENOISERS[name]).parameters)[1:]
    kwargs = {k: _number(own, k) for k in known if k in own}
    levels = RECIPES[METHODS[name]].levels
    assert levels is not None
    low, high = levels
    settings = {
        **_schedule_of(torch.zeros(d)), "rho": 2.0, "gamma0": low**2, "A0": 1.0,
        "tmax": math.log(high / low),
    }  # fmt: skip
    xi = torch.full((d,), kwargs.get("sigma_data", SIGMA_DATA) ** 2, dtype=torch.float64)
    W = torch.eye(d, dtype=torch.float64)
    if shape is None and "W" in own:
        W = _tensor(own, "W", 2)
        if W.shape != (d, d):
            raise RefusedError("holds W and a network of different dimensions")
    denoiser = {"class": name, "kwargs": kwargs}
    precond = {"space": "ES", "shape": shape, "time_input": "published", "denoiser": denoiser}
    return {
        "schedule": settings,
        "precond": precond,
        "state": _buffers(xi, W, settings, torch.zeros(d).double()),
    }


def _buffers(xi: Tensor, W: Tensor, settings: dict[str, Any], g: Tensor) -> dict[str, Tensor]:
    """Buffers of the flow; published networks have mean 0."""
    schedule = Schedule(xi, **(settings | {"tmax": settings["tmax"] or 1.0}))
    if not torch.allclose(schedule.g, g, rtol=1e-4, atol=1e-6):
        raise RefusedError("has a schedule g that is of no known kind")
    state = {f"schedule.{k}": v for k, v in schedule.state_dict().items()}
    return {"mean": torch.zeros_like(xi), "scale": torch.ones_like(xi), "W": W, **state}


def _tensor(own: dict[str, Any], name: str, dims: int) -> Tensor:
    """An attribute as float64 numbers, [d] or [d, d]."""
    value = own[name].value if isinstance(own[name], Array) else own[name]
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.astype(np.float64))
    elif type(value) is list and all(type(v) in (int, float) for v in value):
        value = torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, Tensor) or value.dim() != dims or not value.numel():
        raise RefusedError(f"holds {name} in an unknown form")
    value = value.double()
    if not bool(value.isfinite().all()):
        raise RefusedError(f"holds {name} with values that are not finite")
    return value


def _number(own: dict[str, Any], name: str) -> float:
    """An attribute as a finite number, which may be a tensor or array of one."""
    value = own[name].value if isinstance(own[name], Array) else own[name]
    if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1:
        value = _short(float(value.reshape(-1)[0]))
    if type(value) not in (int, float) or not math.isfinite(value):
        raise RefusedError(f"holds {name} in an unknown form")
    return float(value)


def _info(
    content: dict[str, Any], precond: Record, shape: list[int] | None, file_name: str
) -> dict[str, Any]:
    """What is known of the training."""
    given = content.get("dataset_kwargs")
    data = given if type(given) is dict else {}
    named = data.get("data_name") or data.get("dset_name") or (data.get("path") if shape else None)
    info: dict[str, Any] = {
        "data": {"kind": "images" if shape else "toy"},
        "licence": "unknown",
        "origin": f"older file of the EDM family ({precond.name})",
    }
    if type(named) is str and named:
        plain = PurePosixPath(named.replace("\\", "/")).stem
        info["data"]["name"] = re.sub(r"[^\w.-]", "_", plain)[:80]
    wide = data.get("augment_to")
    if shape is None and type(wide) is int and 0 < wide <= MAX_DIM:
        info["data"] |= {"augment_to": wide, "embedding": "orthonormal"}
    kimg = re.search(r"network-snapshot-(\d{1,9})\.pkl$", file_name)
    if kimg:
        info["kimg"] = float(kimg[1])
    return info
