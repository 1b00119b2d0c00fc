"""Coverage: shares equal the chi-square values, by the norm and by published alpha shapes."""

import numpy as np
import pytest

from experiments.coverage.boundaries import alpha_shapes, coverage_of_ball, random_sphere
from experiments.coverage.carrier import STAGES, Carrier
from experiments.coverage.coverage import Report, shares_by_norm, shares_within
from experiments.coverage.regions import alpha_region
from flow.method import Method
from tests.helpers import gaussian_flow, three_blobs


def carrier(flow):
    return Carrier(flow, Method("rk4", 12, flow.schedule.tmax))


@pytest.mark.parametrize("d", [2, 3])
def test_alpha_region(d):
    pytest.importorskip("alphashape")
    points = random_sphere(d, 1.0, 600, np.random.default_rng(1))
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


@pytest.mark.parametrize(
    ("xi", "keep"), [([1.5, 0.4], 1), ([1.5, 1.0, 0.4], 3), ([1.5, 1.2, 1.0, 0.8, 0.4], 2)]
)
def test_gaussian_flow_has_chi_square_coverage_in_any_dimension(xi, keep):
    n, radii = 3000, np.array([0.5, 1.5, 3.0])
    c = carrier(gaussian_flow(xi, [0.7 * v for v in xi], keep))
    z = c.points(n, seed=0)
    x, back = c.passage(z)
    points = c.stages(z, x, back)
    np.testing.assert_allclose(points["roundtrip"], points["latent"], atol=1e-3)
    spread = c.flow.schedule.latent_variance().sqrt().numpy()
    np.testing.assert_allclose(points["latent"], z * spread, rtol=1e-9)
    shares = shares_by_norm(z, back, radii)
    report = Report(len(xi), radii, [0], n, shares[None])
    assert (np.abs(shares - report.theory) < 3 * report.standard_error + 2e-3).all()
    assert np.abs(shares - shares[0]).max() <= 1e-3
    for stage in STAGES:
        assert report.stage(stage)["chi_square"] == pytest.approx(coverage_of_ball(radii, len(xi)))


def test_the_norm_says_what_the_image_of_the_sphere_encloses():
    """A polygon of 2,000 points of the sphere, generated, has the same points inside."""
    shapely = pytest.importorskip("shapely")
    c = carrier(three_blobs(2, 1)[0])
    z, angle = c.points(1000, seed=1), np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    x, back = c.passage(z)
    for r in (1.0, 2.5):
        edge = c.passage(r * np.stack([np.cos(angle), np.sin(angle)], 1))[0]
        enclosed = shapely.contains_xy(shapely.Polygon(edge), *x.T)
        assert (enclosed != (np.linalg.norm(back, axis=1) < r)).mean() <= 2e-3


def test_a_round_trip_that_comes_back_elsewhere_shows():
    z, radii = np.random.default_rng(0).standard_normal((4000, 3)), np.array([1.0, 2.5])
    shares = shares_by_norm(z, 1.1 * z, radii)
    assert shares[1] == pytest.approx(coverage_of_ball(radii / 1.1, 3), abs=0.02)
    assert (shares[0] - shares[1] > 0.03).all()
    with pytest.raises(ValueError, match="do not stay finite"):
        shares_by_norm(z, z * np.nan, radii)


def test_eps_widens_compressed_latents():
    flow = gaussian_flow([1.5, 0.4], [1.5, 0.4], 1)
    plain, wide = carrier(flow), Carrier(flow, Method("rk4", 8, flow.schedule.tmax), eps=0.5)
    z = plain.points(500, 0)
    x, back = wide.passage(z)
    points = wide.stages(z, x, back)
    np.testing.assert_allclose(points["latent"], z * np.sqrt([1, 0.5]), rtol=1e-9)
    np.testing.assert_allclose(back, z, atol=5e-3)


def test_alpha_shapes_of_a_sphere_are_slightly_inside():
    pytest.importorskip("alphashape")
    c = carrier(gaussian_flow([1.5, 0.4], [1.0, 0.3], 2))
    found = alpha_shapes(c, np.array([1.0, 2.0]), 200, 0.005, seed=0)
    z = c.points(2000, 0)
    shares = shares_within(found, c.stages(z, *c.passage(z)), "test")
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
