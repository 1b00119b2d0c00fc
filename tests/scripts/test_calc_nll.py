"""calc_nll.py: files as documented, truth, one clear line on bad input."""

import json
import re
import shlex

import numpy as np
import pytest
import torch

import calc_nll
import toy_train
from experiments.density import langevin
from experiments.density import report as density_report
from flow.flow import load_flow
from flow.likelihood import log_prob
from tests.helpers import ROOT, run_script
from tests.image_networks import call, digits, error_line, good, untrained
from training.data.images import ImageSource
from training.data.toys import ToySource

QUICK = ["--solver=rk4", "--steps=4", "--device=cpu"]
IMAGES = ["--solver=ab3", "--steps=3", "--device=cpu", "--no-plot"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Networks trained for a second, and image networks with fixed weights."""
    folder = tmp_path_factory.mktemp("nll")
    for name, keep in (("gmm1d", 1), ("circles_sharp", 1)):
        args = [f"--outdir={folder / name}", f"--data_name={name}", f"--dims_to_keep={keep}"]
        good(toy_train.main, *args, "--duration=0.05", "--batch=500", "--no-plot", "--device=cpu")
    data = digits(folder)
    untrained(folder / "prp.pkl", data, keep=64, tmax=7.01)
    untrained(folder / "small.pkl", data, keep=64, tmax=9.0, gamma0=1.7e-6)
    untrained(folder / "prr.pkl", data, keep=8, inflation_gap=1.5)
    return folder


def results(folder, stem):
    """Entries of the .json, and arrays."""
    with np.load(folder / f"{stem}.npz", allow_pickle=False) as archive:
        return json.loads((folder / f"{stem}.json").read_text()), dict(archive)


def toys(place, tmp_path, *args, name="gmm1d"):
    return good(calc_nll.main, "toys", f"--save_dir={tmp_path}", f"--network={place / name}",
                "--total_samples=300", *QUICK, *args)  # fmt: skip


def net(place, tmp_path, *args, network="prp.pkl"):
    return good(calc_nll.main, "net", f"--save_dir={tmp_path}", f"--network={place / network}",
                f"--data_root={place / 'digits.zip'}", *IMAGES, *args)  # fmt: skip


def test_toys_write_what_is_documented(place, tmp_path):
    said = toys(place, tmp_path, "--sde", "--sde_times=4")
    told, arrays = results(tmp_path, "gmm1d_PRP_nll")
    flow = load_flow(place / "gmm1d", "cpu")
    x = ToySource("gmm1d").samples(1, 0, 300).numpy()
    assert 0.01 < np.std(arrays["points"] - x) < 0.04  # the noise of gamma0 = 5e-4
    density = log_prob(flow, torch.from_numpy(arrays["points"]), steps=4)
    np.testing.assert_allclose(arrays["log_prob"], density.value, rtol=1e-12)
    np.testing.assert_allclose(arrays["latents"], density.latents, atol=1e-6)
    found = told["results"]
    assert found["nll_nats"]["mean"] == pytest.approx(-arrays["log_prob"].mean())
    assert found["bits_per_dim"]["mean"] == pytest.approx(-arrays["log_prob"].mean() / np.log(2))
    bound = sum(arrays[k] for k in ("prior", "diffusion", "rest"))
    assert found["sde_nll_nats"]["mean"] == pytest.approx(bound.mean())
    assert found["evaluations_per_sample"] == 4 * 4 + 4
    assert found["mass_on_grid"] == pytest.approx(1.0, abs=0.05)
    assert found["excess_over_truth_nats"]["mean"] > 0.1  # a second of training
    assert told["options"]["seed"] == 1
    assert said.splitlines()[-1].startswith(f"NLL {found['nll_nats']['mean']:.4f}")
    for picture in ("density", "latents"):
        assert (tmp_path / f"gmm1d_PRP_nll_{picture}.png").stat().st_size > 5000


def test_two_dimensions_and_a_latent_that_is_not_gaussian(place, tmp_path):
    said = toys(place, tmp_path, "--bits", "--total_samples=3000", name="circles_sharp")
    told, _ = results(tmp_path, "circles_sharp_PRRto1D_nll")
    assert "latents are not Gaussian" in said
    assert re.search(r"compressed dimension 1 \(from 0\) has KS distance 0\.\d+", said)
    assert "circles_sharp_PRRto1D_nll_latents.png" in said
    assert not told["results"]["latents"]["gaussian"]
    assert told["results"]["latents"]["worst_dimensions"][0]["group"] == "compressed"
    assert said.splitlines()[-1].endswith("bits/dim")
    assert (tmp_path / "circles_sharp_PRRto1D_nll_density.png").stat().st_size > 5000


def test_clean_data_and_hutchinson(place, tmp_path):
    toys(place, tmp_path, "--no-noise", "--trace=hutchinson", "--probes=2", "--no-plot",
         name="circles_sharp")  # fmt: skip
    told, arrays = results(tmp_path, "circles_sharp_PRRto1D_nll")
    x = ToySource("circles_sharp").samples(1, 0, 300).numpy()
    np.testing.assert_allclose(arrays["points"], x)
    assert told["results"]["trace_standard_error_nats"] > 0
    assert "true_nll_nats" not in told["results"]
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_processes_do_not_change_results(place, tmp_path):
    for n in (1, 2):
        args = ["calc_nll.py", "net", f"--save_dir={tmp_path / str(n)}", "--total_samples=70",
                f"--network={place / 'prp.pkl'}", f"--data_root={place / 'digits.zip'}", *IMAGES,
                "--sde", "--sde_times=2", "--steps=2"]  # fmt: skip
        done = run_script(*args, processes=n)
        assert done.returncode == 0, done.stderr
    (_, one), (_, two) = (results(tmp_path / n, "digits_PRP_nll") for n in "12")
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_images_agree_with_the_library(place, tmp_path):
    net(place, tmp_path, "--total_samples=20", "--dequantization=none", "--no-noise", "--seed=3")
    told, arrays = results(tmp_path, "digits_PRP_nll")
    source = ImageSource(place / "digits.zip")
    x = source.samples(3, 0, 20, "drawn")
    density = log_prob(load_flow(place / "prp.pkl", "cpu"), x, solver="ab3", steps=3, seed=3)
    np.testing.assert_allclose(arrays["log_prob"], density.value, rtol=1e-9)
    np.testing.assert_array_equal(arrays["indices"], source.picks(3, 0, 20, "drawn"))
    bits = -arrays["log_prob"].mean() / (64 * np.log(2))
    assert told["results"]["bits_per_dim"]["mean"] == pytest.approx(bits)


@pytest.mark.parametrize("kind", ["uniform", "tn"])
def test_importance_draws(place, tmp_path, kind):
    """More draws only ever tighten, and the same seed has the same first draw."""
    bits = []
    for k in (1, 3):
        folder = tmp_path / str(k)
        net(place, folder, "--total_samples=30", f"--dequantization={kind}", "--sde",
            "--sde_times=2", f"--num_importance={k}", network="small.pkl")  # fmt: skip
        told, arrays = results(folder, "digits_PRP_nll")
        bits.append(told["results"]["bits_per_dim"]["mean"])
        assert told["results"]["half_width"] == 1 / 255
        assert np.isfinite(arrays["diffusion"]).all()
    assert bits[1] < bits[0]


def test_an_interrupted_run_goes_on(place, tmp_path, monkeypatch):
    args = ["--total_samples=100", "--dequantization=uniform"]
    net(place, tmp_path / "whole", *args)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(density_report, "finish", interrupted)
        call(calc_nll.main, "net", f"--save_dir={tmp_path}", f"--network={place / 'prp.pkl'}",
             f"--data_root={place / 'digits.zip'}", *IMAGES, *args)  # fmt: skip
    (last,) = tmp_path.glob("digits_PRP_nll_parts/*-00000064.npz")
    last.write_bytes(last.read_bytes()[:200])  # cut off while being copied
    said = net(place, tmp_path, *args)
    assert "Going on: 2 blocks" in said
    (_, whole), (_, again) = (
        results(folder, "digits_PRP_nll") for folder in (tmp_path / "whole", tmp_path)
    )
    for key in whole:
        np.testing.assert_array_equal(whole[key], again[key])
    assert not (tmp_path / "digits_PRP_nll_parts").exists()


def test_the_users_own_vectors(tmp_path):
    x = np.random.default_rng(0).standard_normal((300, 2)) * [100, 0.1] + [5, 7]
    np.savetxt(tmp_path / "mine.csv", x, delimiter=",")
    np.savetxt(tmp_path / "other.csv", 1000 * x + 1e5, delimiter=",")
    good(toy_train.main, f"--outdir={tmp_path / 'o'}", f"--data={tmp_path / 'mine.csv'}",
         "--duration=0.02", "--batch=500", "--no-plot", "--device=cpu")  # fmt: skip
    args = ["toys", f"--network={tmp_path / 'o'}", f"--save_dir={tmp_path / 'r'}", *QUICK]
    good(calc_nll.main, *args, f"--data={tmp_path / 'mine.csv'}", "--no-plot")
    told, arrays = results(tmp_path / "r", "mine_PRP_nll")
    assert len(arrays["log_prob"]) == 300
    gaussian = 0.5 * np.log((2 * np.pi * np.e) ** 2 * np.linalg.det(np.cov(x.T)))
    assert told["results"]["nll_nats"]["mean"] == pytest.approx(gaussian, abs=0.3)
    line = error_line(calc_nll.main, *args, f"--data={tmp_path / 'other.csv'}")
    assert "sds from the network's data" in line
    assert "other.csv" in line


TOY_ERRORS = {
    "other data": (["--data_name=moons"], "--data_name=moons contradicts the network"),
    "another schedule": (["--dims_to_keep=2"], "contradicts the network"),
    "no network": (["--network=/nowhere/net.pkl"], "no such file"),
    "beyond tmax": (["--steps=1501"], "beyond the flow's tmax"),
    "unknown trace": (["--trace=guess"], "'guess' is not one of"),
    "no samples": (["--total_samples=0"], "--total_samples"),
}
NET_ERRORS = {
    "no data": (["--data_root=/nowhere"], "/nowhere"),
    "noise too large": (["--dequantization=tn"], r"gamma0 at most 1.7e-06"),
    "draws of nothing": (["--dequantization=none", "--num_importance=5"], "--num_importance=5"),
    "unknown kind": (["--dequantization=variational"], "is not one of"),
    "not images": (["--network=circles_sharp"], "was not trained on images"),
    "no bound": (["--network=prr.pkl", "--sde"], "--sde: the noise of compressed dimensions"),
}


@pytest.mark.parametrize("case", [*TOY_ERRORS, *NET_ERRORS])
def test_bad_input_is_one_clear_line(place, tmp_path, monkeypatch, case):
    monkeypatch.chdir(place)
    args, reason = (TOY_ERRORS | NET_ERRORS)[case]
    save = tmp_path / "out"
    common = ["toys", "--network=circles_sharp"]
    if case in NET_ERRORS:
        common = ["net", "--network=prp.pkl", "--data_root=digits.zip"]
    line = error_line(calc_nll.main, *common, f"--save_dir={save}", *args)
    assert reason in line
    assert not save.exists()


def test_dry_run_writes_nothing(place, tmp_path):
    toys(place, tmp_path / "x", "--dry-run")
    said = net(place, tmp_path / "x", "--dry-run")
    assert "half-width 1/255" in said
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_walk_through(tmp_path, monkeypatch):
    """Every command of docs/likelihood.md runs, on less training and fewer samples."""
    text = re.sub(r" \\\n\s+", " ", (ROOT / "docs" / "likelihood.md").read_text())
    commands = re.findall(r"^    python (.*)$", text, re.M)
    small = {
        "toy_train.py": ["--duration=0.01", "--batch=500", "--no-plot", "--tick=5"],
        "train.py": ["--duration=0.002", "--batch=50", "--no-plot", "--cbase=16", "--tick=1"],
        "calc_nll.py toys": ["--total_samples=100", "--steps=4", "--solver=rk4"],
        "calc_nll.py net": ["--total_samples=20", "--steps=3", "--solver=ab3", "--sde_times=2"],
        "-m experiments.density.langevin": ["--total_samples=100", "--steps=10"],
        "dataset_tool.py": ["--max-images=40"],
    }
    monkeypatch.chdir(tmp_path)
    seen = set()
    for command in commands:
        (kind,) = [k for k in small if command.startswith(k)]
        seen.add(kind)
        words = shlex.split(command)
        module = words[1].split(".")[-1] if words[0] == "-m" else words[0].removesuffix(".py")
        main = langevin.main if module == "langevin" else __import__(module).main
        good(main, *(words[2:] if words[0] == "-m" else words[1:]), *small[kind])
    assert seen == set(small)
    assert (tmp_path / "out/gmm1d/gmm1d_PRP_nll_density.png").exists()
    assert (tmp_path / "out/gmm1d/gmm1d_PRP_langevin_paths.png").exists()


@pytest.mark.slow
def test_trained_networks_reach_the_truth(tmp_path):
    """Circles within .03 nats of their entropy, gmm1d within .02 total variation."""
    for name, more in (("circles_sharp", ["--duration=5"]), ("gmm1d", [])):
        args = [f"--outdir={tmp_path / name}", f"--data_name={name}", "--no-plot", "--device=cpu"]
        good(toy_train.main, *args, *more)
        good(calc_nll.main, "toys", f"--network={tmp_path / name}", f"--save_dir={tmp_path}",
             "--device=cpu")  # fmt: skip
    circles, _ = results(tmp_path, "circles_PRP_nll")
    assert abs(circles["results"]["excess_over_truth_nats"]["mean"]) <= 0.03
    gmm1d, _ = results(tmp_path, "gmm1d_PRP_nll")
    assert gmm1d["results"]["total_variation_from_truth"] <= 0.02
