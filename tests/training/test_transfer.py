"""--transfer: weights, weight average, attention and augmentation labels of another network."""

import re

import pytest
import torch

import train
from tests.image_fixtures import pixels, png, write_zip
from tests.image_networks import error_line, good
from torch_utils import checkpoint
from training import network_file
from training.network_file import attention_of

SMALL = ["--cbase=16", "--cres=1,2", "--num_blocks=1", "--batch=32", "--tick=0.1",
         "--lr_rampup=0", "--device=cpu", "--no-plot", "--duration=0.000032"]  # fmt: skip
LABELS = "model.map_augment.weight"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise of 8x8, of which no pixel is constant."""
    path = tmp_path_factory.mktemp("data") / "noise.zip"
    return write_zip(path, {f"{i}.png": png(x) for i, x in enumerate(pixels(250))})


def trained(out, data, *args):
    return good(train.main, f"--outdir={out}", f"--data={data}", *SMALL, *args)


def test_published_transfer_turns_the_ema_rampup_off(tmp_path, data):
    """After one step of a large rate the average still is what it was; without, it follows."""
    trained(tmp_path / "a", data)
    out = trained(tmp_path / "b", data, f"--transfer={tmp_path / 'a'}", "--lr=0.05")
    assert "half-life 0.5 Mimg at once (--transfer)" in out
    trained(tmp_path / "c", data, "--lr=0.05")
    moved = {}
    for run in "bc":
        (folder,) = (tmp_path / run).iterdir()
        state = checkpoint.load(folder / "training-state-000000.pt", "training-state")
        name = "model.enc.8x8_conv.weight"
        moved[run] = float((state["model"][name] - state["ema"][name]).abs().max())
    assert moved["b"] > 0.04
    assert moved["c"] == 0


def test_attention_is_that_of_the_transferred_network(tmp_path, data):
    """Published networks under 32 px attend at [16]: nowhere but at the bottom."""
    other = trained(tmp_path / "a", data)
    assert "Attention" not in other
    (run,) = (tmp_path / "a").iterdir()
    content = network_file.load_network(run)
    assert content["network"]["kwargs"]["attn_resolutions"] == [4]
    attention = re.compile(r"model\.(enc|dec)\.4x4_block\d\.(qkv|proj|norm2)\.")
    content["state"] = {k: v for k, v in content["state"].items() if not attention.match(k)}
    del content["network"]["kwargs"]["attn_resolutions"]  # as published files leave it out
    assert attention_of(content, "ddpmpp") == [16]
    assert attention_of(content, "adm") is None
    checkpoint.save(tmp_path / "published.pkl", "network", content)
    total = len([k for k in content["state"] if k.startswith("model.")])
    out = trained(tmp_path / "b", data, f"--transfer={tmp_path / 'published.pkl'}")
    assert f"Transferred {total} of {total} tensors" in out
    assert "Attention at resolutions [16], as " in out
    again = good(train.main, *SMALL, f"--outdir={tmp_path / 'b'}", "--resume=latest",
                 f"--data={data}", "--duration=0.00007")  # fmt: skip
    assert "Resuming" in again


def test_labels_of_an_earlier_version_are_turned(tmp_path, data):
    trained(tmp_path / "a", data, "--augment=0.1")
    (run,) = (tmp_path / "a").iterdir()
    path = checkpoint.find_network(run)
    content = network_file.load_network(path)
    assert content["precond"]["augmentation"] == "published"
    content["state"][LABELS] = torch.randn(16, 9)
    checkpoint.save(tmp_path / "new.pkl", "network", content)
    del content["precond"]["augmentation"]
    checkpoint.save(tmp_path / "old.pkl", "network", content)
    signs = torch.tensor([1, 1, 1, 1, -1, 1, -1, 1, 1.0])
    for name, wanted in {"new": torch.ones(9), "old": signs}.items():
        out = trained(tmp_path / name, data, "--augment=0.1", f"--transfer={tmp_path / name}.pkl",
                      "--lr=1e-12")  # fmt: skip
        assert ("change sign" in out) == (name == "old")
        found = network_file.load_network(tmp_path / name)["state"][LABELS]
        torch.testing.assert_close(found, content["state"][LABELS] * wanted)


def test_a_run_with_labels_of_an_earlier_version_does_not_go_on(tmp_path, data):
    trained(tmp_path, data, "--augment=0.1")
    (run,) = tmp_path.iterdir()
    path = run / "training-state-000000.pt"
    state = checkpoint.load(path, "training-state")
    del state["augmentation"]
    checkpoint.save(path, "training-state", state)
    line = error_line(train.main, f"--resume={run}", f"--outdir={tmp_path}", "--duration=0.001")
    assert "augmentation labels are of an earlier version" in line
    assert "--transfer" in line
