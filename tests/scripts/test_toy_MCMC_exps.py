"""toy_MCMC_exps.py: files as documented, the same on any processes, one line on errors."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import toy_MCMC_exps
import toy_train
from experiments.posterior.chains import Chain
from tests.helpers import run_script


def call(main, *args):
    return CliRunner().invoke(main, [*map(str, args), "--device=cpu"])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    out = tmp_path_factory.mktemp("nets")
    args = ["--outdir", out, "--data_name=circles", "--dims_to_keep=1", "--duration=0.05"]
    result = call(toy_train.main, *args, "--batch=500", "--no-plot")
    assert result.exit_code == 0, result.output
    return out


QUICK = ["--solver=rk4", "--steps=2", "--no-plot"]
SMALL = ["--gt_n=12", "--chains=2", "--mcmc_n=40", "--burn=10", "--keep_z=3"]
FLOW = ["--proposals=16", "--refresh=25"]


def run(network, folder, *args, small=(*SMALL, *FLOW)):
    where = f"--outdir={folder}", f"--network={network}"
    return call(toy_MCMC_exps.main, *where, *small, *QUICK, *args)


def draws(folder):
    with np.load(folder / "sampled_weights.npz") as w, np.load(folder / "sampled_zs.npz") as z:
        return w["weights"], z["zs"]


@pytest.mark.parametrize("sampler", ["flow", "quadrature"])
def test_writes_what_is_documented(network, tmp_path, sampler):
    more = ["--grid=21"] if sampler == "quadrature" else FLOW
    args, small = ["--plot", f"--sampler={sampler}"], [*SMALL, *more]
    result = run(network, tmp_path, *args, small=small)
    assert result.exit_code == 0, result.output
    weights, z = draws(tmp_path)
    assert weights.shape == (2, 40, 3)
    assert z.shape == (2, 3, 12, 2)
    np.testing.assert_allclose(weights.sum(2), 1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["truth"] == [0.5, 0.25, 0.25]
    np.testing.assert_allclose(summary["mean"], weights.mean((0, 1)))
    assert {"sd", "r_hat", "ess_bulk", "ess_tail", "mcse_mean", "evaluations", "seconds"} <= set(
        summary
    )
    assert summary["prior"] == summary["options"]["prior"] == "dirichlet"
    assert summary["options"]["gt_n"] == 12
    assert len(summary["network_sha256"]) == 64
    for name in ("posterior.nc", "posterior.png", "traces.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert json.loads((tmp_path / "run.json").read_text())["finished"]
    assert not (tmp_path / "state").exists()
    low, high = np.transpose(summary["interval_95"])
    np.testing.assert_allclose(low, np.quantile(weights, 0.025, (0, 1)))
    assert (low < summary["mean"]).all()
    assert (high > summary["mean"]).all()
    assert np.isfinite(summary["r_hat"]).all()
    assert "Warning: --prior" not in result.output
    again = run(network, tmp_path, *args, "--resume", small=small)
    assert "nothing left to do" in again.output


@pytest.mark.slow
def test_processes_do_not_change_results(network, tmp_path):
    assert run(network, tmp_path / "1").exit_code == 0
    args = [f"--outdir={tmp_path / '2'}", f"--network={network}", *SMALL, *FLOW, *QUICK]
    done = run_script("toy_MCMC_exps.py", *args, "--device=cpu", processes=2)
    assert done.returncode == 0, done.stderr
    for one, two in zip(draws(tmp_path / "1"), draws(tmp_path / "2"), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_killed_run_goes_on_and_gives_the_same(network, tmp_path, monkeypatch):
    assert run(network, tmp_path / "whole").exit_code == 0
    monkeypatch.setattr("experiments.posterior.chain_store.SAVE_EVERY", 0.0)
    advance, steps = Chain.advance, []

    def mortal(self):
        steps.append(self.number)
        if len(steps) > 4:
            raise KeyboardInterrupt
        advance(self)

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Chain, "advance", mortal)
        assert run(network, cut).exit_code != 0
    assert list((cut / "state").iterdir())
    for more in ([], ["--resume"]):
        other = run(network, cut, "--gt_n=13", *more)
        assert other.exit_code == 2
        assert "--gt_n=12, now --gt_n=13" in other.output
    result = run(network, cut)  # the same command
    assert result.exit_code == 0, result.output
    assert "Going on" in result.output
    for one, two in zip(draws(tmp_path / "whole"), draws(cut), strict=True):
        np.testing.assert_array_equal(one, two)


def test_chains_of_another_network_are_refused(network, tmp_path):
    assert run(network, tmp_path / "out").exit_code == 0
    args = [f"--outdir={tmp_path / 'nets'}", "--data_name=circles", "--duration=0.01"]
    assert call(toy_train.main, *args, "--batch=500", "--no-plot").exit_code == 0
    result = run(tmp_path / "nets", tmp_path / "out", "--resume")
    assert result.exit_code == 2
    assert "holds a run of another network" in result.output


def test_calibration(network, tmp_path):
    sbc = ["--experiment=sbc", "--sims=10", "--sim_n=8", "--grid=21", "--plot"]
    result = run(network, tmp_path, *sbc, small=[])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "sbc.json").read_text())
    assert found["results"]["data_sets"] == 10
    assert set(found["results"]["ranks"]) == {"w1", "w2", "w3"}
    with np.load(tmp_path / "sbc.npz") as file:
        assert file["ranks"].shape == (10, 3)
    result = run(network, tmp_path / "t", "--experiment=tarp", "--sims=20", "--plot", small=[])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "t" / "tarp.json").read_text())
    assert {"exact", "flat", "effective_draws"} <= set(found["results"])
    for picture in (tmp_path / "sbc.png", tmp_path / "t" / "tarp.png"):
        assert picture.stat().st_size > 1000


BAD = {
    "another tmax": (["--tmax=15.01"], "--tmax=15.01 contradicts the network, which has tmax=7.01"),
    "no network": (["--network=/nowhere/net.pkl"], "/nowhere/net.pkl: no such file"),
    "no data": (["--gt_n=0"], "--gt_n"),
    "no noise": (["--gt_eps_mvn=0"], "--gt_eps_mvn"),
    "too few draws": (["--mcmc_n=2"], "--mcmc_n"),
    "acceptance": (["--acpt=1.5"], "--acpt"),
    "unknown sampler": (["--sampler=magic"], "'magic' is not one of"),
    "nothing to resume": (["--resume"], "holds no run; leave --resume out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(network, tmp_path, case):
    args, reason = BAD[case]
    result = run(network, tmp_path / "out", *args)
    assert result.exit_code == 2, result.output
    lines = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert not (tmp_path / "out").exists()


IGNORED = {
    "--sampler=flow": ["--experiment=sbc"],
    "--chains=3": ["--experiment=sbc"],
    "--prior=dirichlet": ["--experiment=tarp"],
    "--refresh=2": ["--experiment=tarp"],
    "--gt_n=100": ["--experiment=tarp"],
    "--sim_n=100": ["--experiment=weights"],
    "--grid=21": ["--sampler=flow"],
    "--proposals=64": ["--sampler=quadrature"],
    "--step-size=0.01": [],
    "--thin=5": ["--sampler=quadrature"],
}


@pytest.mark.parametrize("option", IGNORED)
def test_an_option_without_effect_is_refused(network, tmp_path, option):
    result = run(network, tmp_path / "out", option, *IGNORED[option], small=[])
    assert result.exit_code == 2, result.output
    mode = (IGNORED[option] or ["--sampler=flow"])[0].replace("experiment=weights", "sampler=flow")
    option = option.replace("step-size", "step_size")
    assert f"Error: {option} has no effect with {mode}, only with --" in result.output
    assert not (tmp_path / "out").exists()


def test_the_published_prior_has_its_warning(network, tmp_path):
    result = run(network, tmp_path, "--prior=improper", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Warning: --prior=improper, the published one, has no proper posterior" in result.output
    result = run(network, tmp_path, "--prior=improper", "--experiment=sbc", small=[])
    assert result.exit_code == 2, result.output
    assert "use --prior=dirichlet" in result.output


def test_a_coarse_grid_is_said(network, tmp_path):
    args = ["--sampler=quadrature", "--grid=9", "--gt_eps_mvn=0.001"]
    result = run(network, tmp_path, *args, small=["--gt_n=60", *SMALL[1:]])
    assert result.exit_code == 0, result.output
    assert "Warning: --grid=9 is too coarse" in result.output
    assert "60 data (the first: number" in result.output
    warnings = json.loads((tmp_path / "summary.json").read_text())["warnings"]
    assert sum("grid" in line for line in warnings) == 2


def test_draws_from_few_candidates_end_in_an_error_with_all_written(network, tmp_path, monkeypatch):
    for name in ("FEW", "TOO_FEW"):
        monkeypatch.setattr(f"experiments.posterior.flow_sampler.{name}", 16.0)
    monkeypatch.setattr("experiments.posterior.flow_sampler.check", lambda state, options: None)
    result = run(network, tmp_path, "--gt_eps_mvn=1")
    assert result.exit_code == 2, result.output
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert "count at the 10 % quantile" in line
    assert "count at" in json.loads((tmp_path / "summary.json").read_text())["warnings"][-1]
    assert draws(tmp_path)[0].shape == (2, 40, 3)


def test_what_the_network_forbids(tmp_path):
    nets = tmp_path / "nets"
    args = [f"--outdir={nets}", "--data_name=s_curve", "--duration=0.01", "--batch=500"]
    assert call(toy_train.main, *args, "--no-plot").exit_code == 0
    for more, reason in (
        (["--sampler=quadrature"], "at most 2 dimensions, this network has 3"),
        (["--net_eps_cd=0.01"], "compresses no dimension"),
    ):
        result = run(nets, tmp_path / "out", *more, small=SMALL)
        assert result.exit_code == 2, result.output
        assert reason in result.output
    result = run(nets, tmp_path / "out", "--net_eps_cd=1")  # the published default
    assert result.exit_code == 0, result.output
    assert draws(tmp_path / "out")[1].shape == (2, 3, 12, 3)


def test_dry_run_writes_nothing(network, tmp_path):
    args = [f"--outdir={tmp_path / 'x'}", f"--network={network}", "--dry-run"]
    result = call(toy_MCMC_exps.main, *args)
    assert result.exit_code == 0, result.output
    assert "2000 data, 4 chains of 500 + 1500 draws by flow" in result.output
    assert not (tmp_path / "x").exists()
