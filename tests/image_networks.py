"""Small image networks and data for the tests of the scripts that integrate them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result

import dataset_tool
import train
from tests.helpers import fill_weights
from tests.image_fixtures import png, write_zip
from torch_utils import checkpoint
from training.basis import eigenbasis
from training.data.images import ImageSource
from training.network_file import build, network_to_dict


def call(main, *args: object) -> Result:
    """Run a script in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


def good(main, *args: object) -> str:
    """The output of a call that works."""
    result = call(main, *args)
    assert result.exit_code == 0, result.output
    return result.output


def error_line(main, *args: object) -> str:
    """The one line of a refusal."""
    result = call(main, *args)
    assert result.exit_code == 2, result.output
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert "Traceback" not in result.output
    return line


def digits(folder: Path, count: int = 150) -> Path:
    """A zip of small real images."""
    path = folder / "digits.zip"
    good(dataset_tool.main, "--source=digits", f"--dest={path}", f"--max-images={count}")
    return path


def random_images(path: Path) -> Path:
    """A zip of 200 images of two classes, all of whose pixels vary."""
    rng = np.random.default_rng(0)
    files = {f"{k}.png": png(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for k in range(200)}
    labels = [[name, k % 2] for k, name in enumerate(files)]
    return write_zip(path, files | {"dataset.json": json.dumps({"labels": labels}).encode()})


def trained(folder: Path, data: Path, *args: object) -> Path:
    """A folder of one run, trained for a few seconds."""
    small = ["--cbase=16", "--cres=1,2", "--batch=50", "--duration=0.005", "--tick=5"]
    small += ["--lr_rampup=0", "--device=cpu", "--no-plot", "--dropout=0"]
    good(train.main, f"--outdir={folder}", f"--data={data}", *small, *args)
    return folder


def untrained(
    path: Path, data: Path, keep: int, classes: int = 0, kimg: float | None = None, **schedule
) -> Path:
    """A network file of a small network with fixed, far from trivial weights."""
    source = ImageSource(data, use_labels=classes > 0)
    basis = eigenbasis([source.samples(0, 0, len(source))], source.dim)
    shape = list(source.shape)
    network = {
        "class": "SongUNet",
        "kwargs": {
            "img_resolution": shape[1], "in_channels": shape[0], "out_channels": shape[0],
            "label_dim": classes, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1,
            "attn_resolutions": [4], "dropout": 0.0,
        },
    }  # fmt: skip
    settings = {"dims_to_keep": keep, "inflation_gap": 0.02, "tmax": 15.01} | schedule
    model = build(network, settings, basis, {"space": "IS", "shape": shape})
    fill_weights(model.model)
    info = {"data": source.description()} | ({} if kimg is None else {"kimg": kimg})
    checkpoint.save(path, "network", network_to_dict(model, network, info))
    return path
