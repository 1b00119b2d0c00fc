"""From options to a model, and from a model to a network file and back."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from torch_utils import checkpoint
from training.augment import LABELS
from training.basis import Basis
from training.batches import Source
from training.networks import IMAGE_NETWORKS, PRESETS
from training.precond import InflationPrecond
from training.schedule import Schedule
from training.toy_networks import TOY_NETWORKS

NETWORKS: dict[str, type[nn.Module]] = {**TOY_NETWORKS, **IMAGE_NETWORKS}


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
        precond: keyword arguments of `InflationPrecond`: space, shape, time_input.

    Raises:
        ValueError: for an unknown network class.
    """
    if network["class"] not in NETWORKS:
        raise ValueError(f"network class {network['class']!r}: known are {', '.join(NETWORKS)}")
    model = NETWORKS[network["class"]](**network["kwargs"])
    shape = precond.get("shape")
    return InflationPrecond(
        model,
        Schedule(basis.xi, **schedule),
        basis,
        space=precond["space"],
        shape=tuple(shape) if shape else None,
        time_input=precond.get("time_input"),
    )


def transfer(model: InflationPrecond, path: str) -> str:
    """Start from the weights of another network, where names and shapes agree.

    Returns:
        a line that says how many did.

    Raises:
        ValueError: if none do, or `path` is no network.
    """
    theirs = checkpoint.load_network(path).get("state", {})
    ours = {k: v for k, v in model.state_dict().items() if k.startswith("model.")}
    shared = {k: theirs[k] for k, v in ours.items() if k in theirs and theirs[k].shape == v.shape}
    if not shared:
        raise ValueError(f"{path}: none of its weights fit this network")
    model.load_state_dict(shared, strict=False)
    return f"Transferred {len(shared)} of {len(ours)} tensors from {path}"


def network_of(options: dict[str, Any], source: Source) -> dict[str, Any]:
    """Class and all arguments, defaults spelled out, of the network that the options name."""
    if options["arch"] in PRESETS:
        return _image_network(options, source)
    signature = inspect.signature(NETWORKS[options["arch"]])
    arguments = signature.bind(in_channels=source.dim)
    arguments.apply_defaults()
    return {"class": options["arch"], "kwargs": dict(arguments.arguments)}


def _image_network(options: dict[str, Any], source: Any) -> dict[str, Any]:
    preset = PRESETS[options["arch"]]
    channels, resolution, _ = source.shape
    kwargs = preset["kwargs"] | {
        "img_resolution": resolution,
        "in_channels": channels,
        "out_channels": channels,
        "label_dim": source.classes,
        "augment_dim": LABELS if options["augment"] else 0,
        "dropout": options["dropout"],
    }
    if options["cbase"]:
        kwargs["model_channels"] = options["cbase"]
    if options["num_blocks"]:
        kwargs["num_blocks"] = options["num_blocks"]
    if options["cres"]:
        kwargs["channel_mult"] = list(options["cres"])
    if resolution < 32:  # attention at half the resolution, as CIFAR-size networks have it
        kwargs["attn_resolutions"] = [resolution // 2]
    return {"class": preset["class"], "kwargs": kwargs}


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
        with torch.random.fork_rng(devices=[]):  # building draws weights; nobody's seed moves
            model = build(content["network"], content["schedule"], basis, content["precond"])
        model.load_state_dict(state)
        return model, content["info"]
    except KeyError as missing:
        raise ValueError(f"the network file lacks the entry {missing}") from None
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the network file does not fit its own description: {reason}") from None
