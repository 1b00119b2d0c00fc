"""Distances between sets of features: published numbers, closed forms, brute force."""

import math

import numpy as np
import pytest
import torch

from metrics import features as image_metrics
from metrics.features import (
    feature_statistics,
    frechet_distance,
    kernel_distance,
    statistics_of,
)
from tests.helpers import conformance


def normals(n, f, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, f))).float()


def test_frechet_conformance():
    _, data = conformance("frechet")
    found = frechet_distance(data["mu"], data["sigma"], data["mu_ref"], data["sigma_ref"])
    assert found == pytest.approx(float(data["fid"]), rel=1e-9)


def test_frechet_of_commuting_gaussians_is_the_distance_of_their_deviations():
    rng = np.random.default_rng(1)
    W = torch.from_numpy(np.linalg.qr(rng.standard_normal((5, 5)))[0])
    a, b, m = (torch.from_numpy(rng.random(5)) for _ in range(3))
    found = frechet_distance(m, W @ a.square().diag() @ W.T, 2 * m, W @ b.square().diag() @ W.T)
    wanted = m.square().sum() + (a - b).square().sum()
    assert found == pytest.approx(float(wanted), rel=1e-12)


def test_frechet_of_singular_covariances():
    """Fewer images than features: a distance all the same, and none from itself."""
    x, y = statistics_of(normals(10, 30)), statistics_of(normals(10, 30, seed=1))
    there = frechet_distance(x.mu, x.sigma, y.mu, y.sigma)
    back = frechet_distance(y.mu, y.sigma, x.mu, x.sigma)
    assert there == pytest.approx(back, rel=1e-6)
    # eigenvalues that are zero come out as 1e-16 and their roots as 1e-8
    assert 0 <= frechet_distance(x.mu, x.sigma, x.mu, x.sigma) < 1e-5
    nothing = torch.zeros(30, 30)
    alone = frechet_distance(x.mu, x.sigma, x.mu, nothing)
    assert alone == pytest.approx(float(x.sigma.trace()), rel=1e-9)


def test_kernel_distance_of_all_images_is_the_unbiased_estimate():
    x, y = normals(7, 3), normals(7, 3, seed=1) + 0.5
    kernel = lambda a, b: (float(a.double() @ b.double()) / 3 + 1) ** 3  # noqa: E731
    same = [kernel(z[i], z[j]) for z in (x, y) for i in range(7) for j in range(7) if i != j]
    cross = [kernel(a, b) for a in x for b in y]
    wanted = sum(same) / 42 - 2 * sum(cross) / 49
    mean, sd = kernel_distance(x, y, subsets=3, size=7)
    assert mean == pytest.approx(wanted, rel=1e-9)
    assert math.isnan(sd)  # one subset has no spread


def test_kernel_distance_is_seeded_and_tells_sets_apart():
    x, y, far = normals(300, 4), normals(400, 4, seed=1), normals(300, 4, seed=2) + 1
    near = kernel_distance(x, y, size=100)
    assert near == kernel_distance(x, y, size=100)
    assert near != kernel_distance(x, y, size=100, seed=1)
    assert abs(near[0]) < 3 * near[1]
    mean, sd = kernel_distance(far, y, size=100)
    assert mean > 3 * sd
    assert kernel_distance(x, y)[1] < near[1]  # subsets of 1000 are cut to the 300 there are


def test_kernel_distance_of_one_image_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(normals(1, 4), normals(9, 4))


def test_a_stream_has_the_statistics_of_its_features(monkeypatch):
    """Whatever the segments and batches; the pool is a choice of rows in their order."""
    monkeypatch.setattr(image_metrics, "SEGMENT", 50)
    monkeypatch.setattr(image_metrics, "POOL", 40)
    images = np.random.default_rng(0).integers(0, 256, (123, 5), dtype=np.uint8)
    read = lambda block: images[block.start : block.stop].copy()  # noqa: E731
    network = lambda x: x.float() / 8 + 1000  # noqa: E731  (a large mean costs no digits)
    x = torch.from_numpy(images).double() / 8 + 1000
    for batch in (7, 64):
        found = feature_statistics(read, network, 5, 123, batch, seed=3)
        assert found.count == 123
        torch.testing.assert_close(found.mu, x.mean(0), rtol=1e-12, atol=0)
        wanted = torch.from_numpy(np.cov(x.numpy(), rowvar=False))
        torch.testing.assert_close(found.sigma, wanted, rtol=1e-10, atol=1e-10)
        rows = {tuple(row): i for i, row in enumerate(x.float().tolist())}
        where = [rows[tuple(row)] for row in found.pool.tolist()]
        assert len(where) == 40
        assert where == sorted(where)
    other = feature_statistics(read, network, 5, 123, 64, seed=4)
    assert not torch.equal(other.pool, found.pool)
    assert torch.equal(other.sigma, found.sigma)
