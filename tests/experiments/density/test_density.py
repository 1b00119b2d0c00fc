"""Likelihood of data sets: truth, blocks, Gaussianity of latents."""

import math

import numpy as np
import pytest
import torch
from scipy.special import i0e
from scipy.stats import kstest

from experiments.density.density import (
    Settings,
    evaluate,
    far_from_the_network,
    noise_at_start,
    true_log_density,
    true_model,
)
from experiments.density.gaussianity import gaussianity
from experiments.density.report import density_grid, on_grid
from flow.dequantization import IMAGE_HALF_WIDTH, dequantization
from flow.flow import Flow
from tests.helpers import gaussian_flow, random_basis, three_blobs
from training.basis import Basis, eigenbasis
from training.data.toys import CIRCLE_NOISE, CIRCLE_RADII, GMM1D, ToySource, circle_scale
from training.schedule import Schedule


def toy_flow(name, keep=None, **schedule):
    """The exact flow of a toy set."""
    source = ToySource(name)
    basis = eigenbasis([source.samples(0, 0, 20000)], source.dim, source.scale)
    schedule = Schedule(basis.xi, keep or source.dim, **({"tmax": 8.0} | schedule))

    class Model:
        pass

    stub = Model()
    stub.schedule, stub.model = schedule, Model()
    stub.model.basis = basis
    return Flow(true_model(stub, name))


def test_true_density_of_the_circles():
    """Rings convolved with a Gaussian, in closed form: a Bessel function of the radius."""
    model = toy_flow("circles").model
    x = np.random.default_rng(0).uniform(-2, 2, (200, 2))
    rho = np.sqrt((x**2).sum(1))
    scale = circle_scale("circles")
    s2 = (CIRCLE_NOISE["circles"] / scale) ** 2 + 5e-4
    exact = 0.0
    for radius in np.array(CIRCLE_RADII) / scale:
        ring = i0e(rho * radius / s2) * np.exp(-((rho - radius) ** 2) / (2 * s2))
        exact = exact + ring / (2 * np.pi * s2) / 2
    np.testing.assert_allclose(np.exp(true_log_density(model, x)), exact, rtol=1e-9, atol=1e-300)


def test_true_density_of_gmm1d():
    model = toy_flow("gmm1d").model
    x = np.linspace(-5, 5, 2001)
    exact = 0.0
    for w, m, sd in zip(*GMM1D.values(), strict=True):
        v = sd**2 + 5e-4
        exact = exact + w * np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    found = np.exp(true_log_density(model, x[:, None]))
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    assert np.trapezoid(found, x) == pytest.approx(1.0, abs=1e-9)


def test_truth_is_known_for_mixtures_only():
    flow, _ = three_blobs(3, 2)
    assert true_model(flow, "s_curve") is None
    assert true_model(flow, "None") is None
    assert true_model(flow, "circles") is None  # another dimension: an embedding of them


@pytest.mark.parametrize(("name", "keep", "schedule"), [
    ("circles", 2, {}),
    ("circles", 1, {"g_type": "orig", "g_rescaling": 0.15, "tmax": 15.01}),
    ("gmm1d", 1, {}),
])  # fmt: skip
def test_exact_flows_have_the_true_density(name, keep, schedule):
    flow = toy_flow(name, keep, **schedule)
    x = ToySource(name).samples(3, 0, 60)
    found = evaluate(flow, lambda r: x[r.start : r.stop], 60, Settings(how={"steps": 64}, times=4))
    true = true_log_density(flow.model, found.points)
    np.testing.assert_allclose(found.column("log_prob"), true, atol=5e-4)
    assert found.evaluations == 4 * 64 + 4
    noise = noise_at_start(flow, 0, 0, 60).numpy()
    np.testing.assert_allclose(found.points, x.numpy() + noise)
    assert np.isfinite(found.bound).all()


def test_density_on_a_grid():
    flow = toy_flow("gmm1d")
    x = ToySource("gmm1d").samples(0, 0, 2000).numpy()
    grid = on_grid(flow, x, Settings(how={"steps": 8}), flow.model)
    assert grid["told"]["mass_on_grid"] == pytest.approx(1.0, abs=1e-2)
    assert grid["told"]["total_variation_from_truth"] < 1e-2
    axes, points = density_grid(np.random.default_rng(0).standard_normal((500, 2)) * [3, 1])
    assert len(points) == len(axes[0]) * len(axes[1])
    np.testing.assert_allclose(np.ptp(axes[0]), np.ptp(axes[1]))
    np.testing.assert_allclose(points.reshape(len(axes[0]), -1, 2)[5, 7], [axes[0][5], axes[1][7]])


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_blocks_do_not_change_results(trace):
    flow, x = three_blobs(2, 2)
    settings = Settings(trace=trace, probes=2, times=2, how={"steps": 3})

    def run(block):
        flow.block = block
        return evaluate(flow, lambda r: x[r.start : r.stop], 50, settings)

    whole, parts = run(64), run(17)
    same = ["log_prob"] if trace == "exact" else ["log_prob", "standard_error"]
    for name in same:
        np.testing.assert_allclose(parts.column(name), whole.column(name), rtol=1e-9)
    np.testing.assert_allclose(parts.latents, whole.latents, rtol=1e-9)


def test_hutchinson_over_a_data_set_is_unbiased():
    flow, x = three_blobs(3, 2)
    runs = {
        trace: evaluate(flow, lambda r: x[r.start : r.stop], 200,
                        Settings(trace=trace, probes=4, how={"steps": 4}))
        for trace in ("exact", "hutchinson")
    }  # fmt: skip
    difference = runs["hutchinson"].column("log_prob") - runs["exact"].column("log_prob")
    error = runs["hutchinson"].column("standard_error")
    assert abs(difference.mean()) < 3 * math.sqrt((error**2).sum()) / len(error)
    assert np.isnan(runs["exact"].column("standard_error")).all()


def test_importance_draws_share_their_probes():
    """The noise of the trace must pass through the mean of exponentials, not raise it."""
    flow = gaussian_flow([0.5, 0.1], [0.4, 0.15], 2, tmax=12.0)
    h = IMAGE_HALF_WIDTH
    levels = torch.round(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) * 20 + 128)
    x = levels.double() * 2 * h - 1
    q = dequantization(flow, "uniform")
    values = {}
    for draws in (1, 8):
        settings = Settings(trace="hutchinson", dequantize=q, draws=draws, how={"steps": 4})
        values[draws] = evaluate(flow, lambda r: x[r.start : r.stop], 100, settings)
    difference = values[8].column("log_prob") - values[1].column("log_prob")
    assert abs(difference.mean()) < 0.01  # flat cells: one draw says as much as eight


def test_data_that_is_no_level():
    flow = gaussian_flow([0.5, 0.1], [0.4, 0.1], 2)
    settings = Settings(dequantize=dequantization(flow, "uniform"), how={"steps": 2})
    with pytest.raises(ValueError, match="none of the 256 levels"):
        evaluate(flow, lambda r: torch.zeros(len(r), 2), 5, settings)


def test_distance_from_the_network():
    flow = gaussian_flow([1.0, 0.25], [1.0, 0.25], 2)
    x = flow.model.decode(torch.tensor([[0.1, 0.2], [30.0, 0.0], [1.0, 0.5]]).double())
    far, typical = far_from_the_network(flow, x)
    assert far == 1
    assert 0.9 < typical < 1.1


def test_gaussianity_agrees_with_scipy():
    rng = np.random.default_rng(0)
    u = np.column_stack([rng.standard_normal(3000), rng.uniform(-1.7, 1.7, 3000)])
    found = gaussianity(u)
    for i in range(2):
        assert found.ks[i] == pytest.approx(kstest(u[:, i], "norm").statistic)
    assert found.worst[0] == 1
    assert not found.gaussian
    assert "compressed dimension 1" in found.warning(1)
    assert "kept dimension 1" in found.warning(2)
    assert found.excess_kurtosis[1] == pytest.approx(-1.2, abs=0.1)


def test_gaussian_latents_pass_by_chance_rarely_fail():
    rng = np.random.default_rng(1)
    for d in (1, 3, 200):
        found = gaussianity(rng.standard_normal((1000, d)))
        assert found.gaussian
        assert found.warning(d) is None
        assert found.ks.max() < found.chance
        assert found.norm_ks < 0.06


def test_units_of_the_users_columns():
    """A density is per unit of the data: that of columns in other units is smaller by these."""
    flow = gaussian_flow([1.0, 0.5], [0.8, 0.6], 2)
    basis = random_basis([1.0, 0.5])
    scaled = Basis(basis.mean, torch.tensor([10.0, 0.1]).double(), basis.xi, basis.W)
    covariance = torch.diag(torch.tensor([60.0, 0.005])).double()
    model = type(flow.model)(flow.schedule, scaled, basis.mean[None], covariance)
    other = Flow(model)
    x = basis.mean + torch.tensor([[3.0, 0.05]]).double()
    value = other.log_prob(x, steps=64)
    np.testing.assert_allclose(value, true_log_density(model, x.numpy()), atol=2e-3)
