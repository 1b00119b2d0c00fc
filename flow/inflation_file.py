"""The inflation of an earlier run, read back from its .npz file and checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.arrays import load_npz
from flow.flow import Flow
from flow.latents import Lender, class_labels, classes_of, lender
from flow.method import Method
from flow.steppers import PAPER_SOLVERS
from torch_utils import distributed
from torch_utils.peers import agree_on_file


@dataclass
class Melt:
    """An inflation that was saved.

    Attributes:
        path: the file.
        x: the data that was inflated, in its own units, [n, d].
        state: whitened final states, [n, d]; [n, 2, d] of the reversible solver.
        start, stop: times of the first and the last state.
        classes: numbers of the data's classes, [n]; None without.
        method: how it was integrated; None if the file does not say.
    """

    path: Path
    x: Tensor
    state: Tensor
    start: float
    stop: float
    classes: np.ndarray | None
    method: Method | None

    def lender(self, gen_source: str) -> Lender:
        """What --gen_source makes of its latents, see `latents.lender`."""
        return lender(gen_source, self.state, self.classes)


def run_entry(flow: Flow, method: Method) -> np.ndarray:
    """What a melt file says of its run, as a JSON text: network, schedule and method.

    Args:
        flow: the flow.
        method: how it was integrated.
    """
    schedule = {**flow.schedule.settings(), "name": flow.schedule.name}
    method_entry = {**vars(method), "times": None}
    entry: dict[str, Any] = {
        "network_sha256": flow.digest,
        "schedule": schedule,
        "method": method_entry,
    }
    entry |= {"unlabelled": True} if flow.unlabelled else {}
    return np.array(json.dumps(entry))


def read_melt(path: str | Path, flow: Flow) -> Melt:
    """Read a melt file for a network; no code in the file is run.

    Files without `whitened` and `run` are read by their xs_es. Those of the released code have no
    times either: their last state is then taken to be at tmax, and a line says so.

    Args:
        path: .npz that holds xs_es and tilde_xs, [states, n, ...], and perhaps t.
        flow: the network's flow.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    arrays = _arrays(Path(path))
    with open(path, "rb") as file:
        agree_on_file("--prev_melt", path, hashlib.file_digest(file, "sha256").hexdigest())
    missing = [k for k in ("xs_es", "tilde_xs") if k not in arrays]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}; name an inflation, *_melt_results")
    for name in ("xs_es", "tilde_xs"):
        if arrays[name].ndim > 3:  # images
            arrays[name] = arrays[name].reshape(*arrays[name].shape[:2], -1)
    x, shape, d = arrays["tilde_xs"], arrays["xs_es"].shape, flow.schedule.data_dim
    t = arrays["t"] if "t" in arrays else _published_times(path, shape, flow)
    if t.ndim != 1 or x.ndim != 3 or x.shape != shape or len(t) != len(x) or not x.size:
        raise ValueError(f"{path}: xs_es {shape}, tilde_xs {x.shape} and t {t.shape} do not agree")
    if x.shape[2] != d:
        raise ValueError(f"{path}: has {x.shape[2]} dimensions; the network has {d}")
    if t[-1] <= t[0]:
        raise ValueError(f"{path}: goes from t={t[0]:g} to {t[-1]:g}: not an inflation")
    method = _checked_run(path, arrays, flow)
    state = torch.from_numpy(arrays.get("whitened", np.empty(0)))
    if "whitened" not in arrays:
        state = flow.to_whitened(arrays["xs_es"][-1], float(t[-1]), "scaled_es").cpu()
    if state.shape[0] != x.shape[1] or state.shape[-1] != d or state.dim() not in (2, 3):
        raise ValueError(f"{path}: whitened {tuple(state.shape)} does not fit tilde_xs {x.shape}")
    number = _class_numbers(path, arrays.get("classes"), x.shape[1], flow)
    if not all(np.isfinite(v).all() for v in (x[0], state.numpy())):
        raise ValueError(f"{path}: holds values that are not finite")
    start = 0.0 if abs(t[0]) < 1e-9 else float(t[0])
    return Melt(
        Path(path), torch.from_numpy(x[0]).double(), state, start, float(t[-1]), number, method
    )


def _class_numbers(
    path: str | Path, found: np.ndarray | None, n: int, flow: Flow
) -> np.ndarray | None:
    """Numbers of the classes of n samples, from what the data called them; None without."""
    if not classes_of(flow):
        return found
    labels = class_labels(flow)
    if found is None or found.shape != (n,) or not np.isin(found, labels).all():
        raise ValueError(
            f"{path}: lacks the classes that this conditional network needs; the published "
            "scripts gave it zero labels, as --class=none does"
        )
    return np.searchsorted(labels, found)


def _published_times(path: str | Path, shape: tuple[int, ...], flow: Flow) -> np.ndarray:
    """Times of a file that has none; only those of its first and last state are needed."""
    tmax = flow.schedule.tmax
    distributed.print0(f"Note: {path} has no times; its last state is taken to be at tmax={tmax:g}")
    return np.linspace(0.0, tmax, max(2, shape[0] if shape else 0))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    wanted = ("xs_es", "tilde_xs", "t", "whitened", "classes", "run")
    try:
        return load_npz(path, wanted)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npz of an inflation ({error})") from None


def _renamed(method: dict) -> dict:
    """A method as today's names say it: before there was `disc`, "heun" was an angle solver."""
    solver = str(method["solver"])
    if "disc" in method:
        return method
    if solver.startswith("paper_"):
        disc = "vp_ode" if method.get("start") else "ifs"
        return method | {"solver": solver.removeprefix("paper_"), "disc": disc}
    return method | {"solver": f"angle_{solver}" if solver in PAPER_SOLVERS else solver}


def _checked_run(path: str | Path, arrays: dict[str, np.ndarray], flow: Flow) -> Method | None:
    if "run" not in arrays:
        return None
    try:
        run = json.loads(str(arrays["run"]))
        method = Method(**_renamed(run["method"]))
        theirs, other = run["schedule"]["name"], run["network_sha256"] != flow.digest
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: its entry `run` is damaged") from None
    if theirs != flow.schedule.name:
        raise ValueError(f"{path}: has the schedule {theirs}; the network has {flow.schedule.name}")
    if run.get("unlabelled", False) != flow.unlabelled:
        raise ValueError(
            f"{path}: was made with --class=none or without, and this run the other way"
        )
    if other:
        raise ValueError(f"{path}: was inflated by another network; name that one with --network")
    return method
