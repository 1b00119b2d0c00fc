"""Toy sets: standardised, streamed by position, embedded as published."""

import numpy as np
import pytest
import torch

from tests.helpers import conformance
from training.toy_data import TOY_SETS, ToySource, exact_mixture, orthonormal_projection

UNIT = [n for n in TOY_SETS if not n.startswith("alt_") and n != "gmm1d"]


@pytest.mark.parametrize("name", UNIT)
def test_sets_are_centred_with_unit_variance(name):
    x = ToySource(name).samples(0, 0, 100_000)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(x.std(0), 1, atol=0.01)


@pytest.mark.parametrize("name", ["alt_s_curve", "alt_swirl"])
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


@pytest.mark.parametrize("name", ["circles", "gmm1d"])
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
