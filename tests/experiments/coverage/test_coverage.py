"""Coverage: boundaries stay closed and follow the flow; shares equal the chi-square values."""

import numpy as np
import pytest

from experiments.coverage import boundaries
from experiments.coverage.boundaries import bisect, coverage_of_ball, edges_of, refine, sphere
from experiments.coverage.coverage import (
    STAGES,
    Carrier,
    Report,
    alpha_shapes,
    coverages,
    transported,
)
from experiments.coverage.regions import alpha_region, mesh_region, polygon_region
from flow.method import Method
from tests.helpers import gaussian_flow, three_blobs

pytest.importorskip("shapely")
trimesh = pytest.importorskip("trimesh")


def bend(z):
    """An invertible map of any dimension that folds the plane of its first two coordinates."""
    x = z.copy()
    x[:, 1] += 1.5 * np.sin(2 * z[:, 0])
    return x


def unbend(x):
    z = x.copy()
    z[:, 1] -= 1.5 * np.sin(2 * x[:, 0])
    return z


def carrier(flow):
    return Carrier(flow, Method("rk4", 12, flow.schedule.tmax))


def region_of(surface, vertices):
    if vertices.shape[1] == 2:
        return polygon_region(vertices, surface.simplices)
    return mesh_region(vertices, surface.simplices, "test")


@pytest.mark.parametrize("d", [2, 3])
def test_sphere(d):
    surface = sphere(d, 2.0, 200)
    assert len(surface.z) >= 200
    np.testing.assert_allclose(np.linalg.norm(surface.z, axis=1), 2.0)
    size = region_of(surface, surface.z).shape
    exact = np.pi * 4 if d == 2 else 4 / 3 * np.pi * 8
    assert (size.area if d == 2 else size.volume) == pytest.approx(exact, rel=1e-2)
    edges = edges_of(surface.simplices)
    shares = boundaries._shares(surface, edges)
    assert shares.sum() == pytest.approx(1)
    assert shares.min() > 0.5 / len(edges)


@pytest.mark.parametrize("d", [2, 3])
def test_bisecting_any_edges_keeps_a_boundary_closed_and_its_way_round(d):
    surface, rng = sphere(d, 1.0, 30), np.random.default_rng(0)
    size = 0.0
    for share in (0.02, 0.3, 0.5, 0.9, 1.0):
        edges = edges_of(surface.simplices)
        marked = rng.random(len(edges)) < share
        count = len(surface.z)
        surface.z, surface.simplices = bisect(surface, edges, marked)
        assert len(surface.z) == count + marked.sum()
        assert set(surface.simplices.ravel()) == set(range(len(surface.z)))
        shape = region_of(surface, surface.z).shape  # raises if it is not watertight
        now = shape.area if d == 2 else shape.volume
        assert now >= size
        size = now
    assert size == pytest.approx(np.pi if d == 2 else 4 / 3 * np.pi, rel=1e-2)


@pytest.mark.parametrize(("d", "tolerance"), [(2, 1e-3), (2, 1e-4), (3, 4e-3)])
def test_refined_boundaries_follow_a_fold(d, tolerance):
    """Points outside the boundary's image but inside the sphere are as few as promised."""
    radii = (0.5, 1.5, 3.0)
    surfaces = [sphere(d, r, 40) for r in radii]
    z = np.random.default_rng(1).standard_normal((40000, d))
    x, inside = bend(z), np.linalg.norm(z, axis=1)[:, None] < radii
    coarse = [region_of(s, bend(s.z)).contains(x) for s in surfaces]
    for s in surfaces:
        s.tolerance = tolerance
    refine(surfaces, lambda z: (bend(z), z), unbend)
    fine = [region_of(s, s.x).contains(x) for s in surfaces]
    for k, s in enumerate(surfaces):
        assert s.misplaced <= tolerance
        noise = 3 * np.sqrt(tolerance / len(x)) + 1 / len(x)
        assert (fine[k] != inside[:, k]).mean() < 1.5 * tolerance + noise
    assert (coarse[1] != inside[:, 1]).mean() > 3 * (fine[1] != inside[:, 1]).mean()


def test_errors_of_the_integration_are_not_chased():
    """A round trip that comes back elsewhere moves the boundary; its edges are fine nonetheless."""
    surface = sphere(2, 1.0, 200)
    refine([surface], lambda z: (z, 1.1 * z), lambda x: 1.1 * x)
    assert len(surface.z) == 200
    np.testing.assert_allclose(surface.back, 1.1 * surface.z)


def test_a_boundary_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(boundaries, "MAX_VERTICES", 210)
    surface = sphere(2, 1.0, 200)
    surface.tolerance = 1e-7
    with pytest.raises(ValueError, match=r"radius 1 needs more than 210 vertices.*boundary_tol"):
        refine([surface], lambda z: (bend(z), z), unbend)
    with pytest.raises(ValueError, match="not stay finite"):
        refine([sphere(2, 1.0, 200)], lambda z: (z * np.nan, z), unbend)


def test_crossing_polygon_and_open_mesh_have_no_inside():
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    ring = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    inside = polygon_region(square, ring).contains(np.array([[0.5, 0.5], [1.5, 0.5]]))
    np.testing.assert_array_equal(inside, [True, False])
    assert polygon_region(square[[0, 2, 1, 3]], ring) is None
    ball = sphere(3, 1.0, 40)
    with pytest.raises(ValueError, match=r"radius 1 in the latent is not watertight.*transported"):
        mesh_region(ball.z, ball.simplices[1:], "radius 1 in the latent")


@pytest.mark.parametrize("d", [2, 3])
def test_alpha_region(d):
    pytest.importorskip("alphashape")
    points = sphere(d, 1.0, 200).z
    inside = alpha_region(points, 0.005, "test").contains(
        np.random.default_rng(0).standard_normal((5000, d))
    )
    exact = coverage_of_ball(1.0, d)
    assert inside.mean() == pytest.approx(exact, abs=0.03)
    with pytest.raises(ValueError, match="alpha"):
        alpha_region(points, 1e4, "test")


def test_alpha_shape_with_triangles_hanging_off_is_refused():
    """Two tetrahedra that share one edge: it has four triangles, so there is no inside."""
    pytest.importorskip("alphashape")
    tip = np.array([[0.0, 0, 0], [0, 0, 1], [1, 0.2, 0.4], [1, -0.2, 0.6]])
    two = np.concatenate([tip, tip[2:] * [-1, 1, 1]])
    with pytest.raises(ValueError, match="not watertight"):
        alpha_region(two, 1.0, "test")


@pytest.mark.parametrize(("xi", "keep"), [([1.5, 0.4], 1), ([1.5, 1.0, 0.4], 3)])
def test_gaussian_flow_has_chi_square_coverage(xi, keep):
    """The flow is linear: spheres become ellipsoids, and shares change nowhere."""
    n, radii = 3000, np.array([0.5, 1.5, 3.0])
    c = carrier(gaussian_flow(xi, [0.7 * v for v in xi], keep))
    found = transported(c, radii, 50, 2e-3)
    z = c.points(n, seed=0)
    points = c.stages(z, *c.passage(z))
    np.testing.assert_allclose(points["roundtrip"], points["latent"], atol=1e-3)
    spread = c.flow.schedule.latent_variance().sqrt().numpy()
    np.testing.assert_allclose(points["latent"], z * spread, rtol=1e-9)
    shares = coverages(found, points, "test")
    report = Report(len(xi), radii, [0], n, shares[None])
    assert (np.abs(shares - report.theory) < 3 * report.standard_error + 2e-3).all()
    assert np.abs(shares - shares[0]).max() <= 1e-3
    for stage in STAGES:
        assert report.stage(stage)["chi_square"] == pytest.approx(coverage_of_ball(radii, len(xi)))


@pytest.mark.parametrize(("d", "keep", "tolerance"), [(2, 1, 1e-3), (3, 2, 8e-3)])
def test_exact_mixture_flow_keeps_coverage(d, keep, tolerance):
    flow, _ = three_blobs(d, keep)
    c = carrier(flow)
    radii, n = np.array([1.0, 2.5]), 1000
    found = transported(c, radii, 50, tolerance)
    z = c.points(n, seed=1)
    shares = coverages(found, c.stages(z, *c.passage(z)), "test")
    inside = (np.linalg.norm(z, axis=1)[:, None] < radii).mean(0)
    assert np.abs(shares - inside).max() <= tolerance + 2 / n


def test_eps_widens_compressed_latents_and_boundaries_alike():
    flow = gaussian_flow([1.5, 0.4], [1.5, 0.4], 1)
    plain, wide = carrier(flow), Carrier(flow, Method("rk4", 8, flow.schedule.tmax), eps=0.5)
    z = plain.points(500, 0)
    points = wide.stages(z, *wide.passage(z))
    np.testing.assert_allclose(points["latent"], z * np.sqrt([1, 0.5]), rtol=1e-9)
    shares = coverages(transported(wide, np.array([1.5]), 50, 1e-3), points, "test")
    inside = (np.linalg.norm(z, axis=1) < 1.5).mean()
    np.testing.assert_allclose(shares[:, 0], inside, atol=0.005)


def test_alpha_shapes_of_a_sphere_are_slightly_inside():
    pytest.importorskip("alphashape")
    c = carrier(gaussian_flow([1.5, 0.4], [1.0, 0.3], 2))
    found = alpha_shapes(c, np.array([1.0, 2.0]), 200, 0.005, seed=0)
    z = c.points(2000, 0)
    shares = coverages(found, c.stages(z, *c.passage(z)), "test")
    inside = (np.linalg.norm(z, axis=1)[:, None] < [1.0, 2.0]).mean(0)
    assert (shares <= inside).all()
    np.testing.assert_allclose(shares - inside, 0, atol=0.01)


def test_report_of_several_seeds():
    shares = np.array([[[0.1, 0.5]] * 3, [[0.2, 0.5]] * 3])
    report = Report(2, np.array([0.5, 1.0]), [4, 5], 100, shares)
    stage = report.stage("gen")
    assert stage["mean"] == pytest.approx([0.15, 0.5])
    assert stage["two_sd"] == pytest.approx([2 * np.std([0.1, 0.2], ddof=1), 0])
    assert stage["by_seed"] == {"4": [0.1, 0.5], "5": [0.2, 0.5]}
    assert len(report.lines()) == 3
