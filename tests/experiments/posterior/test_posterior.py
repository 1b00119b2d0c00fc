"""The inference problem: simulation, densities and Gibbs sampling of weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.posterior.posterior import (
    Problem,
    dirichlet,
    gibbs_weights,
    paper_mixture,
    simulate_data,
)
from tests.helpers import gaussian_flow, three_blobs


def problem(d=2, keep=2, noise_var=1e-2, **more):
    flow, _ = three_blobs(d, keep)
    mixture = paper_mixture(flow.schedule.latent_variance())
    how = {"solver": "rk4", "steps": 4}
    return Problem(flow, mixture, noise_var, torch.zeros(3).double(), how=how, **more)


def test_components_are_normal_densities():
    mixture = paper_mixture(torch.tensor([1.0, 0.01], dtype=torch.float64))
    z = torch.randn(7, 2).double()
    for k in range(3):
        normal = torch.distributions.Normal(mixture.means[k], mixture.sds[k])
        torch.testing.assert_close(mixture.log_components(z)[:, k], normal.log_prob(z).sum(1))
    assert mixture.sds.tolist()[1:] == [[0.1, 0.1], [1.0, pytest.approx(0.01)]]


def test_simulated_data():
    model = problem()
    data, truth = simulate_data(model, 2048, seed=3)
    share = torch.bincount(truth.components) / 2048
    torch.testing.assert_close(share.double(), truth.weights, atol=0.04, rtol=0)
    noise = data.x - model.generate(truth.z)
    assert float(noise.var()) == pytest.approx(model.noise_var, rel=0.1)
    fewer, less = simulate_data(model, 500, seed=3)
    torch.testing.assert_close(fewer.x, data.x[:500])
    assert torch.equal(less.components, truth.components[:500])
    for k in range(3):
        v = (truth.z - model.mixture.means[k]) / model.mixture.sds[k]
        assert float(v[truth.components == k].std()) == pytest.approx(1, abs=0.08)


def test_inflation_inverts_generation_and_gives_its_volume():
    model = problem()
    data, truth = simulate_data(model, 5, seed=0)
    model = replace(data, how={"steps": 48})
    x = model.generate(truth.z)
    z, log_det = model.inflate(x)
    torch.testing.assert_close(z, truth.z, atol=1e-4, rtol=1e-4)
    for i in range(5):
        J = torch.autograd.functional.jacobian(
            lambda v: model.generate(v[None], differentiable=True)[0], z[i]
        )
        assert float(log_det[i]) == pytest.approx(-float(torch.linalg.slogdet(J)[1]), abs=1e-4)


def test_log_likelihood():
    flow = gaussian_flow([1.0, 0.5], [1.0, 0.5], 2)
    mixture = paper_mixture(flow.schedule.latent_variance())
    model = Problem(flow, mixture, 0.04, torch.ones(3).double())
    x, f = torch.randn(6, 2).double(), torch.randn(6, 2).double()
    exact = torch.distributions.Normal(f, 0.2).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_likelihood(x, f), exact)


def test_gibbs_with_known_labels_is_the_dirichlet_posterior():
    counts = np.array([30, 15, 5])
    labels = np.repeat(np.arange(3), counts)
    log_like = torch.from_numpy(np.where(np.eye(3)[labels] > 0, 0.0, -1e3))
    prior = torch.ones(3).double()
    w = gibbs_weights(log_like, prior, 20_000, 10, np.random.default_rng(0))
    alpha = counts + 1.0
    mean = alpha / alpha.sum()
    np.testing.assert_allclose(w.mean(0), mean, atol=3e-3)
    np.testing.assert_allclose(w.var(0), mean * (1 - mean) / (alpha.sum() + 1), rtol=0.08)


def test_gibbs_with_two_overlapping_components():
    """Against the posterior of one weight, integrated on a grid."""
    rng = np.random.default_rng(1)
    log_like = torch.from_numpy(np.log(rng.uniform(0.2, 1.0, (40, 2))))
    w = gibbs_weights(log_like, torch.ones(2).double(), 40_000, 100, np.random.default_rng(2))
    grid = np.linspace(0.0005, 0.9995, 1000)
    L = log_like.exp().numpy()
    density = np.log(L[:, :1] * grid + L[:, 1:] * (1 - grid)).sum(0)
    density = np.exp(density - density.max())
    density /= density.sum()
    mean = (grid * density).sum()
    sd = np.sqrt((grid**2 * density).sum() - mean**2)
    assert w[:, 0].mean() == pytest.approx(mean, abs=0.05 * sd)
    assert w[:, 0].std() == pytest.approx(sd, rel=0.05)


def test_dirichlet_with_an_empty_component():
    w = dirichlet(np.array([3.0, 0.0, 2.0]), np.random.default_rng(0))
    assert w[1] == 0
    assert w.sum() == pytest.approx(1)
