"""Training as EDM, VP and VE do, on the one loop: the same denoiser, levels, labels and loss."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import paper_denoiser, random_basis, sigma_denoiser
from training.edm_precond import (
    DENOISERS,
    LEVELS,
    NOISE_LABELS,
    RECIPES,
    edm_scalings,
    vp_sigma,
)
from training.loss import flow_loss
from training.precond import InflationPrecond
from training.schedule import Schedule
from training.times import Times, sigma_times

D, N = 6, 4000
Q = (torch.arange(N).double() + 0.5) / N


class Field(nn.Module):
    """A stand-in for a trained network: a smooth function of its input and noise label."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.weight = nn.Parameter(torch.from_numpy(rng.standard_normal((D, D))) / 3)

    def forward(self, u, noise_labels, class_labels=None, augment_labels=None):
        return torch.tanh(u @ self.weight) + 0.1 * torch.cos(noise_labels)[:, None]


class AsPublished(nn.Module):
    """The network that the published preconditioner would need to be the same denoiser.

    VP's predicts the noise n and VE's -n, here as the field F(u) implies them for data of unit
    variance: n = sin(phi) u - cos(phi) F.
    """

    def __init__(self, name):
        super().__init__()
        self.name, self.field = name, Field()

    def forward(self, x, noise_labels, class_labels=None, augment_labels=None):
        sigma = vp_sigma(noise_labels / 999) if self.name == "vp" else 2 * noise_labels.exp()
        cos = (1 + sigma.square()).rsqrt()[:, None]
        sin = sigma[:, None] * cos
        u = x if self.name == "vp" else cos * x
        n = sin * u - cos * self.field(u, noise_labels)
        return n if self.name == "vp" else -n


def models(name):
    """Our preconditioner; the published one and its network, the same denoiser; variance one."""
    basis = random_basis([1.0] * D).isotropic()
    basis.mean.zero_()
    levels = RECIPES[name].levels
    schedule = Schedule(
        basis.xi, D, gamma0=levels[0] ** 2, tmax=np.log(levels[1] / levels[0]), rho=2.0
    )
    ours = InflationPrecond(Field(), schedule, basis, time_input=name)
    if name == "edm":
        return ours, partial(edm_scalings, sigma_data=1.0), Field()
    return ours, DENOISERS[f"{name.upper()}Precond"], AsPublished(name)


@pytest.mark.parametrize("name", ["edm", "vp", "ve"])
@torch.no_grad()
def test_denoiser_levels_and_loss_are_the_published_ones(name):
    ours, theirs, net = models(name)
    recipe = RECIPES[name]
    sigma, weight = LEVELS[recipe.t_sampling](Q)
    t = sigma_times(ours.schedule, sigma)
    inside = (sigma > recipe.levels[0]) & (sigma < recipe.levels[1])
    assert float(inside.double().mean()) > 0.999
    sigma, weight, t = sigma[inside], weight[inside], t[inside]
    torch.testing.assert_close(ours.schedule.gamma(t)[0][:, 0].sqrt(), sigma)
    rng = np.random.default_rng(1)
    y, noise = torch.from_numpy(rng.standard_normal((2, len(t), D)))
    x = y + sigma[:, None] * noise
    found = sigma_denoiser(theirs, net, x, sigma)
    torch.testing.assert_close(paper_denoiser(ours, x, t), found, rtol=1e-8, atol=1e-8)
    # EDM's weight 1/c_out^2 depends on the variance that it takes data to have: here 1, not 0.25.
    weight = 1 + sigma.pow(-2) if name == "edm" else weight
    published = weight[:, None] * (found - y).square()
    weights = Times(ours.schedule, weighting=recipe.weighting).weights
    # The published weight amplifies rounding, where sigma is small.
    torch.testing.assert_close(
        flow_loss(ours, y, t, noise, weights(t)), published, rtol=1e-5, atol=1e-4
    )


def test_loss_of_the_noise_is_that_of_the_implied_noise():
    """Also where noise differs from dimension to dimension."""
    basis = random_basis([3.0, 1.0, 0.5, 0.1, 0.01, 0.001])
    precond = InflationPrecond(Field(), Schedule(basis.xi, 2, tmax=5.0), basis)
    rng = np.random.default_rng(0)
    x, noise = torch.from_numpy(rng.standard_normal((2, 50, D)))
    t = torch.linspace(0.1, 5, 50).double()
    cos, sin = precond.schedule.cos_sin(t)
    u = cos * precond.encode(x) / precond.schedule.xi.sqrt() + sin * noise
    implied = sin * u - cos * precond(u, t)
    expected = (implied - noise).square()
    weights = Times(precond.schedule, weighting="noise").weights(t)
    loss = flow_loss(precond, x, t, noise, weights)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)  # the loss's u is float32
    assert not torch.allclose(flow_loss(precond, x, t, noise), expected, rtol=0.1)


@pytest.mark.parametrize("name", ["lognormal", "vp_time", "log_uniform"])
def test_batches_draw_the_levels(name):
    (recipe,) = (r for r in RECIPES.values() if r.t_sampling == name)
    xi = torch.full((D,), 0.25)
    low, high = recipe.levels
    schedule = Schedule(xi, D, rho=2.0, gamma0=low**2, tmax=np.log(high / low))
    drawn = Times(schedule, name).batch(0, 0, N)
    sigma = schedule.gamma(drawn)[0][:, 0].sqrt()
    expected = LEVELS[name](Q)[0].clamp(low, high)
    # Stratified: each sorted draw is within one stratum of the quantile that it stands for.
    error = (sigma.sort().values - expected)[1:-1].abs()
    assert bool((error <= (expected[2:] - expected[:-2]) + 1e-9).all())
    if name == "log_uniform":  # over its whole range, this is a uniform time
        uniform = Times(schedule, tmin=0.0).batch(0, 0, N)
        torch.testing.assert_close(uniform, drawn, rtol=1e-6, atol=1e-6)


def test_vp_labels_cover_the_published_thousand_steps():
    low, high = RECIPES["vp"].levels
    ends = NOISE_LABELS["vp"](torch.tensor([low, high]).double())
    assert ends.tolist() == pytest.approx([999e-5, 999.0], rel=1e-6)
