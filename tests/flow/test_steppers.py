"""Solvers against closed forms: their order is measured, not believed."""

import numpy as np
import pytest
import torch

from flow.steppers import ANGLE_SOLVERS, SOLVERS, adaptive, solve
from tests.helpers import gaussian_flow, gaussian_latent, three_blobs

VARIANCES = [0.8, 1.1, 0.05]
XI = [1.5, 0.7, 0.2]


def _error(flow, solver, steps):
    u = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double()
    T = flow.schedule.tmax
    exact = gaussian_latent(flow, u, VARIANCES, T)
    return float((flow.integrate(u, 0.0, T, solver, steps) - exact).abs().max())


@pytest.mark.parametrize("keep", [3, 2])
@pytest.mark.parametrize("solver", ["angle_euler", "angle_heun", "ab2", "ab3", "rk4"])
def test_order_on_gaussian_data(solver, keep):
    flow = gaussian_flow(XI, VARIANCES, keep)
    errors = [_error(flow, solver, n) for n in (128, 256, 512)]
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert slopes[-1] == pytest.approx(SOLVERS[solver]().order, abs=0.25), (errors, slopes)


@pytest.mark.parametrize("solver", ["angle_euler", "angle_heun", "ab2", "ab3", "rk4", "reversible"])
def test_order_on_a_plain_problem(solver):
    """dy/da = cos(a) y forwards and backwards, also on a grid of uneven steps (ab2)."""
    y0 = torch.ones(1, 1).double()
    errors = []
    for n in (64, 128):
        grid = (np.linspace(0, 1, n + 1) ** 1.5 * 2).tolist()
        for g in (grid, grid[::-1]):
            start = float(np.exp(np.sin(g[0]))) * y0
            y, _ = solve(SOLVERS[solver](), lambda a, y: np.cos(a) * y, start, g)
            errors.append(abs(float(y) - float(np.exp(np.sin(g[-1])))))
    for forward, backward in (errors[::2], errors[1::2]):
        assert np.log2(forward / backward) == pytest.approx(SOLVERS[solver]().order, abs=0.35)


@pytest.mark.parametrize("steps", [4, 16])
@pytest.mark.parametrize(("d", "keep"), [(2, 2), (2, 1), (3, 2), (10, 3)])
def test_reversible_round_trip_is_exact(d, keep, steps):
    flow, x = three_blobs(d, keep)
    back = flow.round_trip(x, solver="reversible", steps=steps)
    assert float((back - x).abs().max()) < 1e-12


def test_ab2_keeps_a_dimension_that_does_not_turn():
    flow = gaussian_flow([1.0, 1.0], [0.5, 2.0], keep=1)
    u = torch.randn(5, 2).double()
    z = flow.integrate(u, 0.0, flow.schedule.tmax, "ab2", 16)
    torch.testing.assert_close(z[:, 1], u[:, 1], rtol=0, atol=0)


def test_adaptive_agrees_and_counts():
    flow, x = three_blobs(3, 2)
    u = flow.to_whitened(x, 0.0, "unscaled")
    T = flow.schedule.tmax
    fine = flow.integrate(u, 0.0, T, "rk4", 256)
    flow.evaluations = 0
    ours = flow.integrate(u, 0.0, T, "adaptive", 1, rtol=1e-8, atol=1e-8)
    assert float((ours - fine).abs().max()) < 1e-5
    assert 10 < flow.evaluations < 4000


def test_adaptive_says_where_it_gives_up():
    def wild(a, y):
        return y**2 * 1e6

    with pytest.raises(RuntimeError, match=r"gave up at arc length .* rms is"):
        solve(adaptive(), wild, torch.ones(1, 1).double(), [0.0, 1.0])


@pytest.mark.parametrize("solver", ANGLE_SOLVERS)
def test_callback_sees_every_state(solver):
    flow, x = three_blobs(2, 1)
    u = flow.to_whitened(x[:5], 0.0, "unscaled")
    seen = []
    end = flow.integrate(u, 0.0, 3.0, solver, 8, callback=lambda k, t, u: seen.append((k, t, u)))
    assert [k for k, _, _ in seen] == list(range(9))
    assert seen[0][1] == pytest.approx(0.0, abs=1e-9)
    assert seen[-1][1] == pytest.approx(3.0)
    torch.testing.assert_close(seen[0][2], u)
    torch.testing.assert_close(seen[-1][2], end)
