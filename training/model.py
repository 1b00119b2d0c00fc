"""From options to a model, and from a model to a network file and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.basis import Basis
from training.networks import IMAGE_NETWORKS
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
