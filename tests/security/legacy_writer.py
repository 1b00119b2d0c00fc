"""Writes network files in the layout of the older EDM-family code, source text included.

Objects of the older code's own classes are stored as a call of
torch_utils.persistence._reconstruct_persistent_obj on class name, source text and attributes. That
module does not exist here; it is put in place for as long as a file is written. Tensors say that
they lay on a GPU, and files of toys hold the scikit-learn PCA of their data.
"""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from tests.helpers import CONFORMANCE, conformance, fill_weights
from training.networks.image import DhariwalUNet, SongUNet
from training.networks.toy import ToyConvUNet

SOURCE = """
import pathlib
pathlib.Path({canary!r}).touch()  # happens when the source text of this file is run


class SongUNet:
    pass
"""


class EasyDict(dict):
    """The older code's dict of settings."""


EasyDict.__module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the older code's own reader was called")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """An object of one of the older code's classes."""

    def __init__(self, class_name: str, source: str, state: dict, version: int = 6):
        self.meta = EasyDict(
            type="class", version=version, module_src=source, class_name=class_name, state=state
        )

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


@contextmanager
def older_code() -> Iterator[None]:
    """The names of the older code, for pickle to find, and tensors of a GPU."""
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules["torch_utils.persistence"] = module
    try:
        with (
            mock.patch("torch.serialization.location_tag", return_value="cuda:0"),
            mock.patch("dnnlib.util.EasyDict", EasyDict, create=True),
        ):
            yield
    finally:
        del sys.modules["torch_utils.persistence"]


def converted(module: nn.Module, source: str, **init: Any) -> Any:
    """A module as the older code stores it: its own classes with source, torch's as they are."""
    state = dict(module.__dict__)
    state["_modules"] = {
        k: None if m is None else converted(m, source) for k, m in module._modules.items()
    }
    if type(module).__module__.startswith("torch."):
        plain = object.__new__(type(module))
        plain.__dict__.update(state)
        return plain
    kept = {k: v for k, v in state.items() if k.startswith("_") or k in ("training", "label_dim")}
    kept |= {"_init_args": (), "_init_kwargs": EasyDict(init)}
    return Persistent(type(module).__name__, source, kept)


def module_state(**attributes: Any) -> dict:
    """Attributes of a module without parameters."""
    modules = attributes.pop("modules", {})
    return {
        "training": False, "_parameters": {}, "_buffers": {}, "_modules": modules,
        "_non_persistent_buffers_set": set(), "_init_args": (), "_init_kwargs": {}, **attributes,
    }  # fmt: skip


def dump(path: Path, ema: Any, source: str, protocol: int = 4, **content: Any) -> Path:
    """Write a file as the older training loop did."""
    whole = {
        "ema": ema,
        "loss_fn": Persistent("InflationLoss", source, module_state(tmin=1e-7)),
        "augment_pipe": None,
        "dataset_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset",
                                   path="./datasets/cifar10-8x8.zip", use_labels=False),
    }  # fmt: skip
    with older_code():
        path.write_bytes(pickle.dumps(whole | content, protocol=protocol))
    return path


def toy_data(d: int, augment_to: int | None = None) -> EasyDict:
    """The `dataset_kwargs` of a toy network, among them the PCA of its data, fitted."""
    x = np.random.default_rng(0).standard_normal((200, d))
    if augment_to is not None:
        x = x @ np.eye(d, augment_to)
    return EasyDict(
        class_name="training.dataset.ToyDataset", dset_name="circles" if d == 2 else "s_curve",
        augment_to=augment_to, pca_trf=PCA().fit(x),
    )  # fmt: skip


def source_text(canary: Path) -> str:
    """Source text that leaves a trace when it is run."""
    return SOURCE.format(canary=str(canary))


def conformance_network(args: dict, name: str = "toy") -> tuple[nn.Module, dict[str, Any]]:
    """The network of a conformance file, without weights, and what its constructor was given."""
    if name == "toy":
        return ToyConvUNet(args["data_dim"]), {"in_channels": args["data_dim"]}
    known = ("embedding_type", "encoder_type", "decoder_type", "channel_mult_noise",
             "resample_filter", "model_channels", "channel_mult", "num_blocks",
             "attn_resolutions", "dropout", "augment_dim")  # fmt: skip
    kwargs = {k: args[k] for k in known if k in args}
    kwargs |= {"img_resolution": 8, "in_channels": 3, "out_channels": 3}
    kwargs["label_dim"] = args.get("label_dim", 0)
    cls = DhariwalUNet if args.get("model_type") == "DhariwalUNet" else SongUNet
    return cls(**kwargs), kwargs


def write_inflationary(path: Path, name: str, canary: Path, **changes: Any) -> Path:
    """The inflationary network of a conformance file as an older file.

    Args:
        path: file to write.
        name: of the conformance file: toy_... or image_....
        canary: file that appears if the source text is run.
        changes: attributes of the preconditioner to set; None to leave one out. `protocol` of the
            pickle, and `class_name` of the preconditioner.
    """
    args, arrays = conformance(name)
    toy = name.startswith("toy")
    content = {"dataset_kwargs": toy_data(args["data_dim"])} if toy else {}
    source, protocol = source_text(canary), changes.pop("protocol", 4)
    class_name = changes.pop("class_name", "ToyIFsPrecond" if toy else "IFsPreconditioner")
    net, kwargs = conformance_network(args, "toy" if toy else "image")
    fill_weights(net, args["salt"])
    attributes = {
        "g": arrays["g"].float(), "W": arrays["W"].float(), "data_eigs": arrays["eigs"].float(),
        "gamma0": args["gamma0"], "rho": args["rho"], "M": args["M"], "space": args["space"],
        "label_dim": 0, "use_fp16": False, **changes,
    }  # fmt: skip
    attributes = {k: v for k, v in attributes.items() if v is not None}
    inner = converted(net, source, **kwargs)
    precond = Persistent(class_name, source, module_state(modules={"model": inner}, **attributes))
    return dump(path, precond, source, protocol, **content)


def write_toy_edm(path: Path, canary: Path, name: str, W: Tensor | None = None) -> Path:
    """The toy network of a conformance file within EDM's preconditioner, as an older file.

    Args:
        path: file to write.
        canary: see `write_inflationary`.
        name: of the conformance file.
        W: eigenbasis that the network works in; None for the data's own coordinates.
    """
    args, _ = conformance(name)
    source, (net, kwargs) = source_text(canary), conformance_network(args)
    fill_weights(net, args["salt"])
    attributes = {"sigma_data": 0.5, "sigma_min": 0, "sigma_max": float("inf"), "label_dim": 0}
    attributes |= {} if W is None else {"W": W}
    state = module_state(modules={"model": converted(net, source, **kwargs)}, **attributes)
    precond = Persistent("ToyEDMPrecond" if W is None else "ToyEDMESPrecond", source, state)
    return dump(path, precond, source, dataset_kwargs=toy_data(args["data_dim"]))


def write_embedded_toy(path: Path, canary: Path, d: int = 2, augment_to: int = 4) -> Path:
    """An inflationary network of a set embedded in more dimensions, whose eigenvalues are zero."""
    source, net = source_text(canary), ToyConvUNet(augment_to)
    fill_weights(net)
    eigenvalues = [1.0] * d + [0.0, -1e-17, 1e-33][: augment_to - d]
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((augment_to, augment_to)))[0]
    attributes = {
        "g": torch.zeros(augment_to), "W": torch.from_numpy(rotation).float(),
        "data_eigs": torch.tensor(eigenvalues), "gamma0": 5e-4, "rho": 2.0, "M": 1000,
        "space": "ES", "label_dim": 0, "use_fp16": False,
    }  # fmt: skip
    inner = converted(net, source, in_channels=augment_to)
    precond = Persistent(
        "ToyIFsPrecond", source, module_state(modules={"model": inner}, **attributes)
    )
    return dump(path, precond, source, dataset_kwargs=toy_data(d, augment_to))


def write_sigma(
    path: Path, class_name: str, canary: Path, network: str = "ddpmpp", protocol: int = 4
) -> Path:
    """The network of the precond_* (or another net_*) conformance files as an older file."""
    with np.load(CONFORMANCE / f"net_{network}.npz", allow_pickle=False) as data:
        args = json.loads(str(data["config"]))
    source = source_text(canary)
    net, kwargs = conformance_network(args, "image")
    fill_weights(net, args["salt"])
    attributes = {
        "EDMPrecond": {"sigma_data": 0.5, "sigma_min": 0, "sigma_max": float("inf")},
        "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
        "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100},
    }[class_name]
    inner = converted(net, source, **kwargs)
    state = module_state(modules={"model": inner}, img_resolution=8, img_channels=3, **attributes)
    return dump(path, Persistent(class_name, source, state), source, protocol)
