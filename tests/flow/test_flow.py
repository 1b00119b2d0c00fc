"""The flow against closed forms, exact mixtures and the published integrations."""

import numpy as np
import pytest
import torch

from flow.flow import Flow, ifs_times
from flow.integration import paper_term
from tests.helpers import gaussian_flow, gaussian_latent, three_blobs
from tests.training.test_precond import TOYS, published
from training.schedule import Schedule

SHAPES = [(2, 2), (2, 1), (3, 3), (3, 2), (10, 10), (10, 3)]


@pytest.mark.parametrize("name", TOYS)
def test_published_euler(name):
    precond, args, a = published(name)
    flow = Flow(precond)
    n, h = args["n_iters"], args["h"]
    saved = (0, *range(1, n, args["save_freq"]), n - 1)

    def run(start, backward):
        states = []
        times = ifs_times(n, h, backward)
        flow.integrate(
            flow.to_whitened(start, times[0], "scaled_es"),
            times[0],
            times[-1],
            solver="euler",
            times=times,
            callback=lambda k, t, u: states.append((t, u)),
        )
        return [states[k] for k in saved]

    def all_in(states, coords):
        return torch.stack([flow.from_whitened(u, t, coords) for t, u in states])

    melt = run(
        flow.from_whitened(flow.to_whitened(a["batch"], 0.0, "unscaled"), 0.0, "scaled_es"), False
    )
    close = {"rtol": 1e-4, "atol": 2e-5}
    np.testing.assert_allclose(all_in(melt, "scaled"), a["melt_xs"], **close)
    np.testing.assert_allclose(all_in(melt, "unscaled"), a["melt_tilde_xs"], **close)
    latent = flow.from_whitened(melt[-1][1], melt[-1][0], "scaled_es")
    np.testing.assert_allclose(latent, a["melt_xs_es"][-1], **close)
    gen = run(a["melt_xs_es"][-1], True)
    np.testing.assert_allclose(all_in(gen, "unscaled"), a["gen_tilde_xs"], **close)
    if args["space"] == "IS":  # in ES files these arrays hold the final state throughout
        np.testing.assert_allclose(all_in(melt, "scaled_es"), a["melt_xs_es"], **close)
        np.testing.assert_allclose(all_in(gen, "scaled_es"), a["gen_xs_es"], **close)
    else:
        final = flow.from_whitened(gen[-1][1], gen[-1][0], "scaled_es")
        np.testing.assert_allclose(final, a["gen_xs_es"][-1], **close)


@pytest.mark.parametrize(("d", "keep"), SHAPES)
def test_gaussian_data_in_closed_form(d, keep):
    rng = np.random.default_rng(d)
    xi = np.sort(rng.uniform(0.1, 2.0, d))[::-1].tolist()
    variances = rng.uniform(0.05, 2.0, d).tolist()
    flow = gaussian_flow(xi, variances, keep, g_type="constant_inflation_gap")
    x = flow.model.decode(torch.from_numpy(rng.standard_normal((50, d))))
    u = flow.to_whitened(x, 0.0, "unscaled")
    T = flow.schedule.tmax
    exact = gaussian_latent(flow, u, variances, T)
    z = flow.inflate(x, coords="whitened", steps=256)
    assert float((z - exact).abs().max()) < 1e-6
    paper = flow.inflate(x, steps=256)
    stretch = flow.schedule.latent_variance().sqrt()
    torch.testing.assert_close(paper, z * stretch)
    back = flow.generate(paper, steps=256)
    assert float((back - x).abs().max()) < 1e-7


@pytest.mark.parametrize(("d", "keep"), SHAPES)
def test_mixture_with_exact_scores(d, keep):
    """Data of a mixture inflates to a standard normal where it is kept, and comes back."""
    flow, x = three_blobs(d, keep, tmax=12.0)
    z = flow.inflate(x, coords="whitened", steps=128)
    back = flow.generate(z, coords="whitened", steps=128)
    assert float((back - x).square().mean().sqrt()) < 1e-6
    kept = z[:, :keep]  # 300 samples: 4 standard errors of mean and variance
    assert float(kept.mean(0).abs().max()) < 4 / np.sqrt(300)
    assert float((kept.var(0) - 1).abs().max()) < 4 * np.sqrt(2 / 300)


def test_proportional_inflates_from_zero_noise():
    flow, x = three_blobs(3, 3, g_type="proportional")
    z = flow.inflate(x, coords="whitened", steps=128)
    assert float((z.var(0) - 1).abs().max()) < 4 * np.sqrt(2 / 300)
    back = flow.generate(z, coords="whitened", steps=128)
    assert float((back - x).square().mean().sqrt()) < 1e-5
    with pytest.raises(ValueError, match="proportional"):
        flow.integrate(z, 0.0, 1.0, "euler", times=[0.0, 1.0])


@pytest.mark.parametrize(("d", "keep"), [(3, 3), (3, 2)])
def test_papers_ode_and_ours_are_one(d, keep):
    """dx~/dt in scaled coordinates is the chain rule of du/da, term by term."""
    flow, x = three_blobs(d, keep)
    s = flow.schedule
    t = 2.0
    u = flow.to_whitened(x, t, "unscaled_es")
    x_es = flow.from_whitened(u, t, "unscaled_es").requires_grad_()
    (score,) = torch.autograd.grad(flow.model.log_density(x_es, t).sum(), x_es)
    scale, dscale = s.scale(t)
    expected = dscale * x_es - scale * 0.5 * s.gamma(t)[1] * score  # eq. 8 of the paper
    ours = paper_term(flow, lambda t, u, _: (flow.field(u, t), ()), [t]).velocity(t, scale * x_es)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("coords", ["whitened", "scaled_es", "scaled", "unscaled_es", "unscaled"])
def test_coordinates_are_inverse_maps(coords):
    flow, x = three_blobs(3, 2)
    u = flow.to_whitened(x, 1.0, "unscaled")
    there = flow.from_whitened(u, 1.0, coords)
    torch.testing.assert_close(flow.to_whitened(there, 1.0, coords), u)


def test_denoiser_of_gaussian_data_in_closed_form():
    variances = [2.0, 0.7, 0.1]
    flow = gaussian_flow([1.5, 1.0, 0.2], variances, keep=2)
    y = torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    c, gamma = torch.tensor(variances).double(), flow.schedule.gamma(2.0)[0]
    expected = flow.model.decode(c / (c + gamma) * y)
    torch.testing.assert_close(
        flow.denoise(flow.model.decode(y), 2.0), expected, rtol=1e-9, atol=1e-9
    )


def test_wrong_shapes_and_names_are_refused():
    flow, x = three_blobs(3, 2)
    with pytest.raises(ValueError, match="3 dimensions"):
        flow.inflate(x[:, :2])
    with pytest.raises(ValueError, match="coords='nonsense'"):
        flow.inflate(x, coords="nonsense")


def test_generation_from_seeds_does_not_depend_on_how_many():
    flow, _ = three_blobs(2, 1)
    many = flow.latents(3000, seed=3)
    torch.testing.assert_close(flow.latents(5, seed=3), many[:5], rtol=0, atol=0)
    torch.testing.assert_close(flow.latents(900, 3, start=1500), many[1500:2400], rtol=0, atol=0)
    assert not torch.equal(flow.latents(5, seed=4), many[:5])
    few = flow.sample(5, seed=3, steps=4)
    torch.testing.assert_close(flow.sample(3000, seed=3, steps=4)[:5], few, rtol=0, atol=1e-12)


def test_where_data_enters_and_latents_leave():
    """The paper's solvers carry data from the first to the last time of their grid, either way."""
    flow, x = three_blobs(2, 1)
    assert flow.ends() == (0.0, 8.0)
    assert flow.ends(solver="rk4", times=[1.0, 2.0]) == (0.0, 8.0)
    times = ifs_times(400, 0.015)  # ends at t = 6
    how = {"solver": "heun", "times": times}
    assert flow.ends(**how) == (0.0, 6.0)
    z = flow.inflate(x, **how)
    truth = flow.integrate(flow.to_whitened(x, 0.0, "unscaled"), 0.0, 6.0, steps=64)
    truth = flow.from_whitened(truth, 6.0, "scaled_es")
    torch.testing.assert_close(z, truth, atol=1e-3, rtol=0)
    torch.testing.assert_close(flow.generate(z, **how), x, atol=1e-3, rtol=0)
    how["times"] = times[::-1]
    torch.testing.assert_close(flow.inflate(x, **how), z, rtol=0, atol=0)


def test_eps_sets_the_variance_of_compressed_latents():
    flow, _ = three_blobs(3, 2)
    z = flow.from_whitened(flow.latents(20000, 0, eps=0.3), flow.schedule.tmax, "scaled_es")
    np.testing.assert_allclose(z.var(0), [1.0, 1.0, 0.3], rtol=0.05)
    z = flow.from_whitened(flow.latents(20000, 0), flow.schedule.tmax, "scaled_es")
    np.testing.assert_allclose(z.var(0), flow.schedule.latent_variance(), rtol=0.05)


def test_steps_for_a_tolerance():
    flow, x = three_blobs(2, 2)
    u = flow.to_whitened(x, 0.0, "unscaled")
    T = flow.schedule.tmax
    steps, error = flow.steps_for(u, T, 1e-5)
    z = flow.integrate(u, 0.0, T, "rk4", steps)
    truth = flow.integrate(u, 0.0, T, "rk4", 512)
    assert error <= 1e-5
    assert float((z - truth).square().mean().sqrt()) < 1.5e-5


def test_float32_state():
    flow, x = three_blobs(2, 2)
    single = Flow(flow.model, dtype=torch.float32)
    z = single.inflate(x, steps=32)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.double(), flow.inflate(x, steps=32), rtol=1e-3, atol=1e-4)


def test_schedule_moves_with_the_model():
    flow, _ = three_blobs(2, 2)
    names = set(flow.model.state_dict())
    assert {"W", "mean", "scale", "schedule.xi", "schedule.g", "schedule.gamma0"} <= names
    assert isinstance(flow.schedule, Schedule)


def test_rows_of_another_shape_are_refused():
    flow, x = three_blobs(2, 2)
    u = flow.to_whitened(x, 0.0, "unscaled")
    for wrong in (torch.stack([u, u]), u[0]):
        with pytest.raises(ValueError, match=r"u has the shape .*: give \[n, d\], or the rows"):
            flow.integrate(wrong, 0.0, 1.0, "reversible", 4)


@pytest.mark.parametrize("solver", ["rk4", "ab2", "reversible"])
def test_gradients_do_not_depend_on_what_autograd_keeps(solver, monkeypatch):
    """Beyond a size steps are made again on the way back: the same numbers, in little memory."""
    flow, x = three_blobs(2, 1)
    found, kept = [], []

    def keep(saved):
        kept[-1] += saved.nbytes
        return saved

    for most in (2**40, 0):
        monkeypatch.setattr("flow.integration.LARGEST_GRAPH", most)
        u = flow.to_whitened(x, 0.0, "unscaled").requires_grad_()
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            z = flow.integrate(u, 0.0, 5.0, solver, 8, differentiable=True)
        found.append((z.detach(), *torch.autograd.grad(z.sin().sum(), u)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert kept[1] < 0.5 * kept[0]
