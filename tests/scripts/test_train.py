"""train.py on small real images: the same loop, resumed exactly, in every precision."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import dataset_tool
import train
from torch_utils import checkpoint
from training.flow import load_flow

SMALL = ["--cbase=16", "--cres=1,2", "--batch=32", "--tick=0.1", "--lr_rampup=0", "--device=cpu"]


def call(main, *args):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.zip"
    result = call(dataset_tool.main, "--source=digits", f"--dest={path}", "--max-images=200")
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """Colour images without a constant pixel."""
    folder = tmp_path_factory.mktemp("colour")
    rng = np.random.default_rng(0)
    for k in range(400):  # more than there are dimensions
        (folder / f"{k % 2}").mkdir(exist_ok=True)
        smooth = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        image = Image.fromarray(smooth).resize((8, 8), Image.Resampling.BILINEAR)
        noisy = np.asarray(image).astype(int) + rng.integers(-20, 20, (8, 8, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{k % 2}" / f"{k}.png")
    path = folder / "colour.zip"
    result = call(dataset_tool.main, f"--source={folder}", f"--dest={path}")
    assert result.exit_code == 0, result.output
    return path


def trained(out, data, *args):
    result = call(train.main, f"--outdir={out}", f"--data={data}", *SMALL, *args)
    assert result.exit_code == 0, result.output
    return result.output


def losses(run):
    return [json.loads(x)["loss"] for x in (run / "stats.jsonl").read_text().splitlines()]


def test_constant_pixels_train_as_any(tmp_path, digits):
    output = trained(tmp_path, digits, "--duration=0.0005")
    run = tmp_path / "00000-digits-PRP"
    assert "constant or nearly so" in output
    assert max(losses(run)) < 3  # E|F*|^2 is 1; without care for such pixels it is thousands
    options = json.loads((run / "training_options.json").read_text())
    assert options["augment"] == 0
    with Image.open(run / "samples-000000.png") as grid:
        assert grid.size == (8 * 64, 8 * 64)
    flow = load_flow(tmp_path, "cpu")
    assert flow.model.shape == (1, 8, 8)
    assert flow.info["data"]["sha256"]


def test_augmenting_constant_pixels_is_refused(tmp_path, digits):
    result = call(train.main, f"--outdir={tmp_path / 'o'}", f"--data={digits}", *SMALL,
                  "--duration=0.0005", "--augment=0.1")  # fmt: skip
    assert result.exit_code == 2
    assert "use --augment=0" in result.output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("arch", ["ddpmpp", "ncsnpp", "adm"])
def test_every_network_trains_with_classes_and_augmentation(tmp_path, colour, arch):
    args = [f"--arch={arch}", "--cond", "--xflip", "--augment=0.5", "--duration=0.0001"]
    args += ["--dims_to_keep=30", "--cbase=64"] if arch == "adm" else ["--dims_to_keep=30"]
    trained(tmp_path, colour, *args)
    run = tmp_path / "00000-colour-PRRto30D"
    content = checkpoint.load_network(run)
    assert content["network"]["kwargs"]["label_dim"] == 2
    assert content["network"]["kwargs"]["augment_dim"] == 9
    assert content["precond"]["space"] == "IS"
    assert (run / "samples-000000.png").exists()


def test_interrupted_training_is_bit_identical(tmp_path, colour):
    """With dropout, augmentation and class labels."""
    args = ["--cond", "--augment=0.3", "--dropout=0.2", "--dump=1", "--no-plot"]
    trained(tmp_path / "whole", colour, *args, "--duration=0.0006")
    trained(tmp_path / "parts", colour, *args, "--duration=0.0006", "--stop_after=0.0003")
    trained(tmp_path / "parts", colour, *args, "--duration=0.0006", "--resume=latest")
    whole, parts = (checkpoint.load_network(tmp_path / f)["state"] for f in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


@pytest.mark.parametrize("precision", ["--bf16", "--fp16"])
def test_half_precision_trains_like_single(tmp_path, colour, precision):
    args = ["--duration=0.0006", "--augment=0", "--dropout=0", "--no-plot"]
    trained(tmp_path / "full", colour, *args)
    trained(tmp_path / "half", colour, *args, precision)
    full, half = (losses(next((tmp_path / f).iterdir())) for f in ("full", "half"))
    assert np.isfinite(half).all()
    np.testing.assert_allclose(half, full, rtol=0.1)
    state = checkpoint.load_network(tmp_path / "half")["state"]
    assert state["W"].dtype == torch.float64  # schedule and basis stay precise
    weights = [v for k, v in state.items() if k.endswith("conv0.weight")]
    assert {w.dtype for w in weights} == {torch.float32}


def test_the_eigenbasis_is_computed_once(tmp_path, colour, monkeypatch):
    args = ["--duration=0.0001", "--no-plot"]
    trained(tmp_path, colour, *args)
    monkeypatch.setattr("training.launch.eigenbasis", None)  # any further use would fail
    trained(tmp_path, colour, *args)
    (kept,) = (p for p in colour.parent.glob("*.basis-*.pt") if "xflip" not in p.name)
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    trained(tmp_path, colour, *args)
    one, two = (checkpoint.load_network(p)["state"]["W"] for p in sorted(tmp_path.iterdir())[1:])
    torch.testing.assert_close(one, two)


def test_transfer(tmp_path, colour):
    args = ["--duration=0.0001", "--no-plot", "--augment=0"]
    trained(tmp_path / "a", colour, *args)
    out = trained(tmp_path / "b", colour, *args, f"--transfer={tmp_path / 'a'}", "--lr=1e-12")
    assert "Transferred" in out
    a, b = (checkpoint.load_network(tmp_path / f)["state"] for f in "ab")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-6)


BAD = {
    "no data": ([], "--data is missing"),
    "absent": (["--data=nowhere.zip"], "nowhere.zip"),
    "both": (["--fp16", "--bf16"], "exclude each other"),
    "cres": (["--cres=1,x"], "not a list of positive integers"),
    "levels": (["--cres=1,1,1,1,1"], "divides by 16"),
    "dims": (["--data_dim=3072"], "has 192 dimensions"),
    "keep": (["--dims_to_keep=193"], "larger than --data_dim=192"),
    "transfer": (["--transfer=nowhere.pkl"], "--transfer: nowhere.pkl: no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(tmp_path, colour, case):
    args, reason = BAD[case]
    data = [] if case in ("no data", "absent") else [f"--data={colour}"]
    out = tmp_path / "out"
    result = call(train.main, f"--outdir={out}", *data, "--duration=0.0001", *SMALL[2:], *args)
    assert result.exit_code == 2, result.output
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert reason in line
    assert "Traceback" not in result.output
    assert not out.exists()
