"""Older network files in the scripts, where --network takes ours."""

import json

import numpy as np
import pytest
from PIL import Image

import calc_nll
import calc_roundtrip_mse
import gen_fid_samples
import pfODE_int
import toy_pfODE_int
from tests.helpers import conformance
from tests.image_fixtures import write_zip
from tests.image_networks import error_line, good
from tests.security.legacy_writer import write_embedded_toy, write_inflationary, write_sigma
from tests.training.test_edm_precond import published
from training import network_file
from training.network_file import transfer
from training.precond import InflationPrecond

TOY = "toy_d2_keep1_orig_ES"
IMAGE = "image_keep30_constant_inflation_gap_IS"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with older networks, and RGB images that fit the second."""
    folder = tmp_path_factory.mktemp("older")
    canary = folder / "canary"
    write_inflationary(folder / "toy.pkl", TOY, canary)
    write_inflationary(folder / "network-snapshot-001000.pkl", IMAGE, canary)
    write_sigma(folder / "vp.pkl", "VPPrecond", canary)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    files = {}
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "x.png")
        files[f"{i}.png"] = (folder / "x.png").read_bytes()
    write_zip(folder / "data.zip", files)
    yield folder
    assert not canary.exists(), "source text of a file was run"


def test_toys_with_the_published_command(place, tmp_path):
    """The README's --steps tells the end time that the file may lack."""
    network = f"--network={place / 'toy.pkl'}"
    toys = ["net", f"--save_dir={tmp_path}", network, "--data_name=circles", "--data_dim=2",
            "--dims_to_keep=1", "--total_samples=20", "--no-plot"]  # fmt: skip
    good(toy_pfODE_int.main, *toys, "--steps=10", "--h=0.3")
    params = json.loads((tmp_path / "circles_PRRto1D_net_sim_params.json").read_text())
    assert params["schedule"]["tmax"] == pytest.approx(3.0)
    assert params["schedule"]["g_type"] == conformance(TOY)[0]["g_type"]
    assert "give --tmax" in error_line(toy_pfODE_int.main, *toys)
    good(toy_pfODE_int.main, *toys, "--tmax=2.5", "--solver=rk4", "--steps=4")
    params = json.loads((tmp_path / "circles_PRRto1D_net_sim_params.json").read_text())
    assert params["schedule"]["tmax"] == 2.5
    nll = ["toys", f"--save_dir={tmp_path}", network, "--data_name=circles", "--total_samples=4"]
    good(calc_nll.main, *nll, "--tmax=2.5", "--solver=rk4", "--steps=2", "--no-plot")


def test_embedded_toys_simulate_under_their_own_name(place, tmp_path):
    write_embedded_toy(tmp_path / "wide.pkl", place / "canary", 2, 5)
    good(toy_pfODE_int.main, "net", f"--network={tmp_path / 'wide.pkl'}", "--tmax=7.01",
         f"--save_dir={tmp_path}", "--total_samples=20", "--solver=rk4", "--steps=4",
         "--no-plot")  # fmt: skip
    with np.load(tmp_path / "circles_PRP_net_melt_results.npz") as f:
        assert f["tilde_xs"].shape[2] == 5
        assert all(np.isfinite(f[k]).all() for k in ("xs", "dxs", "net_outs"))
        assert np.linalg.matrix_rank(f["tilde_xs"][0], tol=1e-6) == 2


@pytest.mark.parametrize("name", ["network-snapshot-001000.pkl", "vp.pkl"])
def test_images(place, tmp_path, name):
    common = [f"--network={place / name}", f"--save_dir={tmp_path}", "--no-plot", "--device=cpu"]
    few = ["--solver=rk4", "--steps=2"]
    good(gen_fid_samples.main, *common, *few, "--seeds=0-1")
    assert len(list(tmp_path.glob("*.png"))) == 2
    data = f"--data_root={place / 'data.zip'}"
    good(pfODE_int.main, *common, *few, data, "--bs=4")
    good(calc_roundtrip_mse.main, *common, *few, data, "--total_samples=4")
    (report,) = tmp_path.glob("*_Roundtrip_MSE_*.json")
    text = report.read_text()
    assert '"mse"' in text
    assert "NaN" not in text


def test_weights_to_start_from(place):
    model: InflationPrecond = published(IMAGE)[0]
    lines = transfer(model, network_file.load_network(place / "vp.pkl"), "vp.pkl")
    assert lines == ["Transferred 197 of 197 tensors from vp.pkl"]


def test_a_digest_is_checked_everywhere(place, tmp_path):
    for main, name in ((gen_fid_samples.main, "vp.pkl"), (toy_pfODE_int.main, "toy.pkl")):
        args = [f"--network={place / name}", f"--save_dir={tmp_path}", f"--sha256={'0' * 64}"]
        args = ["net", *args] if main is toy_pfODE_int.main else args
        assert "expected 0000" in error_line(main, *args)
