"""Network files as the suite uses them: of any layout and age, with the end time of their flow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch_utils import checkpoint
from torch_utils.checkpoint import find_network
from training.legacy import lift

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
    path = find_network(path)
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
