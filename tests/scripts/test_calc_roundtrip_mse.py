"""calc_roundtrip_mse.py: the error of every image, the same in any run."""

import json

import numpy as np
import pytest
import torch

import calc_roundtrip_mse
from flow.flow import load_flow
from flow.images import pixel_errors
from tests.helpers import ROOT, run_script
from tests.image_networks import digits, error_line, good, untrained
from training.data.images import ImageSource, to_pixels

FAST = ("--device=cpu", "--solver=ab2", "--steps=3", "--seed=42")
NAME = "PRRto8D_Roundtrip_MSE_42seed_200.5kimgs"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    data = digits(folder)
    untrained(folder / "plain.pkl", data, 8, kimg=200.5)
    untrained(folder / "classes.pkl", data, 8, classes=10, kimg=200.5)
    untrained(folder / "silent.pkl", data, 8)
    return folder


def arguments(place, out, network="plain.pkl"):
    data = f"--data_root={place / 'digits.zip'}"
    return [f"--save_dir={out}", f"--network={place / network}", data, *FAST]


def load(folder, name=NAME):
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return json.loads((folder / f"{name}.json").read_text()), dict(arrays)


def test_errors_against_a_direct_formula():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.uniform(-1, 1, (20, 30)))
    back = x + torch.from_numpy(rng.normal(0, 0.5, (20, 30)))
    errors = pixel_errors(x, back)
    for i in range(20):
        squares, wrapped, exact = [], [], []
        for p, q in zip(x[i].tolist(), back[i].tolist(), strict=True):
            a, b = (min(max(round(127.5 * v + 127.5), 0), 255) for v in (p, q))
            squares.append((a - b) ** 2)
            wrapped.append((((a - b) % 256) ** 2) % 256)
            exact.append((127.5 * (p - q)) ** 2)
        assert errors["mse"][i] == pytest.approx(np.mean(squares))
        assert errors["mse_uint8_wrapped"][i] == pytest.approx(np.mean(wrapped))
        assert errors["mse_unrounded"][i] == pytest.approx(np.mean(exact))
    assert errors["mse"].mean() > 2 * errors["mse_uint8_wrapped"].mean()


def test_small_errors_do_not_wrap():
    x = torch.linspace(-1, 1, 256).double()[None]
    errors = pixel_errors(x, (x + 3 / 127.5).clamp(-1, 1))
    assert errors["mse"] == errors["mse_uint8_wrapped"]
    assert errors["mse"][0] == pytest.approx((253 * 9 + 4 + 1) / 256)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["plain.pkl", "classes.pkl"])
def test_the_same_whatever_the_batch_and_the_processes(place, tmp_path, network):
    args = ["--total_samples=100", "--data_name=digits", "--dims_to_keep=8"]
    one = arguments(place, tmp_path / "one", network)
    good(calc_roundtrip_mse.main, *one, *args, "--bs=7")
    other = arguments(place, tmp_path / "two", network)
    script = ROOT / "calc_roundtrip_mse.py"
    done = run_script(script, *other, *args, "--bs=7", "--no-plot", processes=2)
    assert done.returncode == 0, done.stderr
    (first, a), (second, b) = load(tmp_path / "one"), load(tmp_path / "two")
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    for key in ("mse", "mse_uint8_wrapped", "mse_unrounded", "evaluations_one_way"):
        assert first[key] == second[key]
    assert len(set(a["indices"])) == 100  # without replacement
    assert first["mse"] == a["mse"].mean() > 0
    whole = arguments(place, tmp_path / "whole", network)
    good(calc_roundtrip_mse.main, *whole, *args, "--no-plot", "--bs=64")
    c = load(tmp_path / "whole")[1]  # the same images, rounded otherwise on their way
    np.testing.assert_array_equal(a["indices"], c["indices"])
    np.testing.assert_allclose(a["mse_unrounded"], c["mse_unrounded"], rtol=1e-3)
    for picture in ("errors", "worst"):
        assert (tmp_path / "one" / f"{NAME}_{picture}.png").stat().st_size > 500
        assert not (tmp_path / "two" / f"{NAME}_{picture}.png").exists()


def test_against_the_flow(place, tmp_path):
    args = ["--total_samples=100", "--no-plot"]
    good(calc_roundtrip_mse.main, *arguments(place, tmp_path), *args)
    result, arrays = load(tmp_path)
    source = ImageSource(place / "digits.zip")
    flow = load_flow(place / "plain.pkl", "cpu")
    x = source.samples(0, 0, 150)[torch.from_numpy(arrays["indices"])]
    back = flow.round_trip(x, solver="ab2", steps=3)
    exact = (127.5 * (back - x)).square().mean(1)
    np.testing.assert_allclose(arrays["mse_unrounded"], exact, rtol=1e-3)
    rounded = to_pixels(back, (64, 1, 1)).astype(float) - to_pixels(x, (64, 1, 1))
    np.testing.assert_allclose(arrays["mse"], np.square(rounded).mean((1, 2, 3)), rtol=1e-2)
    assert result["evaluations_one_way"] == 4
    good(calc_roundtrip_mse.main, *arguments(place, tmp_path), *args, "--seed=43")
    other = load(tmp_path, NAME.replace("42seed", "43seed"))[1]
    assert set(other["indices"]) != set(arrays["indices"])


@pytest.mark.slow
def test_a_trained_network_loses_no_pixel(place, tmp_path):
    """With the default solver, and exactly with the reversible one; all images, which is said."""
    start = [a for a in arguments(place, tmp_path, "run") if not a.startswith(("--solver", "--st"))]
    output = good(calc_roundtrip_mse.main, *start, "--no-plot")
    assert "--total_samples=10000, but there are 150 images" in output
    name = NAME.replace("200.5k", "5k")  # it was trained on 5,000 images
    result, arrays = load(tmp_path, name)
    assert result["mse"] == 0
    assert result["evaluations_one_way"] == 33
    assert sorted(arrays["indices"]) == list(range(150))
    reversible = [*start, "--no-plot", "--solver=reversible", "--steps=4"]
    good(calc_roundtrip_mse.main, *reversible)
    assert load(tmp_path, name)[0]["mse_unrounded"] < 1e-20


def test_a_network_that_does_not_say_how_long_it_was_trained(place, tmp_path):
    args = [*arguments(place, tmp_path, "silent.pkl"), "--total_samples=10", "--no-plot"]
    output = good(calc_roundtrip_mse.main, *args, "--save_freq=10")
    assert "does not say how long it was trained: the result's name has unknownkimgs" in output
    assert "--save_freq=10 has no effect: only the ends of a round trip are kept" in output
    load(tmp_path, NAME.replace("200.5k", "unknownk"))


BAD = {
    "dims": (["--dims_to_keep=3072"], "has dims_to_keep=8"),
    "data": (["--data_root=nowhere.zip"], "nowhere.zip"),
    "count": (["--total_samples=0"], "--total_samples"),
    "network": (["--network=nowhere.pkl"], "nowhere.pkl"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(place, tmp_path, case):
    args, reason = BAD[case]
    line = error_line(calc_roundtrip_mse.main, *arguments(place, tmp_path / "o"), *args)
    assert reason in line
    assert not (tmp_path / "o").exists()


def test_the_published_command(place, tmp_path):
    args = [a for a in arguments(place, tmp_path / "o") if not a.startswith(("--solver", "--st"))]
    args += ["--data_name=cifar10", "--bs=1000", "--total_samples=10000", "--dims_to_keep=8"]
    assert "150 images" in good(calc_roundtrip_mse.main, *args, "--dry-run")
    assert not (tmp_path / "o").exists()
