"""Every command of the README is accepted as printed, and its Python runs."""

import importlib
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import dataset_tool
import toy_train
from tests.helpers import ROOT
from tests.image_fixtures import write_cifar
from tests.image_networks import untrained

TEXT = (ROOT / "README.md").read_text()
LINES = re.sub(r" \\\n\s+", " ", TEXT).splitlines()
COMMANDS = [x.strip() for x in LINES if re.match(r"    (python|torchrun) .*\.py", x)]
MODULES = [x.strip() for x in LINES if re.match(r"    python -m (?!venv)", x)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the README's paths exist."""
    folder = tmp_path_factory.mktemp("readme")
    args = [f"--outdir={folder / 'out'}", "--data_name=circles", "--duration=0.003"]
    result = CliRunner().invoke(toy_train.main, [*args, "--batch=500", "--no-plot"])
    assert result.exit_code == 0, result.output
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    archive = folder / "downloads/cifar10/cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    write_cifar(archive, images, [k % 10 for k in range(600)])
    for source, dest in ((archive, "cifar10-32x32.zip"), ("digits", "digits-8x8.zip")):
        args = [f"--source={source}", f"--dest={folder / 'datasets' / dest}", "--no-plot"]
        result = CliRunner().invoke(dataset_tool.main, args)
        assert result.exit_code == 0, result.output
    untrained(folder / "networks/network.pkl", folder / "datasets/cifar10-32x32.zip", keep=3072)
    for k in range(8):
        for path, size in ((f"downloads/afhqv2/train/{'cat' if k % 2 else 'dog'}", 64),
                           ("fid-tmp", 32), ("digits-tmp", 8)):  # fmt: skip
            (folder / path).mkdir(parents=True, exist_ok=True)
            tile = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
            tile.convert("L" if size == 8 else "RGB").save(folder / path / f"{k:06d}.png")
    (folder / "fid-refs").mkdir()
    np.savez(folder / "fid-refs/cifar10-32x32.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savetxt(folder / "measurements.csv", np.random.default_rng(0).random((20, 4)), delimiter=",")
    return folder


def test_the_readme_has_the_published_commands():
    assert len(COMMANDS) >= 6
    published = "torchrun --rdzv_endpoint=0.0.0.0:29501 toy_train.py --outdir=out "
    published += "--data_name=circles --data_dim=2 --dims_to_keep=2 --tmax=7.01"
    assert published in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, place, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(command.replace("/networks/network.pkl", "out"))
    script = next(w for w in words if w.endswith(".py"))
    if "toy" in command:  # the published lines call any network networks/network.pkl
        words = [w.replace("networks/network.pkl", "out") for w in words]
    args = words[words.index(script) + 1 :]
    main = importlib.import_module(script.removesuffix(".py")).main
    before = sorted(place.rglob("*"))
    result = CliRunner().invoke(main, [*args, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("command", MODULES)
def test_module(command, place):
    words = [sys.executable, *shlex.split(command)[1:]]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_python_example(place, monkeypatch):
    monkeypatch.chdir(place)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names = {"x": np.random.default_rng(0).standard_normal((10, 2))}
    exec(code, names)
    assert names["x"].shape == (1000, 2)
    assert names["z"].shape == names["u"].shape == (10, 2)
