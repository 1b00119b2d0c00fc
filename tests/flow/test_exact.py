"""Exact fields against automatic differentiation and the published kernel scores."""

import numpy as np
import pytest
import torch

from flow.exact import MixtureField
from flow.flow import Flow, ifs_times
from flow.simulation import state_record
from tests.helpers import conformance, random_basis, three_blobs
from training.basis import Basis
from training.schedule import Schedule


@pytest.mark.parametrize("t", [0.0, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("shared", [True, False])
def test_field_is_that_of_the_density(t, shared):
    flow, x = three_blobs(3, 2)
    model = flow.model
    if shared:
        model = MixtureField(flow.schedule, model.basis, x[:7], 0.01 * torch.eye(3).double())
    S = flow.schedule.total(t)
    u = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    y = (u * S.sqrt()).requires_grad_()
    (score,) = torch.autograd.grad(model.log_density(y, t).sum(), y)
    cos, sin = flow.schedule.cos_sin(t)
    expected = sin / cos * (S.sqrt() * score + u)
    ours = model(u, torch.full((20,), t).double())
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


def test_density_integrates_to_one():
    basis = random_basis([1.0])
    schedule = Schedule(basis.xi, 1)
    means = torch.tensor([[-1.0], [2.0]]).double()
    model = MixtureField(schedule, basis, means, torch.tensor([[[0.1]], [[0.5]]]).double())
    grid = torch.linspace(-12, 12, 4001).double()[:, None]
    density = model.log_density(grid, 1.0).exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1.0, abs=1e-9)


def test_chunks_do_not_change_the_field():
    flow, x = three_blobs(3, 2)
    u = flow.to_whitened(x, 0.0, "unscaled")
    t = torch.full((len(u),), 2.0).double()
    whole = MixtureField(flow.schedule, flow.model.basis, x)
    pieces = MixtureField(flow.schedule, flow.model.basis, x, memory_bound=8 * 3 * len(x) * 7)
    assert (whole.chunk, pieces.chunk) == (whole.chunk, 7)
    torch.testing.assert_close(whole(u, t), pieces(u, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["discrete_keep1", "discrete_keep2"])
def test_published_discrete_flow(name):
    _, a = conformance(name)
    keep = int(name[-1])
    basis = Basis(torch.zeros(2), torch.ones(2), a["eigs"].double(), a["W"].double())
    n, h = int(a["n_iters"]), float(a["h"])
    schedule = Schedule(basis.xi, keep, g_type="orig", rho=float(a["rho"]), tmax=n * h)
    flow = Flow(MixtureField(schedule, basis, a["pts"]))
    states = []
    flow.inflate(
        a["pts"],
        solver="euler",
        times=ifs_times(n, h),
        callback=lambda k, t, u: states.append((t, u)),
    )
    # Published: the start, the state after each 10th step (0, 10, ...), and the last state.
    saved = [states[k] for k in (0, *range(1, n, int(a["save_freq"])), n - 1)]
    xs = torch.stack([flow.from_whitened(u, t, "scaled") for t, u in saved])
    np.testing.assert_allclose(xs, a["xs"], rtol=1e-4, atol=1e-5)
    # xs_es of the published file holds the final state throughout.
    final = flow.from_whitened(states[-1][1], states[-1][0], "scaled_es")
    np.testing.assert_allclose(final, a["xs_es"][-1], rtol=1e-4, atol=2e-5)
    starts = [states[k] for k in (*range(0, n - 1, int(a["save_freq"])), n - 2)]
    scores = torch.stack([state_record(flow, t, u)[:, 7] for t, u in starts])
    # The file's float32 scores divide by gamma = 5e-4 and carry its rounding: 1e-4 of their size.
    size = float(a["scores"].abs().max())
    np.testing.assert_allclose(scores @ basis.W, a["scores"], atol=1e-4 * size)
