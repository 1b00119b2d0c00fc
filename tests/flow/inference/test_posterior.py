"""Posteriors against closed forms: linear-Gaussian flows, whose posteriors are Gaussian."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from flow import Flow, Posterior, observe
from flow.exact import MixtureField
from tests.helpers import gaussian_flow, three_blobs
from training.basis import eigenbasis
from training.data.toys import ToySource, exact_mixture
from training.schedule import Schedule

HOW = {"solver": "ab2", "steps": 4}  # few: what is exact for them is compared with it


def linear_problem(d, keep, m, noise=0.1):
    """A Gaussian flow, a linear observation of a datum of it, and its exact posterior.

    Returns:
        flow, observation, posterior mean [d] and covariance [d, d], log evidence.
    """
    rng = np.random.default_rng(d)
    xi = np.sort(rng.uniform(0.1, 2.0, d))[::-1].tolist()
    variances = rng.uniform(0.05, 2.0, d).tolist()
    flow = gaussian_flow(xi, variances, keep, g_type="constant_inflation_gap")
    A = torch.from_numpy(rng.standard_normal((m, d))) / math.sqrt(d)
    unit = torch.cat([torch.zeros(1, d).double(), torch.eye(d).double()])
    points = flow.generate(unit, coords="whitened", **HOW)  # the flow is linear
    mean, J = points[0], (points[1:] - points[0]).T
    y = A @ flow.sample(1, seed=5, **HOW)[0] + noise * torch.from_numpy(rng.standard_normal(m))
    S = J @ J.T
    C = A @ S @ A.T + noise**2 * torch.eye(m).double()
    gain, away = S @ A.T @ torch.linalg.inv(C), y - A @ mean
    evidence = -0.5 * (away @ torch.linalg.solve(C, away) + torch.logdet(2 * math.pi * C))
    return flow, observe.linear(A, y, noise), mean + gain @ away, S - gain @ A @ S, float(evidence)


SETTINGS = {
    "smc": {"particles": 256},
    "hmc": {"chains": 64, "warmup": 16, "draws": 16, "moves": 2},
    "hmc annealed": {"chains": 64, "warmup": 16, "draws": 16, "start": "annealing"},
    "importance": {"particles": 2048},
}


def check_linear(d, keep, m, method, n, **settings):
    flow, observation, mean, covariance, evidence = linear_problem(d, keep, m)
    draws = Posterior(flow, observation, **HOW).sample(n, seed=0, method=method, **settings)
    error = (draws.x.mean(0) - mean) / (covariance.diagonal() / draws.effective).sqrt()
    away = torch.linalg.norm(torch.cov(draws.x.T) - covariance) / torch.linalg.norm(covariance)
    return draws, float(error.abs().max()), float(away), draws.log_evidence - evidence


@pytest.mark.parametrize("name", SETTINGS)
def test_linear_gaussian(name):
    method = name.split()[0]
    draws, error, away, evidence = check_linear(2, 2, 1, method, 1000, **SETTINGS[name])
    assert draws.x.shape == draws.z.shape == (1000, 2)
    assert 200 < draws.effective < 1000
    assert error < 3
    assert away < 0.1
    assert math.isnan(evidence) if method == "hmc" else abs(evidence) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("d", "keep", "m"), [(2, 2, 1), (10, 7, 5), (64, 40, 20)])
def test_linear_gaussian_in_many_dimensions(d, keep, m, name):
    """Means within 3 Monte Carlo errors (of the worst of d: 3.7), covariances within 10 %.

    That takes n draws of error sqrt(d/n). Importance says in 64 dimensions that it is of no use.
    """
    n = {2: 2000, 10: 4000, 64: 24000}[d]
    method, told = name.split()[0], {"start": "annealing"} if "annealed" in name else {}
    draws, error, away, evidence = check_linear(d, keep, m, method, n, **told)
    if (method, d) == ("importance", 64):
        assert draws.effective < 10
        return
    assert error < (3 if d == 2 else 3.7)
    assert away < 0.1
    assert math.isnan(evidence) if method == "hmc" else abs(evidence) < (0.15 if d < 64 else 0.5)


def ring(x):
    return -0.5 * ((x.norm(dim=1) - 1.0) / 0.1) ** 2


def by_quadrature(flow, log_like):
    """Posterior of whitened latents on a grid: share of x_0 > 0, and log evidence."""
    u = torch.linspace(-5, 5, 161).double()
    z = torch.stack(torch.meshgrid(u, u, indexing="ij"), -1).flatten(0, 1)
    x = flow.generate(z, coords="whitened", **HOW)
    w = log_like(x) - 0.5 * z.square().sum(1) - math.log(2 * math.pi)
    return float(torch.softmax(w, 0)[x[:, 0] > 0].sum()), float(
        torch.logsumexp(w, 0) + 2 * math.log(float(u[1] - u[0]))
    )


def test_a_mixture_with_a_likelihood_of_ones_own():
    """Modes keep their weights, and the evidence is that of quadrature."""
    flow, _ = three_blobs(2, 2)
    share, evidence = by_quadrature(flow, ring)
    draws = Posterior(flow, ring, **HOW).sample(1000, seed=1, particles=512)
    found = float((draws.x[:, 0] > 0).double().mean())
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 512)
    assert abs(draws.log_evidence - evidence) < 0.15
    assert float((draws.x.norm(dim=1) - 1).abs().max()) < 0.6


def test_annealed_chains_keep_the_weights_of_modes():
    """Chains that only follow gradients from the prior would keep its weights, which are others."""
    flow, _ = three_blobs(2, 2)
    share, _ = by_quadrature(flow, ring)
    how = {"chains": 256, "warmup": 4, "draws": 2, "start": "annealing"}
    draws = Posterior(flow, ring, **HOW).sample(256, seed=1, method="hmc", **how)
    found = float((draws.x[:, 0] > 0).double().mean())
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 64)
    assert draws.facts["temperatures"][-1] == 1.0
    prior = float((flow.sample(4000, seed=2, **HOW)[:, 0] > 0).double().mean())
    assert abs(prior - share) > 4 * math.sqrt(share * (1 - share) / 64)


def test_a_wrong_likelihood_is_seen():
    """The same tests fail with a noise that is off by a factor of 2 in variance."""
    flow, observation, _, covariance, _ = linear_problem(2, 2, 1)
    wrong = replace(observation, noise=observation.noise * math.sqrt(2))
    draws = Posterior(flow, wrong, **HOW).sample(1000, seed=0, method="importance")
    narrow = torch.linalg.eigh(covariance)[1][:, 0]  # the direction that was measured
    assert float((torch.cov(draws.x.T) @ narrow) @ narrow) > 1.4 * float(
        covariance @ narrow @ narrow
    )


def test_many_at_once_are_those_one_by_one():
    """Draws depend on seed and number alone, to the bit."""
    flow, _ = three_blobs(2, 1)
    models = [observe([v, math.nan], noise=0.2) for v in (-0.5, 0.1, 0.8)]
    together = Posterior.batch(flow, models, **HOW).sample(50, seed=3, particles=64)
    for i, model in enumerate(models):
        (alone,) = Posterior.batch(flow, [model], **HOW).sample(50, seed=3, particles=64, first=i)
        assert torch.equal(alone.x, together[i].x)
        assert alone.log_evidence == together[i].log_evidence
    first = Posterior(flow, models[0], **HOW).sample(50, seed=3, particles=64)
    assert torch.equal(first.z, together[0].z)
    again = flow.generate(first.z, coords="whitened", **HOW)
    torch.testing.assert_close(again, first.x)
    assert "1 kept" in first.notes[0]
    assert not torch.equal(first.z, Posterior(flow, models[0], **HOW).sample(50, 4, particles=64).z)


def test_nan_is_impossible_and_said_once():
    flow, _ = three_blobs(2, 2)

    def half(x):
        return torch.where(x[:, 0] > 0, ring(x), torch.nan)

    with pytest.warns(UserWarning, match="NaN of .* latents: taken as impossible") as warned:
        draws = Posterior(flow, half, **HOW).sample(50, seed=0, particles=64)
    assert len(warned) == 1
    assert float(draws.x[:, 0].min()) > 0
    assert any("NaN" in note for note in draws.notes)


def test_arviz():
    flow, _ = three_blobs(2, 2)
    az = pytest.importorskip("arviz")
    how = {"chains": 8, "warmup": 4, "draws": 16, "moves": 1}
    draws = Posterior(flow, ring, **HOW).sample(40, seed=0, method="hmc", **how)
    data = draws.to_arviz()
    assert data.posterior["x"].shape == (8, 16, 2)
    assert float(az.ess(data.posterior["z"].values[..., 0])) > 4


def nothing(x):
    return torch.full_like(x[:, 0], -math.inf)


REFUSED = {
    "data of 3 dimensions; this flow has 2": lambda f: Posterior(f, observe([1, 2, 3], noise=1)),
    "no likelihood": lambda f: Posterior(f, 3),
    "likelihood is zero at all of": lambda f: Posterior(f, nothing, **HOW).sample(4, particles=16),
    "must give one number a row": lambda f: Posterior(f, torch.sum, **HOW).sample(4, particles=16),
    "infinite": lambda f: Posterior(f, lambda x: -nothing(x), **HOW).sample(4, particles=16),
    "method='gibbs' is none of smc, hmc": lambda f: Posterior(f, ring).sample(4, method="gibbs"),
    "method='smc' has no chains": lambda f: Posterior(f, ring).sample(4, chains=4),
    "particles=0: give a whole number": lambda f: Posterior(f, ring).sample(4, particles=0),
    "share=-1.0: give a number above 0": lambda f: Posterior(f, ring).sample(4, share=-1.0),
    "start='Smc' is none of smc, annealing": lambda f: Posterior(f, ring).sample(
        4, method="hmc", start="Smc"
    ),
    "moves are of start='smc'": lambda f: Posterior(f, ring).sample(
        4, method="hmc", start="annealing", moves=4
    ),
    "n=0": lambda f: Posterior(f, ring).sample(0),
    "solver='rk5'": lambda f: Posterior(f, ring, solver="rk5"),
    "not conditional": lambda f: Posterior(f, ring, class_labels=1),
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line):
    flow, _ = three_blobs(2, 2)
    with pytest.raises(ValueError, match=line):
        REFUSED[line](flow)


def distances(draws, x, log_density):
    """Kolmogorov-Smirnov distance of draws [n] from a density on a grid x [m]."""
    cdf = torch.softmax(log_density, 0).cumsum(0).numpy()
    edges = (x + (x[1] - x[0]) / 2).numpy()
    F, n = np.interp(np.sort(draws.numpy()), edges, cdf), len(draws)
    return max((np.arange(1, n + 1) / n - F).max(), (F - np.arange(n) / n).max())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["smc", "importance"])
def test_gmm1d_against_quadrature(method):
    """20 observations: within the 99 % band, evidence within .05 nats; a wrong noise is not."""
    mixture = exact_mixture("gmm1d")
    source = ToySource("gmm1d")
    basis = eigenbasis([source.samples(0, 0, 20000)], 1)
    flow = Flow(MixtureField(Schedule(basis.xi, 1, tmax=9.0), basis, **mixture))
    grid = torch.linspace(-4, 4, 4001).double()
    gamma = flow.schedule.gamma(0.0)[0]
    u = flow.to_whitened(grid[:, None], 0.0, "unscaled")
    y = flow.from_whitened(u, 0.0, "unscaled_es")
    density = flow.model.log_density(y, 0.0) - math.log(float(flow.model.scale))
    assert float(gamma) > 0
    assert float(density.exp().sum() * (grid[1] - grid[0])) == pytest.approx(1, abs=1e-3)
    truth = flow.sample(20, seed=3, steps=16)[:, 0]
    measured = truth + 0.3 * torch.from_numpy(np.random.default_rng(0).standard_normal(20))
    models = [observe([float(v)], noise=0.3) for v in measured]
    settings = {"particles": 4096} if method == "smc" else {}
    found = Posterior.batch(flow, models, steps=8).sample(2000, seed=0, method=method, **settings)
    band = 1.628 / math.sqrt(2000)
    wrong = 0
    for model, draws in zip(models, found, strict=True):
        posterior = density + model.log_likelihood(grid[:, None])
        assert distances(draws.x[:, 0], grid, posterior) < band
        evidence = float(torch.logsumexp(posterior, 0) + (grid[1] - grid[0]).log())
        assert abs(draws.log_evidence - evidence) < 0.05
        twice = replace(model, noise=model.noise * math.sqrt(2))
        other = density + twice.log_likelihood(grid[:, None])
        wrong += distances(draws.x[:, 0], grid, other) > band
    assert wrong > 10
