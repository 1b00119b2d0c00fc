"""Diagnostics, files, and folders that know their run."""

import json
import types

import numpy as np
import pytest
import torch
from scipy.stats import beta

from dnnlib.cli import UserError
from experiments.posterior import mcmc, options
from experiments.posterior.mcmc import (
    SAMPLERS,
    arviz_of,
    diagnose,
    save,
    warnings_of,
)
from experiments.posterior.posterior import Draws, Truth
from flow.inference import diagnostics
from torch_utils.work import begin, finish


def test_every_sampler_can_be_found():
    assert set(SAMPLERS) == set(options.SAMPLERS)
    for build in SAMPLERS.values():
        assert callable(build)


def test_diagnostics_of_independent_draws():
    weights = np.random.default_rng(0).dirichlet([50, 30, 20], (4, 1000))
    found = diagnose(weights)
    np.testing.assert_allclose(found["mean"], [0.5, 0.3, 0.2], atol=5e-3)
    assert max(found["r_hat"]) < 1.01
    assert min(found["ess_bulk"]) > 3000
    expected = np.array(found["sd"]) / np.sqrt(4000)
    np.testing.assert_allclose(found["mcse_mean_within_chains"], expected, rtol=0.15)
    assert (np.array(found["mcse_mean"]) < 2.5 * expected).all()
    assert warnings_of(Draws(weights), found, 1.01, 400) == []


def test_diagnostics_see_chains_that_disagree_and_lost_components():
    weights = np.random.default_rng(0).dirichlet([50, 30, 20], (4, 200))
    weights[0] += [0.2, -0.2, 0.0]
    weights[:, -1] = [1.0, 0.0, 0.0]
    found = diagnose(weights)
    assert found["r_hat"][0] > 1.2
    lines = warnings_of(Draws(weights), found, 1.01, 400)
    assert [line.split()[0] for line in lines] == ["R-hat", "bulk", "tail", "a"]
    assert "--prior=dirichlet" in lines[3]


def test_chains_that_never_move_are_no_draws():
    """Of which arviz counts all as effective, with an R-hat that is not a number."""
    weights = np.tile([1.0, 0.0, 0.0], (4, 200, 1))
    found = diagnose(weights)
    assert found["ess_bulk"] == found["ess_tail"] == [0.0] * 3
    lines = warnings_of(Draws(weights), found, 1.01, 400)
    assert [line.split()[0] for line in lines] == ["R-hat", "bulk", "tail", "a"]
    assert "never moves" in lines[0]
    truth = Truth(torch.ones(3) / 3, torch.tensor([0, 1, 2]), torch.zeros(3, 2))
    assert mcmc.report(Draws(weights), truth)["seconds_per_effective_draw"] is None


def test_intervals_and_what_samplers_warn_of():
    weights = np.random.default_rng(0).dirichlet([50, 30, 20], (4, 1000))
    found = diagnose(weights)
    exact = beta([50, 30, 20], [50, 70, 80]).ppf([[0.025], [0.975]]).T
    np.testing.assert_allclose(found["interval_95"], exact, atol=6e-3)
    assert min(found["ess_tail"]) > 2500
    assert warnings_of(Draws(weights, warnings=["so"]), found, 1.01, 400) == ["so"]


def test_the_error_knows_of_what_hardly_moves_within_a_chain():
    rng = np.random.default_rng(0)
    weights = 0.3 + 0.02 * rng.standard_normal((4, 1500, 2))
    weights += 0.002 * np.array([1, -1, 1, -1])[:, None, None]  # a tenth of the sd
    found = diagnose(weights)
    assert max(found["r_hat"]) < 1.01
    assert found["mcse_mean"][0] == pytest.approx(0.002 * np.sqrt(4 / 3) / 2, rel=0.4)
    assert found["mcse_mean"][0] > 2 * found["mcse_mean_within_chains"][0]


def test_one_chain_is_compared_with_itself():
    weights = np.random.default_rng(0).dirichlet([5, 3, 2], (1, 1001))
    assert max(diagnose(weights)["r_hat"]) < 1.02
    weights[0, 500:] += [0.3, -0.3, 0.0]
    assert diagnose(weights)["r_hat"][0] > 1.2


def test_files(tmp_path):
    rng = np.random.default_rng(0)
    weights, z = rng.dirichlet([5, 3, 2], (2, 40)), rng.standard_normal((2, 3, 7, 2))
    paths = rng.standard_normal((2, 4, 5, 3 + 14)).astype(np.float32)
    draws = Draws(weights, z, paths)
    mcmc.save_draws(tmp_path, draws)
    save(tmp_path, draws, {"truth": [0.5, 0.3, 0.2], **diagnose(weights)})
    with np.load(tmp_path / "sampled_weights.npz") as file:
        np.testing.assert_array_equal(file["weights"], weights)
    with np.load(tmp_path / "sampled_zs.npz") as file:
        np.testing.assert_allclose(file["zs"], z, atol=1e-6)
    files = sorted((tmp_path / "trajs_outdir").iterdir())
    assert len(files) == 20
    with np.load(tmp_path / "trajs_outdir" / "curr_params_07.npz") as file:
        np.testing.assert_array_equal(file["curr_params"], paths[:, 1, 2])
        assert (int(file["trajectory"]), int(file["step"])) == (1, 2)
    back = mcmc.arviz().from_netcdf(str(tmp_path / "posterior.nc"))
    np.testing.assert_array_equal(back.posterior["weights"].values, weights)
    assert arviz_of(weights).posterior["component"].values.tolist() == ["w1", "w2", "w3"]


def test_draws_are_kept_whatever_becomes_of_the_diagnostics(tmp_path, monkeypatch):
    def fail(weights):
        raise TypeError

    draws = Draws(np.random.default_rng(0).dirichlet([5, 3, 2], (2, 40)))
    monkeypatch.setattr(mcmc, "draw", lambda *args: draws)
    monkeypatch.setattr(mcmc, "diagnose", fail)
    with pytest.raises(TypeError):
        mcmc.run("flow", None, None, options.SamplerOptions(), tmp_path)
    with np.load(tmp_path / "sampled_weights.npz") as file:
        np.testing.assert_array_equal(file["weights"], draws.weights)


@pytest.mark.parametrize("version", ["0.23.4", "1.3.0"])
def test_arviz_is_called_as_its_version_wants(monkeypatch, version):
    """From 1 on, groups are one dictionary; before, keywords."""
    calls = []
    stand_in = types.SimpleNamespace(
        __version__=version, from_dict=lambda *args, **more: calls.append((args, more))
    )
    monkeypatch.setattr(diagnostics, "arviz", lambda: stand_in)
    arviz_of(np.full((2, 5, 3), 1 / 3))
    ((args, more),) = calls
    groups = args[0] if version.startswith("1") else more
    assert groups["posterior"]["weights"].shape == (2, 5, 3)
    assert ("posterior" in more) == version.startswith("0")


def test_report_is_plain():
    weights = np.random.default_rng(0).dirichlet([5, 3, 2], (2, 100))
    truth = Truth(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0, 0, 1, 2]), torch.zeros(4, 2))
    found = json.loads(json.dumps(mcmc.report(Draws(weights, evaluations=100), truth)))
    assert found["share_of_components_in_data"] == [0.5, 0.25, 0.25]
    assert found["evaluations_per_effective_draw"] == 100 / min(found["ess_bulk"])


def test_a_folder_knows_its_run(tmp_path):
    facts = {"network_sha256": "a" * 64, "gt_n": 20, "step_size": None}
    with pytest.raises(UserError, match="holds no run"):
        begin(tmp_path, facts, resume=True)
    assert not begin(tmp_path, facts, resume=False)
    assert not begin(tmp_path, facts, resume=False)  # it left nothing to go on with
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "chain.npz").touch()
    assert not begin(tmp_path, facts, resume=False)  # the same command goes on
    assert (tmp_path / "state").exists()
    with pytest.raises(UserError, match="--gt_n=20, now --gt_n=30"):
        begin(tmp_path, facts | {"gt_n": 30}, resume=False)
    with pytest.raises(UserError, match=r"another network \(sha256 aaaaaaaaaaaa, now bbbbbbbbbbbb"):
        begin(tmp_path, facts | {"network_sha256": "b" * 64}, resume=True)
    with pytest.raises(UserError, match="--gt_n=20, now --gt_n=30"):
        begin(tmp_path, facts | {"gt_n": 30}, resume=True)
    assert not begin(tmp_path, facts, resume=True)
    finish(tmp_path, facts)
    assert not (tmp_path / "state").exists()
    assert begin(tmp_path, facts, resume=True)
    assert not begin(tmp_path, facts, resume=False)  # a finished run may be done again
