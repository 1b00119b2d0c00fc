"""toy_pfODE_int.py: files as documented, truth, and one clear line on bad input."""

import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner

import toy_pfODE_int
import toy_train
from flow.flow import Flow, load_flow
from flow.simulation import KEYS
from torch_utils import checkpoint
from training import network_file
from training.data.toys import ToySource


def call(main, *args):
    return CliRunner().invoke(main, [*map(str, args), "--device=cpu"])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    out = tmp_path_factory.mktemp("nets")
    args = ["--outdir", out, "--data_name=circles", "--dims_to_keep=1", "--duration=0.05"]
    result = call(toy_train.main, *args, "--batch=500", "--no-plot")
    assert result.exit_code == 0, result.output
    return out


def load(folder, stem):
    results = {
        k: dict(np.load(folder / f"{stem}{k}_results.npz")) for k in ("melt", "roundtrip", "gen")
    }
    return results, json.loads((folder / f"{stem}sim_params.json").read_text())


def test_net_writes_what_is_documented(network, tmp_path):
    args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--total_samples=300"]
    result = call(toy_pfODE_int.main, *args, "--animate")
    assert result.exit_code == 0, result.output
    results, params = load(tmp_path, "circles_PRRto1D_net_")
    for arrays in results.values():
        assert set(arrays) == {*KEYS, "t"}
        states = len(arrays["t"])
        assert all(arrays[k].shape == (states, 300, 2) for k in KEYS)
        assert all(np.isfinite(arrays[k]).all() for k in KEYS)
    melt, back = results["melt"], results["roundtrip"]
    assert melt["t"][0] == pytest.approx(0.0, abs=1e-9)
    assert melt["t"][-1] == pytest.approx(7.01)
    np.testing.assert_array_equal(back["xs"][0], melt["xs"][-1])
    np.testing.assert_allclose(back["tilde_xs"][-1], melt["tilde_xs"][0], atol=2e-3)
    assert params["results"]["evaluations_one_way"] == 4 * params["method"]["steps"]
    assert params["results"]["round_trip_rmse"] < 1e-4
    for picture in ("panels.png", "inflation.png", "inflation.gif", "participation_ratio.png"):
        assert (tmp_path / f"circles_PRRto1D_net_{picture}").stat().st_size > 1000


def test_saved_keys_agree_with_each_other(network, tmp_path):
    """Derivatives, denoiser and score of the file satisfy the paper's equations at every state."""
    args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--total_samples=50"]
    assert call(toy_pfODE_int.main, *args, "--no-plot", "--solver=rk4", "--steps=64").exit_code == 0
    (melt, _, _), _ = load(tmp_path, "circles_PRRto1D_net_")[0].values(), None
    flow = load_flow(network, "cpu")
    W = flow.model.W.numpy()
    for k, t in enumerate(melt["t"]):
        gamma, dgamma = (v.numpy() for v in flow.schedule.gamma(t))
        s, ds = (float(v) for v in flow.schedule.scale(t))
        x = melt["tilde_xs_es"][k]
        score = melt["unscaled_scores"][k] @ W
        D = (melt["net_outs"][k] - flow.model.mean.numpy()) @ W
        np.testing.assert_allclose(score * gamma, D - x, atol=1e-7 * (1 + gamma.max()))
        rate = ds * x - 0.5 * s * dgamma * score
        np.testing.assert_allclose(melt["dxs_es"][k], rate, atol=1e-6)
        np.testing.assert_allclose(melt["dxs"][k] @ W, melt["dxs_es"][k], atol=1e-9)
        np.testing.assert_allclose(melt["xs"][k] @ W, melt["xs_es"][k], atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "worst"),
    [("reversible", 1e-12), ("angle_heun", 1e-2), ("ab2", 1e-2), ("adaptive", 1e-2)],
)
def test_solvers(network, tmp_path, solver, worst):
    args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--total_samples=100"]
    result = call(toy_pfODE_int.main, *args, f"--solver={solver}", "--no-plot", "--steps=32")
    assert result.exit_code == 0, result.output
    _, params = load(tmp_path, "circles_PRRto1D_net_")
    assert params["results"]["round_trip_max"] < worst


def test_published_steps_choose_the_papers_euler(network, tmp_path):
    args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--data_name=circles"]
    args += ["--data_dim=2", "--dims_to_keep=1", "--steps=70", "--h=0.1", "--total_samples=20"]
    result = call(toy_pfODE_int.main, *args, "--no-plot", "--save_freq=10", "--eps=0.5")
    assert result.exit_code == 0, result.output
    results, params = load(tmp_path, "circles_PRRto1D_net_")
    assert params["method"]["solver"] == "euler"
    assert params["results"]["evaluations_one_way"] == 69
    expected = np.linspace(0, 7.0, 70)[[*range(0, 69, 10), 69]]
    np.testing.assert_allclose(results["melt"]["t"], expected)
    np.testing.assert_allclose(results["gen"]["t"][0], 7.0)


def test_latents_lent_by_inflated_data(network, tmp_path):
    args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--total_samples=60"]
    args += ["--no-plot", "--solver=rk4", "--steps=8", "--gen_source=donors"]
    result = call(toy_pfODE_int.main, *args)
    assert result.exit_code == 0, result.output
    results, _ = load(tmp_path, "circles_PRRto1D_net_")
    melt, made = results["melt"]["xs_es"][-1], results["gen"]["xs_es"][0]
    assert np.abs(made[:, None, 1] - melt[None, :, 1]).min(1).max() < 1e-12
    assert np.abs(made[:, None, 0] - melt[None, :, 0]).min() > 0
    refused = call(toy_pfODE_int.main, *args, "--eps=1")
    assert refused.exit_code == 2
    assert "both say what compressed latents are" in refused.output


def test_discrete_inflates_its_points_and_brings_them_back(tmp_path):
    args = ["discrete", f"--save_dir={tmp_path}", "--data_name=moons", "--total_samples=150"]
    result = call(toy_pfODE_int.main, *args, "--data_dim=2", "--dims_to_keep=2", "--solver=rk4",
                  "--steps=128", "--memory_mib=1")  # fmt: skip
    assert result.exit_code == 0, result.output
    results, params = load(tmp_path, "moons_PRP_")
    assert params["results"]["round_trip_rmse"] < 1e-4
    # Points sit at the centres of their kernels, so their latents spread a little less than 1.
    assert params["results"]["latent_rms_kept"] == pytest.approx(1.0, abs=0.1)
    # Generated points end within the kernels, of sd sqrt(gamma0), around the points themselves.
    data, made = results["melt"]["tilde_xs"][0], results["gen"]["tilde_xs"][-1]
    nearest = np.sqrt(((made[:, None] - data) ** 2).sum(-1)).min(1)
    assert np.quantile(nearest, 0.95) < 3 * np.sqrt(5e-4)


def test_the_users_own_vectors(tmp_path):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.standard_normal((400, 2)) * [100, 0.1] + [5, 7], np.full(400, 3.0)])
    np.savetxt(tmp_path / "mine.csv", x, delimiter=",", header="a,b,c", comments="")
    common = [f"--data={tmp_path / 'mine.csv'}"]
    result = call(toy_train.main, f"--outdir={tmp_path / 'o'}", *common, "--duration=0.02")
    assert result.exit_code == 0, result.output
    assert "mine.csv: 400 rows, 3 columns: a, b, c" in result.output
    assert "column c" in result.output
    assert "floored" in result.output
    args = ["net", f"--save_dir={tmp_path}", f"--network={tmp_path / 'o'}"]
    refused = call(toy_pfODE_int.main, *args)
    assert refused.exit_code == 2
    assert "--data" in refused.output
    head = (tmp_path / "mine.csv").read_text().splitlines()[0]
    (tmp_path / "mine.csv").write_text(  # the same columns elsewhere in the table
        "\n".join(
            [head.replace("a,b,c", "c,k,b,a"), *(f"{c!r},x,{b!r},{a!r}" for a, b, c in x.tolist())]
        )
    )
    result = call(toy_pfODE_int.main, *args, *common, "--no-plot")
    assert result.exit_code == 0, result.output
    assert "3 columns: a, b, c; left out: 'k' (not asked for)" in result.output
    results, _ = load(tmp_path, "mine_PRP_net_")
    np.testing.assert_allclose(results["melt"]["tilde_xs"][0], x, rtol=1e-9)
    np.testing.assert_allclose(results["roundtrip"]["tilde_xs"][-1] / x.std(0).clip(1e-3),
                               x / x.std(0).clip(1e-3), atol=1e-2)  # fmt: skip
    made = results["gen"]["tilde_xs"][-1]
    assert abs(made[:, 2] - 3).max() < 1
    for options, reason in {
        "--columns=a,b": "--columns=a,b contradicts the network, which was trained on a, b, c",
        "--index_col=a": "leave --index_col out",
    }.items():
        refused = call(toy_pfODE_int.main, *args, *common, options)
        assert (refused.exit_code, reason in refused.output) == (2, True), refused.output


def test_empirical_latents_have_the_variances_of_the_inflation(network, tmp_path):
    args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--total_samples=60"]
    result = call(toy_pfODE_int.main, *args, "--no-plot", "--steps=8", "--solver=rk4",
                  "--gen_source=empirical")  # fmt: skip
    assert result.exit_code == 0, result.output
    results, _ = load(tmp_path, "circles_PRRto1D_net_")
    melt, made = results["melt"]["xs_es"][-1], results["gen"]["xs_es"][0]
    flow = load_flow(network, "cpu")
    z = flow.latents(60, 0).numpy()
    np.testing.assert_allclose(made, z * melt.std(0, ddof=1), rtol=1e-9)


def test_published_integrators_by_their_names(network, tmp_path):
    """`--solver=heun|euler` on the paper's grid; ours in the angle are other integrators."""
    flow, x = load_flow(network, "cpu"), ToySource("circles").samples(0, 0, 40)
    ends = {}
    for solver in ("euler", "heun", "angle_euler", "angle_heun"):
        args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--total_samples=40"]
        args += ["--no-plot", f"--solver={solver}", "--n_iters=70"]
        args += [] if "angle" in solver else ["--h=0.1"]
        assert call(toy_pfODE_int.main, *args).exit_code == 0
        results, params = load(tmp_path, "circles_PRRto1D_net_")
        ends[solver] = results["melt"]["xs_es"][-1]
        assert params["method"]["solver"] == solver
        assert params["method"].get("disc") == (None if "angle" in solver else "ifs")
    times = np.linspace(0, 7.0, 70)
    state = flow.from_whitened(flow.to_whitened(x, 0.0, "unscaled"), 0.0, "scaled_es")

    def velocity(t, x):
        return flow.paper_rate(t, x, flow.field(x / flow.stretch(t, "scaled_es"), t))

    for a, b in itertools.pairwise(times):  # Heun, written out
        first = velocity(a, state)
        second = velocity(b, state + (b - a) * first)
        state = state + (b - a) / 2 * (first + second)
    np.testing.assert_allclose(ends["heun"], state, rtol=1e-9)
    assert np.abs(ends["euler"] - ends["heun"]).max() > 1e-5
    assert np.abs(ends["angle_euler"] - ends["euler"]).max() > 1e-4


def test_a_network_of_before_is_simulated_on_the_sharp_set(network, tmp_path):
    content = network_file.load_network(network)
    del content["info"]["data"]["definition"]
    content = {k: v for k, v in content.items() if k not in ("format", "version")}
    checkpoint.save(tmp_path / "old.pkl", "network", content)
    args = ["net", f"--save_dir={tmp_path}", f"--network={tmp_path / 'old.pkl'}", "--no-plot"]
    args += ["--total_samples=40", "--solver=rk4", "--steps=4"]
    result = call(toy_pfODE_int.main, *args)
    assert "what this network's file calls circles is now circles_sharp" in result.output
    results, _ = load(tmp_path, "circles_sharp_PRRto1D_net_")
    x = ToySource("circles_sharp").samples(0, 0, 40)
    np.testing.assert_allclose(results["melt"]["tilde_xs"][0], x, atol=1e-9)
    result = call(toy_pfODE_int.main, *args, "--data_name=circles")
    assert result.exit_code == 2
    assert "trained on circles_sharp, at its time called circles" in result.output


def test_pilots_are_at_most_a_quarter_of_the_samples(network, tmp_path, monkeypatch):
    """The search for steps has its cost too: F24."""
    seen = []
    search = Flow.steps_for

    def watched(self, u, *args, **kwargs):
        seen.append(len(u))
        return search(self, u, *args, **kwargs)

    monkeypatch.setattr(Flow, "steps_for", watched)
    args = ["net", f"--save_dir={tmp_path}", f"--network={network}", "--no-plot", "--tol=0.1"]
    for total in (40, 400, 2000):
        assert call(toy_pfODE_int.main, *args, f"--total_samples={total}", "-n").exit_code == 0
    assert seen == [10, 100, 256]


BAD = {
    "a step of no use": (["--solver=rk4", "--h=0.1"], "--solver=rk4 has none"),
    "a tolerance of no use": (["--solver=rk4", "--steps=8", "--tol=0.1"], "--steps=8 settles"),
    "and of Euler": (["--solver=euler", "--tol=0.1"], "which --solver=euler settles"),
    "another end": (["--end_time=3"], "--tmax=3 contradicts the network, which has tmax=7.01"),
    "other variance": (["--end_vars=2"], "--end_vars=2.0 contradicts the network, which has"),
    "another schedule": (["--dims_to_keep=2"], "--dims_to_keep=2 contradicts the network"),
    "another dimension": (["--data_dim=3"], "--data_dim=3 contradicts the network"),
    "other data": (["--data_name=moons"], "--data_name=moons contradicts the network"),
    "columns of nothing": (["--columns=a"], "--columns is for a table given with --data"),
    "beyond tmax": (["--steps=1501"], "beyond the flow's tmax=7.01; use --steps=701"),
    "too few points": (["--steps=1"], "at least 2 time points"),
    "no network": (["--network=/nowhere/net.pkl"], "/nowhere/net.pkl: no such file"),
    "unknown solver": (["--solver=magic"], "'magic' is not one of"),
    "unknown option": (["--stepz=3"], "--stepz"),
    "negative": (["--total_samples=-5"], "--total_samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(network, tmp_path, case):
    args, reason = BAD[case]
    save = tmp_path / "out"
    result = call(toy_pfODE_int.main, "net", f"--save_dir={save}", f"--network={network}", *args)
    assert result.exit_code == 2, result.output
    lines = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "Traceback" not in result.output
    assert not save.exists()


def test_unwritable_folder(network, tmp_path):
    (tmp_path / "file").write_text("")
    args = ["net", f"--save_dir={tmp_path / 'file' / 'x'}", f"--network={network}"]
    result = call(toy_pfODE_int.main, *args)
    assert result.exit_code == 2
    assert "is a file, not a folder" in result.output


def test_dry_run_writes_nothing(network, tmp_path):
    args = ["net", f"--save_dir={tmp_path / 'x'}", f"--network={network}", "--dry-run"]
    result = call(toy_pfODE_int.main, *args)
    assert result.exit_code == 0
    assert "MiB a file" in result.output
    assert not (tmp_path / "x").exists()
