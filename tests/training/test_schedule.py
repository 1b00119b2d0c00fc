"""The schedule against the published numbers, finite differences and its own definitions."""

import json

import numpy as np
import pytest
import torch

from flow.flow import ifs_times, vp_ode_times
from tests.helpers import CONFORMANCE, conformance
from training.arc import Arc
from training.schedule import Schedule, default_rho, inflation_exponents, participation_ratio

XI = torch.tensor([1.7, 0.9, 0.4, 0.02], dtype=torch.float64)
VARIANTS = {
    "prp": {"dims_to_keep": 4},
    "orig": {"dims_to_keep": 3, "g_type": "orig"},
    "zero_rate": {"dims_to_keep": 2, "g_type": "orig"},
    "gap": {"dims_to_keep": 1, "inflation_gap": 0.02},
    "rescaled": {"dims_to_keep": 2, "g_type": "orig", "g_rescaling": 0.15, "tmax": 15.01},
    "long": {"dims_to_keep": 4, "tmax": 15.01},
    "proportional": {"dims_to_keep": 4, "g_type": "proportional"},
}


@pytest.fixture(params=VARIANTS)
def schedule(request):
    return Schedule(XI, **VARIANTS[request.param])


@pytest.mark.parametrize("case", range(5))
def test_published_schedules(case):
    data = np.load(CONFORMANCE / "schedules.npz", allow_pickle=False)
    args = json.loads(str(data[f"c{case}_args"]))
    xi = torch.full((args["data_dim"],), 0.1)
    xi[0] = args["xi_star"]
    schedule = Schedule(
        xi,
        args["dims_to_keep"],
        g_type=args["g_type"],
        inflation_gap=args["inflation_gap"] or 0.0,
        g_rescaling=args["g_rescaling"],
        rho=args["rho"],
        gamma0=args["gamma0"],
        A0=args["A0"],
        tmax=15.01,
    )
    ts = torch.from_numpy(data["ts"])
    gamma, dgamma = schedule.gamma(ts)
    s, ds = schedule.scale(ts)
    np.testing.assert_allclose(schedule.g, data[f"c{case}_g"], rtol=1e-6)
    np.testing.assert_allclose(gamma, data[f"c{case}_gamma"], rtol=1e-5)
    np.testing.assert_allclose(dgamma, data[f"c{case}_gamma_dot"], rtol=1e-5)
    np.testing.assert_allclose(s[:, 0], data[f"c{case}_s"], rtol=1e-5)
    np.testing.assert_allclose(ds[:, 0], data[f"c{case}_s_dot"], rtol=1e-5)


def test_published_time_grids():
    _, data = conformance("schedules")
    h = 7.01 / 18
    np.testing.assert_allclose(ifs_times(18, h), data["times_ifs_melt"], atol=1e-9)
    np.testing.assert_allclose(ifs_times(18, h, True), data["times_ifs_gen"], atol=1e-9)
    np.testing.assert_allclose(vp_ode_times(18, 7.01), data["times_vp_ode_melt"], atol=1e-9)
    np.testing.assert_allclose(vp_ode_times(18, 7.01, True), data["times_vp_ode_gen"], atol=1e-9)


@pytest.mark.parametrize("what", ["gamma", "scale", "angle"])
def test_derivatives_are_those_of_the_values(schedule, what):
    t, h = 2.3, 1e-5
    function = getattr(schedule, what)
    numeric = (function(t + h)[0] - function(t - h)[0]) / (2 * h)
    torch.testing.assert_close(function(t)[1].expand_as(numeric), numeric, rtol=1e-7, atol=1e-9)


def test_angle_is_that_of_noise_and_data(schedule):
    t = torch.tensor([0.0, 0.4, 3.0, schedule.tmax], dtype=torch.float64)
    gamma = schedule.gamma(t)[0]
    phi = schedule.angle(t)[0]
    torch.testing.assert_close(torch.tan(phi) ** 2, gamma / XI, rtol=1e-9, atol=1e-12)
    cos, sin = schedule.cos_sin(t)
    torch.testing.assert_close(cos, phi.cos())
    torch.testing.assert_close(sin, phi.sin())


def test_arc_inverts_and_has_unit_speed(schedule):
    arc = Arc(schedule)
    times = np.linspace(1e-3, schedule.tmax, 200)
    positions = [arc.position(t) for t in times]
    np.testing.assert_allclose([arc.time(a) for a in positions], times, atol=1e-8)
    speed = [np.sqrt(np.mean(arc.turn(a) ** 2)) for a in positions]
    np.testing.assert_allclose(speed, 1.0, atol=1e-6)
    # dphi/da adds up to the angle that the noise turned each dimension by
    a, w = np.polynomial.legendre.leggauss(400)
    a, w = arc.length * (a + 1) / 2, arc.length * w / 2
    turned = sum(wi * arc.turn(ai) for ai, wi in zip(a, w, strict=True))
    expected = schedule.angle(schedule.tmax)[0] - schedule.angle(0.0)[0]
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_zero_rate_dimension_never_turns():
    schedule = Schedule(XI, **VARIANTS["zero_rate"])
    arc = Arc(schedule)
    assert all((arc.turn(a)[2:] == 0).all() for a in np.linspace(0, arc.length, 9))


def test_proportional_is_regular_at_zero_and_preserves_the_ratio():
    schedule = Schedule(XI, **VARIANTS["proportional"])
    arc = Arc(schedule)
    assert np.isfinite(arc.turn(0.0)).all()
    assert arc.time(0.0) == 0.0
    for t in (0.0, 1.0, 7.0):
        gamma = schedule.gamma(t)[0]
        assert participation_ratio(XI + gamma) == pytest.approx(participation_ratio(XI), abs=1e-9)
    torch.testing.assert_close(schedule.latent_variance(), torch.ones(4).double())


def test_default_rho_gives_the_fastest_dimension_a_rate_of_two(schedule):
    assert float(schedule.rates.max()) == pytest.approx(2.0)
    assert default_rho(inflation_exponents(2, 2)) == 2.0
    assert default_rho(inflation_exponents(2, 1)) == 1.0


def test_latent_variance_is_the_papers_eps():
    # Table 6: coverage nets, circles, orig, g_rescaling .15, tmax 15.01, rho 1: eps about 1e-2
    schedule = Schedule(torch.ones(2), 1, g_type="orig", g_rescaling=0.15, rho=1.0, tmax=15.01)
    kept, compressed = schedule.latent_variance().tolist()
    assert kept == pytest.approx(1.0)
    assert compressed == pytest.approx(1e-2, rel=0.2)


def test_reducing_schedule_reduces_the_participation_ratio():
    schedule = Schedule(torch.ones(4), 1, inflation_gap=0.02)
    assert schedule.participation_ratio(0.0) == pytest.approx(4.0)
    assert schedule.participation_ratio(schedule.tmax) == pytest.approx(1.0, abs=0.02)


def test_under_inflation_is_said_and_the_remedy_works():
    weak = Schedule(torch.ones(2), 2, rho=1.0, tmax=7.01)
    assert float(weak.gamma(7.01)[0].max()) == pytest.approx(0.55, abs=0.01)
    (note,) = weak.warnings()
    assert "under-inflated" in note
    tmax = float(note.split("--tmax ")[1].split(" ")[0])
    assert Schedule(torch.ones(2), 2, rho=1.0, tmax=tmax * 1.001).warnings() == []
    assert Schedule(torch.ones(2), 2, tmax=7.01).warnings() == []


def test_compressed_latents_that_are_not_gaussian_are_said():
    (note,) = Schedule(torch.ones(2), 1, g_type="orig").warnings()
    assert "compressed latents keep" in note
    paper = {"g_type": "orig", "g_rescaling": 0.15, "rho": 1.0, "tmax": 15.01}
    assert Schedule(torch.ones(2), 1, **paper).warnings() == []


def test_born_compressed_dimensions_are_said():
    notes = Schedule(torch.tensor([1.0, 1e-4]), 2, tmax=15.01).warnings()
    assert any("1 of 2 dimensions" in note for note in notes)


@pytest.mark.parametrize(
    "bad",
    [{"dims_to_keep": 5}, {"dims_to_keep": 0}, {"dims_to_keep": 2, "g_type": "proportional"},
     {"dims_to_keep": 2, "g_type": "nonsense"}, {"dims_to_keep": 2, "rho": -1.0}],
)  # fmt: skip
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=r"\w+=|\w"):
        Schedule(XI, **bad)


def test_grids_cover_the_arc_and_reverse_exactly(schedule):
    arc = Arc(schedule)
    grid = arc.grid(0.0, schedule.tmax, 16)
    assert grid[0] == pytest.approx(0.0, abs=1e-12)
    assert grid[-1] == pytest.approx(arc.length)
    assert arc.grid(schedule.tmax, 0.0, 16) == grid[::-1]
    steps = np.diff(grid)
    np.testing.assert_allclose(steps[1:] / steps[:-1], steps[1] / steps[0])
    part = arc.grid(1.0, 3.0, 5)
    assert (arc.time(part[0]), arc.time(part[-1])) == pytest.approx((1.0, 3.0))
