"""train.py on small real images: the same loop, resumed exactly, in every precision."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import dataset_tool
import train
from flow.flow import load_flow
from tests.helpers import random_basis
from tests.image_fixtures import pixels, png, write_zip
from training import network_file
from training.basis import Basis
from training.edm_precond import RECIPES
from training.image_options import augmentation
from training.precond import Conditioned

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
        assert grid.size == (8 * 68 + 4, 8 * 68 + 4)  # gaps of 4 pixels
    flow = load_flow(tmp_path, "cpu")
    assert flow.model.shape == (1, 8, 8)
    assert flow.info["data"]["sha256"]


def test_little_varying_directions_do_not_forbidaugmentation():
    """As in CIFAR-10: the covariance has tiny eigenvalues, but every pixel varies."""
    basis = random_basis([1.0, 0.5, 1e-6, 1e-6])
    basis.floored = 2
    assert augmentation(None, basis) == 0.12
    assert augmentation(0.3, basis) == 0.3
    still = Basis(basis.mean, basis.scale, basis.xi, torch.eye(4).double(), 2)
    assert augmentation(None, still) == 0
    assert augmentation(None, still.isotropic()) == 0.12


def test_augmenting_constant_pixels_is_refused(tmp_path, digits):
    result = call(train.main, f"--outdir={tmp_path / 'o'}", f"--data={digits}", *SMALL,
                  "--duration=0.0005", "--augment=0.1")  # fmt: skip
    assert result.exit_code == 2
    assert "use --augment=0" in result.output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("arch", ["ddpmpp", "ncsnpp", pytest.param("adm", marks=pytest.mark.slow)])
def test_every_network_trains_with_classes_andaugmentation(tmp_path, colour, arch):
    args = [f"--arch={arch}", "--cond", "--xflip", "--augment=0.5", "--duration=0.0001"]
    args += ["--dims_to_keep=30", "--cbase=64"] if arch == "adm" else ["--dims_to_keep=30"]
    trained(tmp_path, colour, *args)
    run = tmp_path / "00000-colour-PRRto30D"
    content = network_file.load_network(run)
    assert content["network"]["kwargs"]["label_dim"] == 2
    assert content["network"]["kwargs"]["augment_dim"] == 9
    assert content["precond"]["space"] == "IS"
    assert (run / "samples-000000.png").exists()


def test_interrupted_training_is_bit_identical(tmp_path, colour):
    """With dropout, augmentation and class labels."""
    args = ["--cond", "--augment=0.3", "--dropout=0.2", "--dump=1", "--no-plot"]
    trained(tmp_path / "whole", colour, *args, "--duration=0.0004")
    trained(tmp_path / "parts", colour, *args, "--duration=0.0004", "--stop_after=0.0002")
    trained(tmp_path / "parts", colour, *args, "--duration=0.0004", "--resume=latest")
    whole, parts = (network_file.load_network(tmp_path / f)["state"] for f in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["--bf16", "--fp16"])
def test_half_precision_trains_like_single(tmp_path, colour, precision):
    args = ["--duration=0.0006", "--augment=0", "--dropout=0", "--no-plot"]
    trained(tmp_path / "full", colour, *args)
    trained(tmp_path / "half", colour, *args, precision)
    full, half = (losses(next((tmp_path / f).iterdir())) for f in ("full", "half"))
    assert np.isfinite(half).all()
    np.testing.assert_allclose(half, full, rtol=0.1)
    state = network_file.load_network(tmp_path / "half")["state"]
    assert state["W"].dtype == torch.float64  # schedule and basis stay precise
    weights = [v for k, v in state.items() if k.endswith("conv0.weight")]
    assert {w.dtype for w in weights} == {torch.float32}


def test_the_eigenbasis_is_computed_once(tmp_path, colour, monkeypatch):
    args = ["--duration=0.0001", "--no-plot"]
    trained(tmp_path, colour, *args)
    monkeypatch.setattr("training.image_options.eigenbasis", None)  # any further use would fail
    trained(tmp_path, colour, *args)
    (kept,) = (p for p in colour.parent.glob("*.basis-*.pt") if "xflip" not in p.name)
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    trained(tmp_path, colour, *args)
    one, two = (network_file.load_network(p)["state"]["W"] for p in sorted(tmp_path.iterdir())[1:])
    torch.testing.assert_close(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("precond", ["edm", "vp", "ve"])
def test_other_methods_train_and_generate(tmp_path, digits, precond):
    """Also with constant pixels, and with augmentation there: one variance whitens all of them."""
    args = [f"--precond={precond}", "--augment=0.3", "--duration=0.0005"]
    output = trained(tmp_path, digits, *args)
    run = tmp_path / "00000-digits-PRP"
    recipe = RECIPES[precond]
    assert f"Noise levels: {recipe.t_sampling} within" in output
    assert "Warning" not in output
    options = json.loads((run / "training_options.json").read_text())
    assert options["t_sampling"] == recipe.t_sampling
    flow = load_flow(tmp_path, "cpu")
    ends = [float(flow.schedule.gamma(t)[0][0].sqrt()) for t in (0.0, flow.schedule.tmax)]
    assert ends == pytest.approx(recipe.levels, rel=1e-6)
    assert flow.model.time_input == precond
    # A network of zeros has 1 (field), or less (noise).
    assert 0 < max(losses(run)) < 2
    assert (run / "samples-000000.png").exists()
    again = trained(tmp_path, digits, "--resume=latest", "--duration=0.0006")
    assert "Resuming at" in again


def test_levels_outside_the_schedule_are_said(tmp_path, digits):
    args = ["--precond=ve", "--gamma0=1", "--duration=0.0001", "--no-plot"]
    output = trained(tmp_path, digits, *args)
    # log(1 / 0.02) / log(100 / 0.02) = 45.9 %
    assert "Warning: 45.9 % of the noise levels of --t_sampling=log_uniform lie outside" in output


@pytest.mark.slow
def test_how_batches_are_prepared_changes_nothing(tmp_path, colour):
    """Threads ahead, pieces, cache: the same weights, bit for bit."""
    args = ["--cond", "--augment=0.3", "--duration=0.0003", "--no-plot", "--batch-gpu=12"]
    trained(tmp_path / "0", colour, *args, "--workers=0")
    trained(tmp_path / "1", colour, *args)
    trained(tmp_path / "3", colour, *args, "--workers=3", "--no-cache", "--no-bench")
    first, *others = (network_file.load_network(tmp_path / f)["state"] for f in "013")
    for other in others:
        for name in first:
            assert torch.equal(first[name], other[name]), name


def test_a_run_goes_on_with_its_own_data_only(tmp_path, colour, digits):
    data = tmp_path / "data.zip"
    others = {f"{i}.png": png(x) for i, x in enumerate(pixels(400, 8))}
    for other in (write_zip(tmp_path / "same-size.zip", others), digits):
        shutil.copy(colour, data)
        trained(tmp_path / "out", data, "--duration=0.0001", "--augment=0", "--no-plot")
        shutil.copy(other, data)
        run = sorted((tmp_path / "out").iterdir())[-1]
        result = call(train.main, f"--resume={run}", "--duration=0.0002", "--device=cpu")
        assert result.exit_code == 2
        (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
        assert f"--resume={run} was trained on other data than --data={data} has now" in line


def test_no_compiler_is_one_line(tmp_path, colour, monkeypatch):
    error = torch._dynamo.exc.TorchDynamoException("no working C++ compiler\n\nlong advice")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("training.training_loop.flow_loss", fail)
    args = [f"--outdir={tmp_path}", f"--data={colour}", *SMALL, "--duration=0.0001", "--compile"]
    result = call(train.main, *args)
    assert result.exit_code == 2
    assert "(no working C++ compiler); use --no-compile" in result.output


@pytest.mark.slow
def test_compiled_training_resumes_and_is_like_the_plain(tmp_path, colour):
    args = ["--cond", "--augment=0.3", "--dropout=0.2", "--dump=1", "--snap=1"]
    args += ["--duration=0.0006", "--cres=1"]
    trained(tmp_path / "plain", colour, *args)
    trained(tmp_path / "compiled", colour, *args, "--compile", "--stop_after=0.0003")
    output = trained(tmp_path / "compiled", colour, *args, "--compile", "--resume=latest")
    assert "Resuming at" in output
    plain, compiled = (next((tmp_path / f).iterdir()) for f in ("plain", "compiled"))
    np.testing.assert_allclose(losses(compiled), losses(plain), rtol=1e-2)
    assert {p.name for p in plain.glob("samples-*")} == {p.name for p in compiled.glob("samples-*")}
    a, b = (network_file.load_network(run)["state"] for run in (plain, compiled))
    assert a.keys() == b.keys()  # a compiled network's parameters keep their names
    x = np.random.default_rng(0).uniform(-1, 1, (4, 192))
    labels = torch.eye(2).repeat(2, 1)
    u = [Conditioned(load_flow(run, "cpu").model, labels) for run in (plain, compiled)]
    F = [m(torch.from_numpy(x), torch.full((4,), 3.0).double()) for m in u]
    torch.testing.assert_close(F[0], F[1], rtol=0.05, atol=0.02)


def test_transfer(tmp_path, colour):
    args = ["--duration=0.0001", "--no-plot", "--augment=0"]
    trained(tmp_path / "a", colour, *args)
    out = trained(tmp_path / "b", colour, *args, f"--transfer={tmp_path / 'a'}", "--lr=1e-12")
    assert "Transferred" in out
    a, b = (network_file.load_network(tmp_path / f)["state"] for f in "ab")
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
    "one level": (["--precond=vp", "--dims_to_keep=30"], "--precond=vp is for one noise level"),
    "sampling": (
        ["--t_sampling=lognormal", "--g_type=proportional"],
        "--t_sampling=lognormal is for one noise level in all dimensions: use another --g_type",
    ),
    "workers": (["--workers=-1"], "'--workers'"),
    "published state": (
        ["--resume=x/training-state-001000.pt"],
        "released code holds no schedule to go on with: start from the average of its weights, "
        "--transfer=x/network-snapshot-001000.pkl",
    ),
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
