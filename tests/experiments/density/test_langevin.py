"""The reverse SDE: its samples have the true density, and its steps the right limits."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

import toy_train
from experiments.density import langevin
from experiments.density.langevin import both, generate
from tests.helpers import gaussian_flow, three_blobs
from tests.image_networks import error_line, good

COVERAGE = {"g_type": "orig", "g_rescaling": 0.15, "tmax": 15.01}


def normals(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("keep", "schedule"), [(2, {"tmax": 9.0}), (1, COVERAGE)])
def test_samples_of_gaussian_data_have_its_variance(keep, schedule):
    """First-order steps: the variance converges to the data's as steps are added."""
    variances = [0.8, 0.3]
    flow = gaussian_flow([1.0, 0.5], variances, keep, **schedule)
    C = torch.tensor(variances).double() + 5e-4
    u = normals(0, 8000, 2)
    x = generate(flow, u, 200, lambda k: normals(k + 1, 8000, 2))
    y = flow.from_whitened(x, 0.0, "unscaled_es")
    torch.testing.assert_close(y.var(0), C, rtol=0.08, atol=0)
    assert float((y.T @ y / len(y))[0, 1].abs()) < 0.03


def test_without_fresh_noise_it_is_the_ode():
    flow, _ = three_blobs(2, 2)
    u = normals(0, 50, 2)
    exact = flow.integrate(u, flow.schedule.tmax, 0.0, "rk4", 64)
    errors = [
        float((generate(flow, u, n, lambda k: u, churn=0.0) - exact).square().mean().sqrt())
        for n in (100, 200, 400)
    ]
    assert errors[2] < 0.03
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2.0, abs=0.5)


def test_mixture_samples_are_as_probable_as_data():
    flow, x = three_blobs(2, 2)
    u = generate(flow, normals(0, 3000, 2), 150, lambda k: normals(k + 1, 3000, 2))
    y = flow.from_whitened(u, 0.0, "unscaled_es")
    made = flow.model.log_density(y, 0.0)
    noise = 5e-4**0.5 * normals(9, *x.shape)
    true = flow.model.log_density(flow.model.encode(x + noise), 0.0)
    error = float((made.var() / len(made) + true.var() / len(true)).sqrt())
    assert float(made.mean() - true.mean()) == pytest.approx(0.0, abs=4 * error)


def test_a_sample_does_not_depend_on_the_others():
    flow, _ = three_blobs(2, 2)
    many, times = both(flow, 40, 3, 6, 1.0, {0, 6})
    flow.block = 16
    few, _ = both(flow, 21, 3, 6, 1.0, {0, 6})
    assert times.tolist() == pytest.approx([flow.schedule.tmax, 0.0])
    for name in ("ODE", "SDE"):
        torch.testing.assert_close(few[name], many[name][:, :21])
    torch.testing.assert_close(many["SDE"][0], many["ODE"][0])


def test_shrinking_noise_is_refused():
    flow = gaussian_flow([1.0, 0.5], [1, 0.5], 1, g_type="constant_inflation_gap",
                         inflation_gap=1.5)  # fmt: skip
    with pytest.raises(ValueError, match="no reverse SDE"):
        generate(flow, normals(0, 2, 2), 3, lambda k: normals(k, 2, 2))


def test_the_script(tmp_path):
    args = [f"--outdir={tmp_path / 'n'}", "--data_name=circles", "--dims_to_keep=2"]
    good(toy_train.main, *args, "--duration=0.02", "--batch=500", "--no-plot", "--device=cpu")
    args = [f"--network={tmp_path / 'n'}", f"--save_dir={tmp_path / 'o'}", "--device=cpu"]
    good(langevin.main, *args, "--dry-run")
    assert not (tmp_path / "o").exists()
    good(langevin.main, *args, "--total_samples=200", "--steps=8")
    told = json.loads((tmp_path / "o/circles_PRP_langevin.json").read_text())
    assert set(told["results"]) == {"data", "ODE", "SDE", "network_sha256", "seconds"}
    assert told["results"]["SDE"]["mean_true_log_density"] < 0
    with np.load(tmp_path / "o/circles_PRP_langevin.npz") as arrays:
        assert arrays["ode"].shape == arrays["sde"].shape == (len(arrays["t"]), 200, 2)
        np.testing.assert_array_equal(arrays["ode"][0], arrays["sde"][0])
    for picture in ("paths", "samples"):
        assert (tmp_path / f"o/circles_PRP_langevin_{picture}.png").stat().st_size > 5000
    line = error_line(langevin.main, *args, "--network=/nowhere.pkl")
    assert "no such file" in line
