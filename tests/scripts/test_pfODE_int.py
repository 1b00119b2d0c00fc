"""pfODE_int.py: simulations of images, from the published integration to one clear line."""

import json
import re

import numpy as np
import pytest
import torch

import pfODE_int
from flow.flow import Flow, load_flow, vp_ode_times
from flow.method import paper_method
from flow.simulation import ENDS_ONLY, KEYS, KINDS, Simulations
from tests.helpers import ROOT, run_script
from tests.image_networks import digits, error_line, good, trained, untrained
from tests.training.test_edm_precond import IMAGES, published
from training.data.images import ImageSource

COMMON = ("--device=cpu", "--no-plot", "--bs=70")
FAST = ("--solver=ab2", "--steps=4")
STEM = "digits_PRRto8D_net_"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Digits and untrained networks on them, without and with classes."""
    folder = tmp_path_factory.mktemp("images")
    data = digits(folder)
    untrained(folder / "plain.pkl", data, 8)
    untrained(folder / "classes.pkl", data, 8, classes=10)
    untrained(folder / "prp.pkl", data, 64)
    return folder


def call(place, out, *args, network="plain.pkl", data=True):
    root = [f"--data_root={place / 'digits.zip'}"] if data else []
    network = f"--network={place / network}"
    return good(pfODE_int.main, f"--save_dir={out}", network, *root, *COMMON, *args)


def load(folder, kind, stem=STEM):
    with np.load(folder / f"{stem}{kind}_results.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def params(folder):
    (path,) = folder.glob("*_HD_pfODE_int_sim_params.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", IMAGES)
def test_published_integration_through_the_flow_and_the_simulations(name):
    """The published grid starts at t = 0.01, and takes the data to be there."""
    precond, args, a = published(name)
    flow = Flow(precond)
    method = paper_method(flow, "heun", "vp_ode", args["n_iters"])
    assert method.times == vp_ode_times(args["n_iters"], args["end_time"])
    close = {"rtol": 1e-4, "atol": 2e-5}
    x = a["batch"].flatten(1)
    z = flow.inflate(x, **method.how())
    torch.testing.assert_close(z.float(), a["melt_xs_es"][-1], **close)
    back = flow.generate(a["melt_xs_es"][-1], **method.how())
    torch.testing.assert_close(back.float(), a["gen_tilde_xs"][-1], **close)
    torch.testing.assert_close(flow.round_trip(x, **method.how()).float(), back.float(), **close)
    kinds = ("melt", "roundtrip")
    results = Simulations(flow, method, len(x), kinds, 0, x=x, save_freq=ENDS_ONLY).run()
    melt, trip = results["melt"], results["roundtrip"]
    np.testing.assert_allclose(melt.arrays["xs_es"], a["melt_xs_es"], **close)
    np.testing.assert_allclose(trip.arrays["tilde_xs"], a["gen_tilde_xs"], **close)
    np.testing.assert_allclose(melt.arrays["t"], [0.01, args["end_time"]])
    assert melt.evaluations == trip.evaluations == 2 * (args["n_iters"] - 1)


@pytest.mark.slow
def test_a_trained_network_at_a_tolerance(place, tmp_path):
    args = ["--data_name=digits", "--data_dim=64", "--dims_to_keep=8", "--plot", "--tol=0.01"]
    trained(place / "run", place / "digits.zip", "--dims_to_keep=8")
    output = call(place, tmp_path, *args, network="run")
    source = ImageSource(place / "digits.zip")
    for kind in KINDS:
        arrays = load(tmp_path, kind)
        assert {*KEYS, "t"} <= set(arrays)
        for key in KEYS:
            assert arrays[key].shape == (2, 70, 64)
            assert arrays[key].dtype == np.float32
            assert np.isfinite(arrays[key]).all()
    melt, trip = load(tmp_path, "melt"), load(tmp_path, "roundtrip")
    np.testing.assert_allclose(melt["tilde_xs"][0], source.samples(0, 0, 70, "drawn"), atol=1e-5)
    np.testing.assert_array_equal(trip["xs"][0], melt["xs"][-1])
    result = params(tmp_path)
    assert result["method"]["solver"] == "rk4"
    assert result["method"]["estimate"] < 1e-2
    assert result["results"]["evaluations_one_way"] == 4 * result["method"]["steps"]
    assert result["results"]["round_trip_mse_pixels"] == 0
    assert 0 < result["results"]["round_trip_mse_unrounded_pixels"] < 0.01
    assert "MiB a file" in output
    for picture in ("data", "latent", "roundtrip", "gen"):
        assert (tmp_path / f"{STEM}{picture}.png").stat().st_size > 500


def test_n_iters_alone_is_the_papers_heun(place, tmp_path):
    call(place, tmp_path, "--n_iters=6", "--save_freq=2", "--save_dtype=float64", "--eps=0.5")
    melt = load(tmp_path, "melt")
    np.testing.assert_allclose(melt["t"], np.array(vp_ode_times(6, 15.01))[[0, 2, 4, 5]])
    assert melt["xs"].dtype == np.float64
    result = params(tmp_path)
    assert result["method"] == {
        "solver": "heun", "steps": 6, "stop": 15.01, "start": pytest.approx(0.01),
        "disc": "vp_ode",
    }  # fmt: skip
    assert result["results"]["evaluations_one_way"] == 10
    flow = load_flow(place / "plain.pkl", "cpu")
    method = paper_method(flow, "heun", "vp_ode", 6)
    z = flow.inflate(ImageSource(place / "digits.zip").samples(0, 0, 70, "drawn"), **method.how())
    np.testing.assert_allclose(melt["xs_es"][-1], z, rtol=1e-9)
    call(place, tmp_path, "--n_iters=6", "--disc=ifs", "--sim_type=melt")
    assert load(tmp_path, "melt")["t"].tolist() == [0.0, pytest.approx(15.01)]


@pytest.mark.parametrize("solver", [["--n_iters=6"], FAST, ["--solver=reversible", "--steps=2"]])
@pytest.mark.parametrize("network", ["plain.pkl", "classes.pkl"])
def test_a_round_trip_from_a_file_is_that_of_the_same_run(place, tmp_path, solver, network):
    call(place, tmp_path / "all", *solver, network=network)
    call(place, tmp_path / "melt", *solver, "--sim_type=melt", network=network)
    prev = f"--prev_melt={tmp_path / 'melt' / STEM}melt_results.npz"
    call(place, tmp_path / "back", "--sim_type=roundtrip", prev, network=network, data=False)
    one, two = load(tmp_path / "all", "roundtrip"), load(tmp_path / "back", "roundtrip")
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    error = "round_trip_mse_unrounded_pixels"
    first, second = (params(tmp_path / f)["results"][error] for f in ("all", "back"))
    assert first == pytest.approx(second, rel=1e-3, abs=1e-8)
    if "reversible" in solver[0]:
        assert first < 1e-8


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8)])
def test_a_published_inflation_without_times(place, tmp_path, shape):
    """The released code saves no t: its last state is at tmax, which is said."""
    call(place, tmp_path / "all", "--n_iters=6", "--sim_type=melt", "--save_freq=2")
    arrays = load(tmp_path / "all", "melt")
    kept = {k: arrays[k].reshape(4, 70, *shape) for k in ("xs", "xs_es", "tilde_xs", "dxs")}
    np.savez(tmp_path / "theirs.npz", **kept)
    prev = ["--sim_type=roundtrip", f"--prev_melt={tmp_path / 'theirs.npz'}", "--n_iters=6"]
    output = call(place, tmp_path / "back", *prev, data=False)
    assert "theirs.npz has no times; its last state is taken to be at tmax=15.01" in output
    flow = load_flow(place / "plain.pkl", "cpu")
    how = paper_method(flow, "heun", "vp_ode", 6).how()
    back = flow.generate(arrays["xs_es"][-1], **how)
    found = load(tmp_path / "back", "roundtrip")["tilde_xs"][-1]
    np.testing.assert_allclose(found, back, rtol=1e-4, atol=1e-5)
    args = [f"--save_dir={tmp_path}", f"--network={place / 'classes.pkl'}", *COMMON, *prev]
    line = error_line(pfODE_int.main, *args)
    assert "gave it zero labels, as --class=none does" in line


@pytest.mark.parametrize(
    ("solver", "before"),
    [(["--n_iters=4"], "paper_heun"), (["--solver=angle_heun", "--steps=2"], "heun")],
)
def test_inflations_of_before_go_back_by_what_made_them(place, tmp_path, solver, before):
    """Solvers had other names once, `heun` being ours in the angle."""
    call(place, tmp_path, *solver)
    path, expected = tmp_path / f"{STEM}melt_results.npz", load(tmp_path, "roundtrip")
    arrays = load(tmp_path, "melt")
    run = json.loads(str(arrays["run"]))
    del run["method"]["disc"]
    run["method"]["solver"] = before
    np.savez(path, **(arrays | {"run": np.array(json.dumps(run))}))
    call(place, tmp_path / "back", "--sim_type=roundtrip", f"--prev_melt={path}", data=False)
    for key, value in load(tmp_path / "back", "roundtrip").items():
        np.testing.assert_array_equal(value, expected[key])


def test_grids_by_their_options(place, tmp_path):
    """--disc or --vpode_disc_eps alone mean the paper's Heun, on that grid."""
    args = ["--sim_type=melt", "--dry-run"]
    assert "'solver': 'heun', 'steps': 118" in call(place, tmp_path, *args, "--disc=vp_ode")
    found = call(place, tmp_path, *args, "--vpode_disc_eps=0.02", "--solver=euler")
    assert re.search(r"'euler', 'steps': 118, 'stop': 15.01, 'start': 0.0(2|19999)", found)
    assert "'disc': 'ifs'" in call(place, tmp_path, *args, "--disc=ifs", "--n_iters=9")
    known = ["--end_time=15.01", "--img_size=8", "--img_ch=1", "--end_vars=1"]
    assert "'solver': 'ab2'" in call(place, tmp_path, *args, *known, *FAST)


def test_latents_of_donors(place, tmp_path):
    """Compressed dimensions are those of inflated data, row by row; kept ones are Gaussian."""
    call(place, tmp_path, *FAST, "--gen_source=donors", "--save_dtype=float64")
    call(place, tmp_path / "diag", *FAST, "--sim_type=gen", "--save_dtype=float64", data=False)
    melt, gen = load(tmp_path, "melt")["xs_es"][-1], load(tmp_path, "gen")["xs_es"][0]
    diag = load(tmp_path / "diag", "gen")["xs_es"][0]
    np.testing.assert_array_equal(gen[:, :8], diag[:, :8])
    distance = np.abs(gen[:, None, 8:] - melt[None, :, 8:]).max(-1)  # [generated, inflated]
    assert distance.min(1).max() < 1e-12
    assert len(set(distance.argmin(1))) > 20
    assert np.abs(diag[:, None, 8:] - melt[None, :, 8:]).max(-1).min() > 1e-9
    prev = f"--prev_melt={tmp_path / STEM}melt_results.npz"
    args = ["--sim_type=gen", "--gen_source=donors", prev, "--save_dtype=float64"]
    call(place, tmp_path / "file", *FAST, *args, data=False)
    again = load(tmp_path / "file", "gen")["xs_es"][0]
    np.testing.assert_array_equal(again, gen)


def test_empirical_latents_are_gaussian_with_the_variances_of_an_inflation(place, tmp_path):
    """Published `--gen_source=empirical`: of the run's own inflation, or of --prev_melt."""
    args = [*FAST, "--save_dtype=float64", "--bs=150"]
    output = call(place, tmp_path, *args, "--gen_source=empirical")
    assert "takes variances" not in output
    call(place, tmp_path / "diag", *args, "--sim_type=gen", data=False)
    melt, made = load(tmp_path, "melt")["xs_es"][-1], load(tmp_path, "gen")["xs_es"][0]
    schedule = load_flow(place / "plain.pkl", "cpu").schedule
    normal = load(tmp_path / "diag", "gen")["xs_es"][0] / schedule.latent_variance().sqrt().numpy()
    np.testing.assert_allclose(made, normal * melt.std(0, ddof=1), rtol=1e-6)
    prev = f"--prev_melt={tmp_path / STEM}melt_results.npz"
    args += ["--sim_type=gen", "--gen_source=empirical", prev]
    call(place, tmp_path / "file", *args, data=False)
    np.testing.assert_array_equal(load(tmp_path / "file", "gen")["xs_es"][0], made)
    few = call(place, tmp_path / "few", *FAST, "--gen_source=empirical", "--bs=8")
    assert "takes variances of 8 samples, which know them to 50 %" in few
    start = [f"--save_dir={tmp_path / 'o'}", f"--network={place / 'plain.pkl'}", *FAST]
    start += [f"--data_root={place / 'digits.zip'}", "--bs=1", "--gen_source=empirical"]
    assert "of an inflation of 1 sample" in error_line(pfODE_int.main, *start, "--device=cpu")


def test_classes(place, tmp_path):
    call(place, tmp_path, *FAST, "--gen_source=donors", network="classes.pkl")
    source = ImageSource(place / "digits.zip", use_labels=True)
    truth = source.labels(0, 0, 70, "drawn").argmax(1)
    melt, gen = load(tmp_path, "melt"), load(tmp_path, "gen")
    np.testing.assert_array_equal(melt["classes"], truth)
    donor = np.abs(gen["xs_es"][0][:, None, 8:] - melt["xs_es"][-1][None, :, 8:]).max(-1).argmin(1)
    np.testing.assert_array_equal(gen["classes"], melt["classes"][donor])
    flow = load_flow(place / "classes.pkl", "cpu")
    x = source.samples(0, 0, 64, "drawn")
    here = flow.given(source.labels(0, 0, 64, "drawn"))
    z = here.inflate(x, solver="ab2", steps=4)
    np.testing.assert_allclose(melt["xs_es"][-1][:64], z, rtol=1e-4, atol=1e-7)
    call(place, tmp_path / "b", *FAST, "--sim_type=gen", network="classes.pkl", data=False)
    call(place, tmp_path / "c", *FAST, "--sim_type=gen", "--class=3", network="classes.pkl")
    assert len(set(load(tmp_path / "b", "gen")["classes"])) > 5
    assert set(load(tmp_path / "c", "gen")["classes"]) == {3}


def bad_cases(place, folder):
    """Arguments -> what the line says."""

    def melt(**changes):
        path = folder / f"{len(list(folder.iterdir()))}.npz"
        arrays = {"xs_es": np.ones((2, 5, 64)), "tilde_xs": np.ones((2, 5, 64))}
        arrays |= {"t": np.array([0.0, 15.01])} | changes
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        return ["--sim_type=roundtrip", f"--prev_melt={path}"]

    text = folder / "text.npz"
    text.write_text("x")
    pickled = np.array([{}], dtype=object)
    other = json.dumps({"network_sha256": "0", "schedule": {"name": "PRRto8D"},
                        "method": {"solver": "rk4", "steps": 4, "stop": 15.01}})  # fmt: skip
    return {
        "another schedule": (["--dims_to_keep=64"], "--dims_to_keep=64 contradicts the network"),
        "another size": (["--data_dim=3072"], "has data_dim=64"),
        "no class": (["--class=3"], "not conditional"),
        "both latents": (["--eps=1", "--gen_source=empirical"], "both say"),
        "no melt": (["--sim_type=roundtrip"], "--prev_melt is missing"),
        "no latents": (["--sim_type=gen", "--gen_source=empirical"], "name an inflation"),
        "no donors": (["--sim_type=gen", "--gen_source=donors"], "name an inflation"),
        "a grid of no use": (["--disc=vp_ode", *FAST], "--solver=ab2 has none"),
        "another side": (["--img_size=32"], "--img_size=32 contradicts the network, which has"),
        "other channels": (
            ["--img_ch=3"],
            "--img_ch=3 contradicts the network, which",
        ),
        "another end": (["--end_time=7.01"], "contradicts the network, which has tmax=15.01"),
        "other variance": (["--end_vars=2"], "--end_vars=2.0 contradicts the network"),
        "first time": (["--disc=ifs", "--vpode_disc_eps=0.1"], "--disc=ifs begins at 0"),
        "tolerance": (["--n_iters=6", "--tol=0.1"], "which --steps=6 settles"),
        "melt twice": (["--prev_melt=x.npz"], "x.npz: no such file"),
        "own inflation": (melt()[1:], "makes its own inflation"),
        "text": (["--sim_type=roundtrip", f"--prev_melt={text}"], "not a readable .npz"),
        "pickled": (melt(xs_es=pickled), "not a readable .npz"),
        "keys": (melt(xs_es=None), "lacks xs_es"),
        "dims": (melt(xs_es=np.ones((2, 5, 3)), tilde_xs=np.ones((2, 5, 3))), "has 3 dimensions"),
        "shapes": (melt(tilde_xs=np.ones((2, 4, 64))), "do not agree"),
        "not finite": (melt(tilde_xs=np.full((2, 5, 64), np.nan)), "not finite"),
        "backward": (melt(t=np.array([15.01, 0.0])), "not an inflation"),
        "short": ([*melt(t=np.array([0.0, 7.01])), *FAST], "ends at t=7.01"),
        "other network": (melt(run=np.array(other)), "by another network"),
        "damaged run": (melt(run=np.array("{}")), "`run` is damaged"),
        "one point": (["--n_iters=1"], "at least 2 time points"),
        "name": (["--data_name=a/b"], "plain name"),
        "network": (["--network=nowhere.pkl"], "nowhere.pkl: no such file"),
        "data": (["--data_root=nowhere.zip"], "nowhere.zip"),
    }


def test_bad_input_is_one_clear_line(place, tmp_path):
    (tmp_path / "files").mkdir()
    out = tmp_path / "out"
    start = [f"--save_dir={out}", f"--network={place / 'plain.pkl'}", *COMMON]
    start += [f"--data_root={place / 'digits.zip'}"]
    for case, (args, reason) in bad_cases(place, tmp_path / "files").items():
        line = error_line(pfODE_int.main, *start, *args)
        assert reason in line, (case, line)
        assert not out.exists(), case


def test_data_of_another_size(place, tmp_path):
    from PIL import Image

    (tmp_path / "rgb").mkdir()
    for k in range(3):
        Image.new("RGB", (16, 16), (k, 0, 0)).save(tmp_path / "rgb" / f"{k}.png")
    args = [f"--save_dir={tmp_path / 'o'}", f"--network={place / 'plain.pkl'}", *COMMON]
    line = error_line(pfODE_int.main, *args, f"--data_root={tmp_path / 'rgb'}")
    assert "16x16 with 3 channels; the network was trained on 8x8 with 1 channel" in line
    assert "--data_root is missing" in error_line(pfODE_int.main, *args)


def test_other_data_and_too_few_images_are_said(place, tmp_path):
    data = digits(tmp_path, 20)
    args = [f"--save_dir={tmp_path / 'o'}", f"--network={place / 'prp.pkl'}", *COMMON, *FAST]
    output = good(pfODE_int.main, *args, f"--data_root={data}", "--gen_source=donors")
    assert "not the data that the network was trained on" in output
    assert "--bs=70, but there are 20 images" in output
    assert "nothing is compressed in PRP" in output
    assert load(tmp_path / "o", "gen", "digits_PRP_net_")["xs"].shape == (2, 20, 64)


def test_the_published_command(place, tmp_path):
    args = [f"--save_dir={tmp_path / 'o'}", f"--network={place / 'plain.pkl'}", "--bs=256"]
    args += [f"--data_root={place / 'digits.zip'}", "--data_name=cifar10", "--dims_to_keep=8"]
    assert "150 samples" in good(pfODE_int.main, *args, "--n_iters=118", "--dry-run")
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(place, tmp_path):
    call(place, tmp_path / "one", *FAST, "--gen_source=donors", network="classes.pkl")
    args = [f"--save_dir={tmp_path / 'two'}", f"--network={place / 'classes.pkl'}", *COMMON, *FAST]
    args += [f"--data_root={place / 'digits.zip'}", "--gen_source=donors"]
    done = run_script(ROOT / "pfODE_int.py", *args, processes=2)
    assert done.returncode == 0, done.stderr
    for kind in KINDS:
        one, two = load(tmp_path / "one", kind), load(tmp_path / "two", kind)
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
