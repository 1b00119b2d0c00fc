"""python -m torch_utils.checkpoint: look into network files, check and convert them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import click

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.download import open_url
from dnnlib.options import NetworkChecks, asks
from torch_utils import checkpoint
from torch_utils.files.safetensors import content_hash, write_safetensors
from training.network_file import load_network, network_from_dict

FILE = "FILE|URL|FOLDER"
file_argument = click.argument("file", metavar=FILE)
file_options = cli.options(file_argument, asks(NetworkChecks))


@cli.group()
def main() -> None:
    """Look into network files, check and convert them; nothing in them is run.

    FILE is a network file of this suite, an older one of the EDM family, a .safetensors file with
    its .json beside it, an https:// address of one, or a run folder (its latest).
    """


@cli.subcommand(main, "python -m torch_utils.checkpoint info out")
@file_options
@cli.boolean("--tensors", help="list every tensor")
def info(file: str, sha256: str | None, tmax: float | None, tensors: bool) -> None:
    """Show what a network file holds: network, schedule, data, licence and hashes."""
    path, content = _open(file, sha256, tmax)
    for name, value in _facts(path, content).items():
        print(f"{name + ':':<14} {value}")
    if tensors:
        for name, x in sorted(content["state"].items()):
            print(f"  {name:<44} {str(x.dtype).removeprefix('torch.'):<9} {list(x.shape)}")


@cli.subcommand(main, "python -m torch_utils.checkpoint verify out --sha256=...")
@file_options
def verify(file: str, sha256: str | None, tmax: float | None) -> None:
    """Check that a network file is whole, fits its own description, and can be used."""
    path, content = _open(file, sha256, tmax)
    _build(content)
    facts = _facts(path, content)
    print(f"Good: {path}\n{facts['network']}, {facts['schedule']}\nsha256 {facts['sha256']}")


@cli.subcommand(
    main,
    "python -m torch_utils.checkpoint convert old.pkl new.pkl\n"
    "python -m torch_utils.checkpoint convert out network.safetensors",
)
@click.argument("source", metavar=FILE)
@click.argument("dest", metavar="DEST.pkl|.safetensors", type=click.Path())
@asks(NetworkChecks)
@click.option("--licence", metavar="TEXT", help="what the file says of its licence  [unchanged]")
def convert(
    source: str, dest: str, sha256: str | None, tmax: float | None, licence: str | None
) -> None:  # fmt: skip
    """Convert a network file to today's format (.pkl), or to .safetensors and .json."""
    target = Path(dest)
    if target.suffix not in (".pkl", ".safetensors"):
        raise UserError(f"{dest}: ends in neither .pkl nor .safetensors; name such a file")
    cli.check_writable(target.parent, "DEST")
    path, content = _open(source, sha256, tmax)
    _build(content)
    if licence is not None:
        content["info"] = content["info"] | {"licence": licence}
    if target.suffix == ".pkl":
        checkpoint.save(target, "network", content)
        print(f"Written: {target}")
    else:
        with cli.user_errors():
            print(f"Written: {target} and {write_safetensors(target, content).name}")
    print(f"content {content_hash(content)}")
    if content["info"].get("licence") in (None, "unknown"):
        print(f"Note: {path} does not tell its licence; say it with --licence if you know it")


def _open(file: str, sha256: str | None, tmax: float | None) -> tuple[str, dict[str, Any]]:
    with cli.user_errors():
        path = str(checkpoint.find_network(file))
        return path, load_network(path, sha256, tmax)


def _build(content: dict[str, Any]) -> None:
    with cli.user_errors():
        network_from_dict(content)


def _facts(path: str, content: dict[str, Any]) -> dict[str, str]:
    """What there is to say of a network, a line each."""
    with open_url(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # the stub knows no raw files
        size = file.seek(0, 2)
    state, info, schedule = content["state"], content["info"], content["schedule"]
    weights = sum(x.numel() for name, x in state.items() if name.startswith("model."))
    d, keep = len(state["mean"]), schedule["dims_to_keep"]
    name = "PRP" if keep == d else f"PRRto{keep}D"
    settings = ", ".join(f"{k}={v}" for k, v in schedule.items())
    denoiser = content["precond"].get("denoiser")
    kind = denoiser["class"] if denoiser else "inflationary"
    data = ", ".join(f"{k}={v}" for k, v in info.get("data", {}).items())
    return {
        "file": f"{path} ({size / 2**20:.2f} MiB)",
        "sha256": digest,
        "content": content_hash(content),
        "format": f"version {content['version']}" + _origin(info),
        "network": f"{content['network']['class']}, {weights:,} weights, {kind}, {d} dimensions",
        "arguments": json.dumps(content["network"]["kwargs"]),
        "schedule": f"{name} ({settings})",
        "space": f"{content['precond']['space']}, time as {content['precond']['time_input']}",
        "data": data or "unknown",
        "trained": f"{info['kimg']:g} kimg" if "kimg" in info else "unknown",
        "licence": str(info.get("licence", "unknown")),
    }


def _origin(info: dict[str, Any]) -> str:
    return f", read from an {info['origin']}" if "origin" in info else ""
