"""Dequantization: closed forms, bounds on true probabilities, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from flow.dequantization import (
    IMAGE_HALF_WIDTH,
    LEVELS,
    check_levels,
    dequantization,
    log_prob_of_levels,
)
from flow.exact import MixtureField
from flow.flow import Flow
from flow.likelihood import log_prob
from tests.helpers import gaussian_flow, random_basis
from training.schedule import Schedule

H = IMAGE_HALF_WIDTH
GAMMA0 = (H / 3.019) ** 2  # that of the published networks: 3.019 sds to a half-width


def level_flow(levels, gamma0=GAMMA0, tmax=18.0):
    """The exact flow of images of two pixels that take a few pairs of levels equally often."""
    x = torch.tensor(levels, dtype=torch.float64) * 2 * H - 1
    basis = random_basis([0.5, 0.2])
    basis.mean = x.mean(0)
    schedule = Schedule(basis.xi, 2, gamma0=gamma0, tmax=tmax)
    return Flow(MixtureField(schedule, basis, x)), x


def bits(flow, x, q, draws=1, n=4000, seed=0):
    """Bits a dimension of levels x [d], exact density, n estimates of `draws` draws each."""
    values = []
    for k in range(draws):
        e = q.draw(seed, 0, n, k)
        log_p = flow.model.log_density(flow.model.encode(x + e), 0.0)
        values.append(log_p - q.log_prob(e))
    log_p = torch.logsumexp(torch.stack(values), 0) - math.log(draws)
    return -log_p / (len(x) * math.log(2))


@pytest.mark.parametrize("kind", ["uniform", "tn"])
def test_draws_have_the_density_entropy_and_variance_they_claim(kind):
    flow = gaussian_flow([1.0, 0.5], [0.8, 0.6], 2, gamma0=(H / 3) ** 2)
    q = dequantization(flow, kind)
    n = 200_000
    e = q.draw(1, 0, n)
    assert float((e.abs() / H).max()) <= 1
    assert abs(e.mean()) < 5 * H / math.sqrt(2 * n)
    torch.testing.assert_close(e.var(0), q.variance(), rtol=0.02, atol=0)
    log_q = q.log_prob(e)
    assert float(-log_q.mean()) == pytest.approx(
        q.entropy(), abs=5 * float(log_q.std()) / n**0.5 + 1e-9
    )
    grid = torch.linspace(-H, H, 20001).double()
    density = q.log_prob(torch.stack([grid, 0 * grid], 1)) - q.log_prob(torch.zeros(1, 2).double())
    peak = q.log_prob(torch.zeros(1, 2).double()) / 2  # of one dimension
    assert float(torch.trapezoid((density + peak).exp(), grid)) == pytest.approx(1.0, abs=1e-6)


def test_draws_do_not_depend_on_the_partition():
    flow = gaussian_flow([1.0, 0.5], [0.8, 0.6], 2)
    q = dequantization(flow, "uniform")
    whole = q.draw(3, 0, 50, 2)
    torch.testing.assert_close(q.draw(3, 20, 33, 2), whole[20:33], rtol=0, atol=0)
    assert not torch.equal(q.draw(3, 0, 50, 1), whole)


@pytest.mark.parametrize("kind", ["uniform", "tn"])
def test_bits_of_gaussian_data_in_closed_form(kind):
    """E over q of a Gaussian log density is one of its variance: exact to 1e-4 bits/dim.

    The estimate's own noise, that of finitely many draws, is known from the same closed form and
    taken off: what is left is the flow's error.
    """
    variances = [0.4, 0.1, 0.02]
    flow = gaussian_flow([0.5, 0.1, 0.02], variances, 3, gamma0=GAMMA0, tmax=18.0)
    q = dequantization(flow, kind)
    basis, d = flow.model.basis, 3
    C = torch.tensor(variances).double() + GAMMA0
    levels = torch.tensor([[100, 150, 90], [30, 128, 200]]).double() * 2 * H - 1 + basis.mean
    for x in levels:
        e = q.draw(0, 0, 64)
        estimate = log_prob(flow, x + e, steps=64).value - q.log_prob(e)
        y = (x + e - basis.mean) @ basis.W
        normal = -0.5 * (y.square() / C).sum(1) - 0.5 * (2 * math.pi * C).log().sum()
        torch.testing.assert_close(estimate, normal - q.log_prob(e), atol=1e-4 * d, rtol=0)
        # and the closed form of the mean, which the draws approach
        centre = (x - basis.mean) @ basis.W
        spread = (basis.W.T @ torch.diag(q.variance()) @ basis.W).diagonal()
        mean = -0.5 * ((centre.square() + spread) / C).sum() - 0.5 * (2 * math.pi * C).log().sum()
        exact = float(mean + q.entropy()) / (-d * math.log(2))
        many = q.draw(1, 0, 100_000)
        y = (x + many - basis.mean) @ basis.W
        log_p = -0.5 * (y.square() / C).sum(1) - 0.5 * (2 * math.pi * C).log().sum()
        drawn = -(log_p - q.log_prob(many)) / (d * math.log(2))
        error = float(drawn.std()) / len(drawn) ** 0.5
        assert float(drawn.mean()) == pytest.approx(exact, abs=4 * error)
        assert error < 2e-3


def test_bounds_of_levels_are_ordered_and_tighten():
    """Levels with the noise of t = 0: tn meets the entropy, uniform lies above, K draws between."""
    flow, x = level_flow([[10, 20], [40, 230], [200, 60], [128, 127]])
    truth = math.log2(len(x)) / 2  # bits a dimension of four equally frequent images
    uniform, tn = (dequantization(flow, kind) for kind in ("uniform", "tn"))
    tight = torch.stack([bits(flow, v, tn) for v in x]).mean()
    loose = torch.stack([bits(flow, v, uniform) for v in x]).mean()
    several = torch.stack([bits(flow, v, uniform, draws=8) for v in x]).mean()
    # The truncation keeps 99.75 % of the noise in each dimension: log2 of it is all that is lost.
    assert float(tight) == pytest.approx(truth - math.log2(float(tn.mass[0])), abs=2e-3)
    assert truth < float(several) < float(loose) - 0.1
    assert float(several) > float(tight)


def test_uniform_is_the_tighter_one_for_smooth_data():
    """Where the density is flat within a level, uniform noise is exact and tn loses KL(tn || u)."""
    flow = gaussian_flow([0.5, 0.1], [0.4, 0.1], 2, gamma0=GAMMA0, tmax=18.0)
    uniform, tn = (dequantization(flow, kind) for kind in ("uniform", "tn"))
    x = flow.model.basis.mean + 0.1
    gap = float((bits(flow, x, tn) - bits(flow, x, uniform)).mean())
    loss = (uniform.entropy() - tn.entropy()) / (2 * math.log(2))
    assert gap == pytest.approx(loss, abs=0.06)
    assert loss > 0.05


def test_importance_draws_subtract_log_k():
    """For a density that is flat in the cell every draw is the same, and so is their mean."""
    flow = gaussian_flow([0.5, 0.5], [0.5, 0.5], 2, tmax=12.0)
    q = dequantization(flow, "uniform")
    x = flow.model.basis.mean
    one, ten = (bits(flow, x, q, draws=k) for k in (1, 10))
    torch.testing.assert_close(one, ten, atol=2e-3, rtol=0)


def test_reconstruction_is_the_posterior_of_a_level():
    sd = torch.tensor([0.8 * H, 12 * H]).double()
    x = -1 + 2 * H * torch.tensor([[0, 255], [7, 250]]).double()
    noisy = x + torch.tensor([[0.3 * H, 20 * H], [-3 * H, -25 * H]]).double()
    levels = -1 + 2 * H * torch.arange(LEVELS).double()
    square = (noisy[:, :, None] - levels).square() / (2 * sd[:, None] ** 2)
    log_p = torch.log_softmax(-square, 2)
    number = ((x + 1) / (2 * H)).round().long()
    exact = log_p.gather(2, number[:, :, None])[:, :, 0].sum(1)
    torch.testing.assert_close(log_prob_of_levels(x, noisy, sd, H), exact)


def test_noise_too_large_for_the_levels():
    flow = gaussian_flow([1.0, 0.5], [0.8, 0.6], 2)
    with pytest.raises(ValueError, match=r"gamma0 at most 1\.7e-06.*gamma0=0\.0005.*=1\.7e-06"):
        dequantization(flow, "tn")
    fits = gaussian_flow([1.0, 0.5], [0.8, 0.6], 2, gamma0=1.7e-6)
    assert float(dequantization(fits, "tn").tau.min()) >= 3
    none = Flow(MixtureField(Schedule(random_basis([1.0]).xi, 1, g_type="proportional"),
                             random_basis([1.0]), torch.zeros(1, 1).double()))  # fmt: skip
    with pytest.raises(ValueError, match="proportional has none: use uniform"):
        dequantization(none, "tn")
    with pytest.raises(ValueError, match="neither uniform nor tn"):
        dequantization(flow, "variational")


@pytest.mark.parametrize("bad", [1.02, -1.5, 0.0, math.nan])
def test_data_that_is_no_level(bad):
    x = torch.tensor([[-1.0, 1.0], [-1 + 2 * H * 3, bad]]).double()
    with pytest.raises(ValueError, match=r"sample 12 holds .* in dimension 1, which is none"):
        check_levels(x, first=11)
    check_levels(x[:1])
    pixels = torch.from_numpy(np.arange(256, dtype=np.uint8)[None]).float().div_(127.5).sub_(1)
    check_levels(pixels)
