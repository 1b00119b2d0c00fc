"""Gaussianity of latents: normal ones pass, and what each dimension alone does not show fails."""

import numpy as np
import pytest

from experiments.density.gaussianity import correlation_by_chance, gaussianity


def normal(seed, n=1000, d=3):
    return np.random.default_rng(seed).standard_normal((n, d))


def twin(u):
    """(a, a): normal dimensions on a line."""
    return u[:, [0, 0]]


def signed(u):
    """(a, +-a): normal, uncorrelated, and on two lines."""
    return np.stack([u[:, 0], u[:, 0] * np.sign(u[:, 1])], 1)


def shell(u):
    """All of one norm: each of many dimensions is nearly normal."""
    return u * np.sqrt(u.shape[1]) / np.linalg.norm(u, axis=1, keepdims=True)


BAD = {
    "twin": (twin, 3, {"norm", "projections", "correlations"}),
    "signed": (signed, 3, {"norm", "projections"}),
    "shell": (shell, 200, {"norm"}),
    "wide": (lambda u: u * [1.0, 1.6, 1.0], 3, {"dimensions", "norm"}),
    "two that go together": (
        lambda u: np.c_[u[:, :49], 0.6 * u[:, 0] + 0.8 * u[:, 49]], 50, {"correlations"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("seed", range(5))
def test_what_single_dimensions_do_not_show(case, seed):
    make, d, by = BAD[case]
    found = gaussianity(make(normal(seed, 2000, d)))
    assert not found.gaussian
    assert by <= set(found.summary(2)["not_gaussian_by"])
    if case != "wide":
        assert "dimensions" not in found.summary(2)["not_gaussian_by"]
    assert "latents are not Gaussian" in found.warning(2)


def test_the_pair_is_named():
    u = normal(0, d=6)
    u[:, 4] = 0.9 * u[:, 1] + np.sqrt(1 - 0.81) * u[:, 4]
    found = gaussianity(u)
    assert found.pair == (1, 4)
    assert found.correlation == pytest.approx(0.9, abs=0.02)
    assert "dimensions 1 and 4 have correlation 0." in found.warning(6)


@pytest.mark.parametrize("d", [1, 2, 30])
def test_normal_latents_pass_at_the_level_that_is_stated(d, monkeypatch):
    """Without tolerance, 2 % of sets may fail; with it, next to none."""
    sets = [normal(seed, 300, d) for seed in range(200)]
    assert sum(not gaussianity(u).gaussian for u in sets) == 0
    monkeypatch.setattr("experiments.density.gaussianity.KS_TOLERANCE", 0.0)
    monkeypatch.setattr("experiments.density.gaussianity.CORRELATION_TOLERANCE", 0.0)
    assert sum(not gaussianity(u).gaussian for u in sets) <= 10  # of 4; 10 has probability .5 %
    assert gaussianity(sets[0]).warning(d) is None


def test_correlations_by_chance_are_those_of_simulations():
    bound = correlation_by_chance(50, 6)
    over = 0
    for seed in range(2000):
        r = np.corrcoef(normal(seed, 50, 6).T)
        over += np.abs(r[np.triu_indices(6, 1)]).max() > bound
    assert 8 <= over <= 32  # of 20
