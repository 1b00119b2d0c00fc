"""Network files: from what one holds to a model and back, of any layout and age."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torch_utils import checkpoint
from training.augment import CONVENTION, OPPOSITE
from training.basis import Basis
from training.legacy import lift
from training.networks.image import IMAGE_NETWORKS, PRESETS
from training.networks.toy import TOY_NETWORKS
from training.precond import DenoiserField, InflationPrecond
from training.schedule import Schedule

AUGMENT_WEIGHT = "model.map_augment.weight"  # [width, LABELS]
NETWORKS: dict[str, type[nn.Module]] = {**TOY_NETWORKS, **IMAGE_NETWORKS}
IMAGE_TMAX = 15.01  # of published image networks, which do not say it themselves


def read(path: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """What a network file holds, an older one lifted to today's form; see `checkpoint.load`.

    Raises:
        ValueError: one line on why the file cannot be used.
    """
    return checkpoint.load(path, "network", sha256, lift)


def load_network(
    path: str | Path,
    sha256: str | None = None,
    tmax: float | None = None,
    fallback_tmax: float | None = None,
) -> dict[str, Any]:
    """Read a network file, an https:// address, or the latest in a run folder or folder of runs.

    Args:
        path: of the file.
        sha256: digest that it must have.
        tmax: end time of the flow, which must agree with the file's; only older files lack it.
        fallback_tmax: end time where neither the file nor `tmax` tells it.

    Raises:
        ValueError: one line on why the file cannot be used.
    """
    path = checkpoint.find_network(path)
    content = read(path, sha256)
    stated = content["schedule"].get("tmax")
    if stated is None:
        images = content["precond"].get("shape") is not None
        stated = tmax or fallback_tmax or (IMAGE_TMAX if images else None)
        if stated is None:
            raise ValueError(
                f"{path}: this older file does not tell the end time of its flow; give --tmax, "
                "with which it was trained (7.01 or 15.01 in the paper)"
            )
        content["schedule"]["tmax"] = float(stated)
    if tmax is not None and not math.isclose(tmax, stated, rel_tol=1e-6):
        raise ValueError(
            f"--tmax={tmax:g} contradicts the network, which has tmax={stated:g}; leave the option "
            "out or name another network"
        )
    return content


def build(
    network: dict[str, Any],
    schedule: dict[str, Any],
    basis: Basis,
    precond: dict[str, Any],
) -> InflationPrecond:
    """Make a preconditioned network.

    Args:
        network: {"class": a name in `NETWORKS`, "kwargs": its arguments}.
        schedule: keyword arguments of `Schedule`, all but xi.
        basis: eigenbasis of the data.
        precond: keyword arguments of `InflationPrecond`: space, shape, time_input, output;
            or, with a denoiser among them, of `DenoiserField`.

    Raises:
        ValueError: for an unknown network class.
    """
    model = _make(network)
    shape = tuple(precond["shape"]) if precond.get("shape") else None
    where: dict[str, Any] = {"space": precond["space"], "shape": shape}
    if precond.get("denoiser"):
        return DenoiserField(
            model, Schedule(basis.xi, **schedule), basis, **where, denoiser=precond["denoiser"]
        )
    return InflationPrecond(
        model,
        Schedule(basis.xi, **schedule),
        basis,
        **where,
        time_input=precond.get("time_input"),
        output=precond.get("output") or "velocity",
    )


def _make(network: dict[str, Any]) -> nn.Module:
    if network["class"] not in NETWORKS:
        raise ValueError(f"network class {network['class']!r}: known are {', '.join(NETWORKS)}")
    return NETWORKS[network["class"]](**network["kwargs"])


def transfer(model: InflationPrecond, content: dict[str, Any], path: str) -> list[str]:
    """Start from the weights of another network, where names and shapes agree.

    Args:
        model: takes the weights.
        content: of the other's file.
        path: of the file, for messages.

    Returns:
        lines that say how many did, and what was changed in them.

    Raises:
        ValueError: if none do.
    """
    theirs, notes = content["state"], []
    ours = {k: v for k, v in model.state_dict().items() if k.startswith("model.")}
    shared = {k: theirs[k] for k, v in ours.items() if k in theirs and theirs[k].shape == v.shape}
    if not shared:
        raise ValueError(f"{path}: none of its weights fit this network")
    labels = shared.get(AUGMENT_WEIGHT)
    if labels is not None and content["precond"].get("augmentation") != CONVENTION:
        shared[AUGMENT_WEIGHT] = labels = labels.clone()
        labels[:, list(OPPOSITE)] *= -1
        notes.append(
            "Its augmentation labels of rotation and anisotropy are of an earlier version: their "
            "weights change sign"
        )
    model.load_state_dict(shared, strict=False)
    return [f"Transferred {len(shared)} of {len(ours)} tensors from {path}", *notes]


def attention_of(content: dict[str, Any], arch: str) -> list[int] | None:
    """Resolutions with attention of a network file, where it is of the class that `arch` names."""
    network = content["network"]
    if arch not in PRESETS or network["class"] != PRESETS[arch]["class"]:
        return None
    default = inspect.signature(NETWORKS[network["class"]]).parameters["attn_resolutions"].default
    return list(network["kwargs"].get("attn_resolutions", default))


def network_to_dict(
    model: InflationPrecond, network: dict[str, Any], info: dict[str, Any]
) -> dict[str, Any]:
    """Everything that a network file holds: how to build the model, its state, and `info`.

    Args:
        model: the (EMA) model.
        network: as given to `build`.
        info: plain values: data description, training options, progress, licence.
    """
    return {
        "network": network,
        "schedule": model.schedule.settings(),
        "precond": {
            "space": model.space,
            "shape": list(model.shape) if model.shape else None,
            "time_input": model.time_input,
            "output": model.output,
            "augmentation": CONVENTION if network["kwargs"].get("augment_dim") else None,
        },
        "state": {k: v.detach().cpu().clone() for k, v in model.state_dict().items()},
        "info": info,
    }


def network_from_dict(content: dict[str, Any]) -> tuple[InflationPrecond, dict[str, Any]]:
    """The model of a network file, on the CPU, and its `info`.

    Raises:
        ValueError: if an entry is missing or does not fit, naming it.
    """
    try:
        state = content["state"]
        basis = Basis(state["mean"], state["scale"], state["schedule.xi"], state["W"])
        _check_weights(content)
        with torch.random.fork_rng(devices=[]):  # building draws weights; nobody's seed moves
            model = build(content["network"], content["schedule"], basis, content["precond"])
        stated = {k: v.clone() for k, v in model.schedule.state_dict().items()}
        model.load_state_dict(state)
        _check_schedule(model.schedule, stated)
        _check_passage(model.model, content["precond"], len(basis.xi))
        return model, content["info"]
    except KeyError as missing:
        raise ValueError(f"the network file lacks the entry {missing}") from None
    except (TypeError, RuntimeError, AttributeError, ArithmeticError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the network file does not fit its own description: {reason}") from None


class _NoDraws(TorchFunctionMode):
    """Leaves out the draws of `nn.init`, for which PyTorch would import its compiler: 2 s."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.normal_ or getattr(func, "__module__", None) == nn.init.__name__:
            return next(iter([*args, *kwargs.values()]))
        return func(*args, **kwargs)


def _check_weights(content: dict[str, Any]) -> None:
    """Check, on tensors without memory, that the network has the file's weights.

    So a file cannot make a network larger than its own weights.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _NoDraws():
        net = _make(content["network"])
    theirs = {k: v for k, v in content["state"].items() if k.startswith("model.")}
    ours = {f"model.{k}": v for k, v in net.state_dict().items()}
    for name in ours.keys() | theirs.keys():
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            raise RuntimeError(f"its weights {name[:80]} are not those of the network it names")


@torch.no_grad()
def _check_passage(net: nn.Module, precond: dict[str, Any], d: int) -> None:
    """Check on one sample of d dimensions that a network does not fail when it is used."""
    shape = (1, *precond["shape"]) if precond.get("shape") else (1, d)
    time_input = precond.get("time_input") or getattr(net, "time_input", "published")
    labels = torch.zeros((1, 3) if time_input == "features" else (1,))
    fits = math.prod(shape) == d and net.eval()(torch.zeros(shape), labels).shape == shape
    net.train()
    if not fits:
        raise RuntimeError(f"the network does not take and give samples of {d} dimensions")


def _check_schedule(schedule: Schedule, stated: dict[str, Tensor]) -> None:
    """Check that the buffers of a schedule are those of its settings, and give usable numbers."""
    for name, value in schedule.state_dict().items():
        if not torch.allclose(value, stated[name], rtol=1e-4, atol=1e-9):
            raise RuntimeError(f"its schedule's {name} is not that of its settings")
    last = schedule.rates.abs().max() * schedule.tmax
    if not 1e-6 < float(last) < 500:
        raise RuntimeError(f"its schedule grows noise by exp({float(last):.3g})")
