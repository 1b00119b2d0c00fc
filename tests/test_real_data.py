"""Real CIFAR-10 and MNIST, whole: known statistics, a training run, generated images."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import dataset_tool
import train
from benchmarks import real_data
from flow.flow import load_flow
from training.basis import eigenbasis, moments
from training.data.images import ImageSource
from training.schedule import participation_ratio

pytestmark = pytest.mark.data


def converted(name, folder):
    """The set as dataset_tool.py makes it, and what the tool says."""
    try:
        archive = real_data.SETS[name]()
    except OSError as error:
        pytest.skip(str(error))
    path = folder / f"{name}-32x32.zip"
    args = [f"--source={archive}", f"--dest={path}", "--no-plot"]
    result = CliRunner().invoke(dataset_tool.main, args)
    assert result.exit_code == 0, result.output
    return path, result.output


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    path, output = converted("cifar10", tmp_path_factory.mktemp("cifar10"))
    assert "50000 images become 32x32 colour, 3072 dimensions" in output  # no test images
    assert "10 classes (0 airplane, 1 automobile" in output
    return path


def test_statistics_of_cifar10(cifar10):
    """Known figures: the mean of everybody's normalisation, the paper's participation ratio."""
    source = ImageSource(cifar10, use_labels=True)
    assert (len(source), source.shape, source.classes) == (50000, (3, 32, 32), 10)
    mean = np.mean([source.pixels[i::100].mean((0, 2, 3)) for i in range(100)], axis=0) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert np.bincount(source.labels(0, 0, 50000).argmax(1)).tolist() == [5000] * 10
    basis = eigenbasis(source.basis_batches(), source.dim)
    assert float(basis.xi[0]) == pytest.approx(221.45, abs=0.01)
    assert participation_ratio(basis.xi) == pytest.approx(9.238, abs=0.001)  # eigenvalues floored
    _, _, covariance = moments(source.basis_batches(), source.dim)
    xi = torch.linalg.eigvalsh(covariance)
    assert float(xi[0]) == pytest.approx(6.35e-6, rel=0.01)
    assert participation_ratio(xi) == pytest.approx(9.235, abs=0.001)  # the paper: 9.24


def test_cifar10_trains_and_generates(cifar10, tmp_path):
    """Two ticks of a tiny network, and 16 images of it."""
    args = [f"--outdir={tmp_path}", f"--data={cifar10}", "--cbase=8", "--cres=1,1", "--batch=32"]
    args += ["--duration=0.000512", "--tick=0.256", "--lr_rampup=0", "--device=cpu"]
    result = CliRunner().invoke(train.main, [*args, "--no-plot"])
    assert result.exit_code == 0, result.output
    assert "Participation ratio: data 9.23" in result.output
    run = tmp_path / "00000-cifar10-32x32-PRP"
    losses = [json.loads(x)["loss"] for x in (run / "stats.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    # An untrained network has 0.81: the flow's floor is above the variance of 856 directions.
    assert 0.5 < losses[1] < losses[0] < 0.85
    options = json.loads((run / "training_options.json").read_text())
    assert options["augment"] == 0.12  # the paper's: no pixel is constant
    images = load_flow(run, "cpu").sample(16, seed=0, solver="ab2", steps=8)
    assert images.shape == (16, 3072)
    assert bool(torch.isfinite(images).all())
    picture = images.reshape(16, 3, 32, 32).mul(127.5).add(127.5).clamp(0, 255).byte()
    Image.fromarray(picture.permute(0, 2, 3, 1).reshape(-1, 32, 3).numpy()).save(
        tmp_path / "generated.png"
    )
    assert float(images.std()) == pytest.approx(0.5, rel=0.5)  # that of the data


def test_mnist(tmp_path):
    path, output = converted("mnist", tmp_path)
    assert "60000 images become 32x32 grey" in output
    source = ImageSource(path, use_labels=True)
    inside = source.pixels[:, 0, 2:-2, 2:-2] / np.float32(255)
    assert float(inside.mean(dtype=np.float64)) == pytest.approx(0.1307, abs=5e-5)
    assert float(inside.std(dtype=np.float64)) == pytest.approx(0.3081, abs=5e-5)
    counts = np.bincount(source.labels(0, 0, 60000).argmax(1)).tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
