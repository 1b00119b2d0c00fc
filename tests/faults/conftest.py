"""Small trained networks and data for commands that are killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.faults import harness
from tests.image_fixtures import pixels, png, write_folder, write_zip
from tests.image_networks import digits, untrained
from tests.scripts.test_fid import Tiny

FLAT = ["toy_train", "--outdir=flat", "--data_name=circles", "--dims_to_keep=1", "--duration=0.02",
        "--batch=500", "--no-plot", "--device=cpu"]  # fmt: skip


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with digits.zip, net.pkl (a network of them) and flat (a run on circles), and
    seen.csv (measurements of their first coordinate)."""
    folder = tmp_path_factory.mktemp("faults")
    data = digits(folder)
    untrained(folder / "net.pkl", data, 8)
    (folder / "seen.csv").write_text("".join(f"{0.1 * k},nan\n" for k in range(8)))
    log = folder / "log.txt"
    assert harness.run(FLAT, folder, log) == 0, log.read_text()
    return folder


@pytest.fixture(scope="session")
def fid_place(place) -> Path:
    """The same with a detector, and real and generated images."""
    torch.jit.script(Tiny(0)).save(str(place / "tiny.pt"))
    files = [
        {f"{i:06d}.png": png(x) for i, x in enumerate(pixels(4200, seed=seed))} for seed in (1, 2)
    ]
    write_zip(place / "real.zip", files[0])
    write_folder(place / "fake", files[1])
    return place
