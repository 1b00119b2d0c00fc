"""--class=none: a class-conditional network gets zero labels, as in the published scripts."""

import json

import numpy as np
import pytest
import torch

import calc_net_residuals_autocorrelations
import calc_nll
import calc_roundtrip_mse
import gen_fid_samples
import pfODE_int
from experiments.residuals.autocorrelation import denoised, noise_rows
from flow.flow import load_flow, vp_ode_times
from tests.image_networks import digits, error_line, good, untrained
from training.data.images import ImageSource

FAST = ["--device=cpu", "--solver=ab2", "--steps=3", "--no-plot"]
NOTE = "Note: this network has 10 classes, and its samples have their labels; the published"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    data = digits(folder, 70)
    untrained(folder / "classes.pkl", data, 8, classes=10)
    untrained(folder / "plain.pkl", data, 8)
    return folder


def arguments(place, out, network="classes.pkl"):
    return [f"--save_dir={out}", f"--network={place / network}"]


def zero_labels(place, n):
    """The flow of n samples with zero labels, and the same number of images of seed 0."""
    flow = load_flow(place / "classes.pkl", "cpu").given(torch.zeros(n, 10))
    return flow, ImageSource(place / "digits.zip")


def test_published_labels_of_simulations_are_zero(place, tmp_path):
    data = f"--data_root={place / 'digits.zip'}"
    start = [
        pfODE_int.main,
        *arguments(place, tmp_path),
        data,
        *FAST,
        "--bs=20",
        "--save_dtype=float64",
    ]
    assert NOTE in good(*start)
    stem = tmp_path / "digits_PRRto8D_net_"
    true = np.load(f"{stem}melt_results.npz")["xs_es"][-1]
    assert NOTE not in good(*start, "--class=none")
    melt, gen = (np.load(f"{stem}{kind}_results.npz") for kind in ("melt", "gen"))
    assert "classes" not in melt.files
    flow, source = zero_labels(place, 20)
    z = flow.inflate(source.samples(0, 0, 20, "drawn"), solver="ab2", steps=3)
    np.testing.assert_allclose(melt["xs_es"][-1], z, rtol=1e-4, atol=2e-4)
    assert np.abs(true - z.numpy()).max() > 1e-3
    x = flow.sample(20, 0, solver="ab2", steps=3)
    np.testing.assert_allclose(gen["tilde_xs"][-1], x, rtol=1e-4, atol=2e-4)
    prev = ["--sim_type=roundtrip", f"--prev_melt={stem}melt_results.npz"]
    assert "was made with --class=none or without" in error_line(*start, *prev)
    good(*start, *prev, "--class=none")


def test_published_labels_of_seeds_are_zero(place, tmp_path):
    start = [gen_fid_samples.main, *arguments(place, tmp_path), *FAST, "--seeds=0-3"]
    good(*start, "--class=none")
    content = json.loads((tmp_path / "gen_fid_samples_options.json").read_text())
    assert content["identity"]["class"] == content["options"]["class"] == "none"
    assert "holds images made otherwise (class: none, now None)" in error_line(*start)


def test_published_labels_of_round_trips_and_likelihoods_are_zero(place, tmp_path):
    data = [f"--data_root={place / 'digits.zip'}", "--total_samples=20", "--seed=0"]
    start = [calc_roundtrip_mse.main, *arguments(place, tmp_path), *FAST, *data]
    assert NOTE in good(*start)
    (path,) = tmp_path.glob("PRRto8D_Roundtrip_MSE_*.npz")
    true = np.load(path)["mse_unrounded"]
    good(*start, "--class=none")
    (path,) = tmp_path.glob("PRRto8D_Roundtrip_MSE_*.npz")
    flow, source = zero_labels(place, 20)
    x = source.samples(0, 0, 20, "drawn")
    error = 127.5 * (flow.round_trip(x, solver="ab2", steps=3) - x)
    found = np.load(path)["mse_unrounded"]
    np.testing.assert_allclose(found, error.square().mean(1), rtol=1e-3)
    assert not np.allclose(true, found, rtol=1e-2)
    start = [calc_nll.main, "net", *arguments(place, tmp_path), *FAST, *data, "--trace=hutchinson"]
    assert NOTE in good(*start)
    true = np.load(tmp_path / "digits_PRRto8D_nll.npz")["log_prob"]
    assert NOTE not in good(*start, "--class=none")
    assert not np.allclose(
        np.load(tmp_path / "digits_PRRto8D_nll.npz")["log_prob"], true, rtol=1e-6
    )


def test_published_labels_of_residuals_are_zero(place, tmp_path):
    start = [calc_net_residuals_autocorrelations.main, "extract", *arguments(place, tmp_path),
             f"--data_root={place / 'digits.zip'}", "--n_samples=20", "--n_time_pts=2",
             "--device=cpu"]  # fmt: skip
    good(*start, "--class=none")
    flow, source = zero_labels(place, 20)
    t = vp_ode_times(2, flow.schedule.tmax)[1]
    D, _ = denoised(
        flow, source.samples(0, 0, 20, "drawn"), noise_rows(0, "fresh", 1, 0, 20, 64), t
    )
    found = np.load(tmp_path / "digits_PRRto8D_net_outputs_residuals_time1.npz")["net_outputs"]
    np.testing.assert_allclose(found, D, rtol=1e-4, atol=2e-4)
    assert "labels=zero and not of the images" in error_line(*start)


def test_without_classes_the_option_is_refused(place, tmp_path):
    start = [*arguments(place, tmp_path, "plain.pkl"), *FAST]
    for main in (pfODE_int.main, gen_fid_samples.main, calc_roundtrip_mse.main):
        assert "--class=none: the network is not conditional" in error_line(
            main, *start, "--class=none"
        )
    assert "'x' is neither a class" in error_line(gen_fid_samples.main, *start, "--class=x")
