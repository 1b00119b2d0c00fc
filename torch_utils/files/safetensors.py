"""Networks as .safetensors with a .json of everything else beside it, for other suites."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import atomic_path, write_json
from torch_utils.files.inert_pickle import RefusedError, quote

MAX_JSON = 2**26  # bytes


def write_safetensors(path: Path, content: dict[str, Any]) -> Path:
    """Write a network's state as path.safetensors and the rest as path.json.

    Returns:
        the path of the .json.

    Raises:
        ValueError: if the optional package is missing.
    """
    tensors = {name: x.contiguous() for name, x in content["state"].items()}
    with atomic_path(path) as temporary:
        _library().save_file(tensors, str(temporary))
    beside = path.with_suffix(".json")
    write_json(beside, {k: v for k, v in content.items() if k != "state"})
    return beside


def read_safetensors(path: Path, size: int) -> dict[str, Any]:
    """Read what `write_safetensors` wrote.

    Args:
        path: of the .safetensors file, on this machine.
        size: its bytes.

    Raises:
        RefusedError: one line that says why it cannot be used.
    """
    beside = path.with_suffix(".json")
    try:
        if beside.stat().st_size > MAX_JSON:
            raise RefusedError(f"has a {beside.name} of more than {MAX_JSON} bytes")
        content = json.loads(beside.read_text(encoding="utf-8"))
    except OSError:
        raise RefusedError(f"needs {beside.name} beside it, which cannot be read") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise RefusedError(f"has a damaged {beside.name} ({quote(str(error))})") from None
    if not isinstance(content, dict):
        raise RefusedError(f"has a damaged {beside.name} (not a dict)")
    try:
        state = _library().load_file(str(path))
    except Exception as error:  # of the library, in any of its ways
        if isinstance(error, (RefusedError, MemoryError)):
            raise
        raise RefusedError(f"is damaged ({quote(str(error))})") from None
    if sum(x.nbytes for x in state.values()) > size:
        raise RefusedError("says that it holds more than it does")
    return content | {"state": state}


def content_hash(content: dict[str, Any]) -> str:
    """SHA-256 of what a network is, the same in every layout of its file."""
    rest = {k: v for k, v in content.items() if k not in ("state", "format", "version")}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(content["state"]):
        x = content["state"][name].contiguous()
        digest.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        digest.update(x.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise RefusedError("needs the package safetensors: pip install safetensors") from None
    return safetensors.torch
