"""Toy sets: standardised, streamed by position, embedded as published."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from sklearn import datasets

from tests.helpers import conformance
from training.data.toys import (
    TOY_SETS,
    ToySource,
    exact_mixture,
    orthonormal_projection,
    trained_on,
)

UNIT = [n for n in TOY_SETS if not n.startswith("alt_") and n != "gmm1d"]
PUBLISHED = ["circles", "sine2", "moons", "s_curve", "swirl", "alt_s_curve", "alt_swirl"]


def drawn_by_scikit_learn(name: str, n: int, seed: int) -> np.ndarray:
    """A set with the published constants, scaled by its own moments as published, [n, d]."""
    rng = np.random.default_rng(seed)
    if name == "sine2":
        x = rng.uniform(-1, 1, n)
        points = np.column_stack([x, np.sin(4 * np.pi * x) / 4 + rng.normal(0, 0.15, n)])
    else:
        draw, how = {
            "circles": (datasets.make_circles, {"noise": 0.08, "factor": 0.5}),
            "moons": (datasets.make_moons, {"noise": 0.08}),
            "s_curve": (datasets.make_s_curve, {"noise": 0.2}),
            "swirl": (datasets.make_swiss_roll, {"noise": 1.25}),
        }[name.removeprefix("alt_")]
        points, _ = draw(n, random_state=seed, **how)
    if name.startswith("alt_"):
        points[:, 1] = rng.normal(0, 0.5, n)
        return points
    return (points - points.mean(0)) / points.std(0)


def energy(x: np.ndarray, y: np.ndarray) -> float:
    """Squared energy distance of two samples."""
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    inner = torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
    return float(2 * torch.cdist(a, b).mean() - inner)


def nearest(x: np.ndarray) -> float:
    """Mean distance to the nearest neighbour."""
    return float(cKDTree(x).query(x, k=2)[0][:, 1].mean())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_those_of_scikit_learn_within_their_own_spread(name):
    """Table 'Toy sets'; the sets that had these names before, of less noise, are told apart."""
    n = 1000
    sets = [drawn_by_scikit_learn(name, n, seed) for seed in range(5)]
    spread = [energy(a, b) for i, a in enumerate(sets) for b in sets[:i]]
    gaps = np.array([nearest(x) for x in sets])
    limit = 3 * np.abs(gaps - gaps.mean()).max()

    def within(x):
        apart = np.median([energy(x, y) for y in sets])
        return apart <= 1.2 * max(spread), abs(nearest(x) - gaps.mean()) <= limit

    assert within(ToySource(name).samples(0, 0, n).numpy()) == (True, True)
    assert within(ToySource(f"{name}_sharp").samples(0, 0, n).numpy())[1] is np.False_


def test_circles_and_moons_have_two_equal_halves():
    """Table 'Toy sets'; in any even stretch, and no position tells the half."""
    x = ToySource("circles").samples(0, 0, 4096).norm(dim=1).numpy() * np.sqrt(0.3189)
    outer = (x > 0.75).reshape(-1, 2)
    assert (outer.sum(1) == 1).mean() > 0.99  # but for noise across the middle
    assert 0.4 < outer[:, 0].mean() < 0.6
    assert ToySource("moons").samples(0, 0, 2**16).mean(0).abs().max() < 0.005


def test_entropy_of_the_published_circles():
    """2.2138 nats by quadrature over the radius, with Bessel functions for the rings."""
    axis = torch.linspace(-3, 3, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mixture = exact_mixture("circles")
    v = mixture["covariance"]
    square = torch.cdist(grid, mixture["means"]).square()
    density = (-square / (2 * v)).exp().mean(1) / (2 * np.pi * v)
    cell = float(axis[1] - axis[0]) ** 2
    assert float(density.sum() * cell) == pytest.approx(1, abs=1e-6)
    assert float(-torch.xlogy(density, density).sum() * cell) == pytest.approx(2.2138, abs=1e-4)


def test_a_network_of_before_was_trained_on_the_sharp_set():
    """Names meant other sets; a network says which definition it was trained by."""
    now = {"data": ToySource("circles").description()}
    assert trained_on(now) == "circles"
    before = {"data": {"kind": "toy", "name": "circles", "dim": 2}}
    assert trained_on(before) == "circles_sharp"
    assert trained_on(before | {"origin": "older file of the EDM family"}) == "circles"
    assert trained_on({"data": {"kind": "toy", "name": "gmm1d", "dim": 1}}) == "gmm1d"
    assert trained_on({}) is None


@pytest.mark.parametrize("name", UNIT)
def test_sets_are_centred_with_unit_variance(name):
    x = ToySource(name).samples(0, 0, 100_000)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(x.std(0), 1, atol=0.01)


@pytest.mark.parametrize("name", [n for n in TOY_SETS if n.startswith("alt_")])
def test_alternative_sets_have_gaussian_thickness(name):
    x = ToySource(name).samples(0, 0, 100_000)[:, 1]
    assert float(x.std()) == pytest.approx(0.5, abs=0.01)
    assert float((x / x.std()).pow(4).mean()) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("name", TOY_SETS)
def test_samples_depend_on_seed_and_position_alone(name):
    source = ToySource(name)
    all_of = source.samples(1, 0, 3000)
    assert torch.equal(source.samples(1, 700, 2300), all_of[700:2300])
    assert not torch.equal(source.samples(2, 0, 3000), all_of)
    assert not torch.equal(source.samples(1, 0, 3000, "training"), all_of)


def test_published_projection():
    _, a = conformance("orthonormal_projection")
    np.testing.assert_allclose(orthonormal_projection(10, 2), a["matrix"], atol=1e-12)


def test_embeddings():
    flat = ToySource("circles").samples(0, 0, 500)
    up = ToySource("circles", augment_to=10).samples(0, 0, 500)
    P = torch.from_numpy(orthonormal_projection(10, 2))
    torch.testing.assert_close(up @ P, flat)
    curved = ToySource("circles", 10, "signed_square", 0.2).samples(0, 0, 500)
    noise = curved - up.sign() * up.square()
    assert float(noise.std()) == pytest.approx(0.2, rel=0.05)
    with pytest.raises(ValueError, match="--augment_to=1"):
        ToySource("circles", augment_to=1)
    with pytest.raises(ValueError, match="known sets are circles"):
        ToySource("cubes")


@pytest.mark.parametrize("name", ["circles", "circles_sharp", "gmm1d"])
def test_exact_mixtures_have_the_moments_of_the_sets(name):
    x = ToySource(name).samples(0, 0, 200_000)
    mixture = exact_mixture(name)
    means, C = mixture["means"], mixture["covariance"]
    w = mixture.get("weights", torch.full((len(means),), 1 / len(means)).double())
    d = means.shape[1]
    within = (w[:, None, None] * C).sum(0) if C.dim() == 3 else C * torch.eye(d)
    mean = w @ means
    second = within + torch.einsum("k,ki,kj->ij", w, means, means)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(x.T @ x / len(x), second, atol=0.01)
    sd2 = C[:, 0, 0] if C.dim() == 3 else C  # fourth moment of each first coordinate
    m = means[:, 0]
    fourth = (w * (m**4 + 6 * m**2 * sd2 + 3 * sd2**2)).sum()
    assert float(x[:, 0].pow(4).mean()) == pytest.approx(float(fourth), rel=0.02)
