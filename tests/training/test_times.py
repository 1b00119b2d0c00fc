"""Maximum likelihood training: weights, importance sampling, straight path, second order."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import random_basis
from torch_utils.seeding import BLOCKS, PHILOX
from training.arc import Arc
from training.edm_precond import RECIPES
from training.loss import flow_loss
from training.precond import InflationPrecond
from training.schedule import Schedule
from training.times import LikelihoodWeighting, Times

G0, G1 = -13.3, 5.0
Q = (torch.arange(2001).double() + 0.5) / 2001


def isotropic(d=3):
    """The schedule of --precond=vp_velocity: G = log(gamma/xi) runs from G0 to G1."""
    return Schedule(torch.ones(d), d, gamma0=math.exp(G0), rho=2.0, tmax=(G1 - G0) / 2)


def log_noise_to_signal(schedule, t):
    return 2 * schedule.gamma(t)[0][..., 0].sqrt().log()


def test_recipes_have_the_levels_of_the_method():
    low, high = RECIPES["vp_velocity"].levels
    assert 2 * math.log(low) == pytest.approx(G0)
    assert 2 * math.log(high) == pytest.approx(G1)
    assert RECIPES["sp_velocity"].output == "straight"


def test_times_of_the_variance_preserving_path():
    """Against i-DODE's closed inverse of the cumulative weight."""
    schedule = isotropic()
    t = LikelihoodWeighting(schedule, 0.0).times(Q)
    Z = math.log((1 + math.exp(-G0)) / (1 + math.exp(-G1)))
    exact = -torch.log(torch.exp(-Z * Q) * (1 + math.exp(-G0)) - 1)
    torch.testing.assert_close(log_noise_to_signal(schedule, t), exact, atol=1e-6, rtol=1e-6)


def test_times_of_the_straight_path():
    """Against i-DODE's cumulative weight of that path."""
    schedule = isotropic()
    t = LikelihoodWeighting(schedule, 0.0, straight=True).times(Q)

    def c(G):
        G = torch.as_tensor(G, dtype=torch.float64)
        return torch.log1p(torch.exp(-G / 2)) + 1 / (1 + torch.exp(-G / 2))

    total = -2 * (c(G1) - c(G0))
    share = -2 * (c(log_noise_to_signal(schedule, t)) - c(G0)) / total
    torch.testing.assert_close(share, Q, atol=1e-6, rtol=0)


@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize(
    "schedule",
    [
        isotropic(),
        Schedule(torch.tensor([2.0, 0.5, 0.1]), 3, tmax=7.01),
        Schedule(torch.tensor([2.0, 0.5, 0.1]), 1, tmax=15.01, inflation_gap=0.02),
        Schedule(torch.tensor([2.0, 0.5, 0.1]), 2, tmax=15.01, g_type="orig", g_rescaling=0.15),
    ],
)
def test_both_samplings_weight_alike(schedule, straight):
    """Times drawn by importance, and uniform ones, estimate the same integral, with mean 1."""
    weighting = LikelihoodWeighting(schedule, 1e-7, straight)
    q = (torch.arange(20_000).double() + 0.5) / 20_000
    uniform = 1e-7 + (schedule.tmax - 1e-7) * q
    drawn = weighting.times(q)
    assert float(weighting.weights(uniform, False).mean()) == pytest.approx(1, abs=2e-3)
    assert float(weighting.weights(drawn, True).mean()) == pytest.approx(1, abs=2e-3)

    def errors(t):  # something that depends on time and dimension
        return torch.stack([torch.sin(t), t * t, torch.ones_like(t)], 1)

    a = (weighting.weights(uniform, False) * errors(uniform)).mean(0)
    b = (weighting.weights(drawn, True) * errors(drawn)).mean(0)
    torch.testing.assert_close(a, b, rtol=5e-3, atol=1e-4)


def test_importance_makes_the_weight_constant():
    weighting = LikelihoodWeighting(isotropic(), 0.0)
    w = weighting.weights(weighting.times(Q), True)
    torch.testing.assert_close(w, torch.ones_like(w), atol=1e-9, rtol=0)


def test_the_weight_is_the_likelihoods():
    """1/2 r cos^2 dt is -d/dt of half the log of the signal's share: i-DODE's G' alpha^2 / 2."""
    schedule = Schedule(torch.tensor([2.0, 0.5]), 2, tmax=7.01)
    weighting = LikelihoodWeighting(schedule, 0.0)
    t = torch.linspace(0.1, 7, 50, dtype=torch.float64)
    w = weighting.weights(t, False)
    h = 1e-5
    G = [torch.log(schedule.gamma(s)[0] / schedule.xi) for s in (t + h, t - h)]
    slope = (G[0] - G[1]) / (2 * h)
    expected = slope * schedule.cos_sin(t)[0].square()
    ratio = w / expected
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-6, atol=0)


def test_proportional_schedules_are_refused():
    with pytest.raises(ValueError, match="proportional"):
        LikelihoodWeighting(Schedule(torch.ones(2), 2, g_type="proportional"), 0.0)


class Linear(nn.Module):
    """F = -k(t) u in each dimension, exact for Gaussian data if `slopes` are theirs."""

    def __init__(self, schedule, variances, factor=1.0):
        super().__init__()
        self.schedule, self.variances = schedule, variances
        self.factor = nn.Parameter(torch.full((len(variances),), factor).double())

    def forward(self, u, labels, class_labels=None, augment_labels=None):
        cos, sin = self.schedule.cos_sin(labels / 999)
        v = self.variances
        return -self.factor * sin * cos * (1 - v) / (cos**2 * v + sin**2) * u


class StraightLinear(Linear):
    """The same flow as a network of the straight path would predict it: (n - y)/sqrt 2."""

    def forward(self, x, labels, class_labels=None, augment_labels=None):
        cos, sin = self.schedule.cos_sin(labels / 999)
        u = x * (cos + sin)
        v = self.variances
        pull = u / (cos**2 * v + sin**2)  # of u on y (times cos v) and on n (times sin)
        return (sin * pull - cos * v * pull) / math.sqrt(2)


def linear(network=Linear, keep=2, **more):
    basis = random_basis([2.0, 0.5])
    schedule = Schedule(basis.xi, keep, tmax=7.01, g_type="orig")
    variances = torch.tensor([0.3, 0.5]).double()
    output = "straight" if network is StraightLinear else "velocity"
    return InflationPrecond(
        network(schedule, variances, **more), schedule, basis, output=output
    ), variances


def test_straight_output_is_the_same_flow():
    a, _ = linear()
    b, _ = linear(StraightLinear)
    u = torch.randn(40, 2).double()
    t = torch.linspace(0.01, 7, 40).double()
    torch.testing.assert_close(b(u, t), a(u, t), atol=1e-9, rtol=1e-9)


def test_straight_error_is_that_of_the_straight_target():
    """|F - F*|^2 = 2 |net - (n - y)/sqrt 2|^2 / (cos + sin)^2."""
    precond, _ = linear(StraightLinear)
    x, noise = torch.randn(30, 2).double(), torch.randn(30, 2).double()
    t = torch.linspace(0.1, 7, 30).double()
    cos, sin = precond.schedule.cos_sin(t)
    y = precond.encode(x) / precond.schedule.xi.sqrt()
    state = (cos * y + sin * noise) / (cos + sin)
    miss = precond.model(state, 999 * t) - (noise - y) / math.sqrt(2)
    expected = 2 * miss.square() / (cos + sin).square()
    torch.testing.assert_close(flow_loss(precond, x, t, noise), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("keep", [2, 1])
@pytest.mark.parametrize(("factor", "exact"), [(1.0, True), (0.5, False), (1.6, False)])
def test_second_order_penalty_is_stationary_at_the_exact_field(keep, factor, exact):
    """Its gradient is 2 E[r] dq/dk: zero if and only if the divergence is right on average."""
    precond, variances = linear(keep=keep, factor=factor)
    n = 20_000
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.standard_normal((n, 2))) * variances.sqrt()
    x = precond.decode(y * precond.schedule.xi.sqrt())
    noise = torch.from_numpy(rng.standard_normal((n, 2)))
    probe = torch.from_numpy(rng.choice([-1.0, 1.0], (n, 2)))
    t = torch.full((n,), 3.5).double()
    slopes = []
    for part in range(20):  # batches, for a standard error
        rows = slice(part * n // 20, (part + 1) * n // 20)
        precond.zero_grad()
        first = flow_loss(precond, x[rows], t[rows], noise[rows])
        both = flow_loss(precond, x[rows], t[rows], noise[rows], probe=probe[rows])
        (both - first.detach()).mean().backward()
        plain = precond.model.factor.grad.clone()
        precond.zero_grad()
        flow_loss(precond, x[rows], t[rows], noise[rows]).mean().backward()
        slopes.append(plain - precond.model.factor.grad)
    slopes = torch.stack(slopes)
    z = slopes.mean(0) / (slopes.std(0) / math.sqrt(len(slopes)))
    assert (float(z.abs().max()) < 3.5) == exact, z


def test_arc_weighting_is_the_error_of_the_velocity():
    """Turning alike is weighted alike; the mean weight over dimensions is one."""
    precond, _ = linear(keep=1, factor=0.5)
    x, noise = torch.randn(30, 2).double(), torch.randn(30, 2).double()
    arc = Arc(precond.schedule)
    t = arc.times(torch.linspace(0.01, 0.99, 30))
    plain, weighted = (
        flow_loss(precond, x, t, noise, Times(precond.schedule, weighting=w).weights(t))
        for w in ("edm", "arc")
    )
    turn = torch.from_numpy(np.array([arc.turn(arc.position(float(s))) for s in t]))
    torch.testing.assert_close(weighted, turn.square() * plain, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(turn.square().mean(1), torch.ones(30).double())


def test_times_uniform_in_arc_length():
    schedule = Schedule(torch.tensor([2.0, 0.5, 0.1]), 1, tmax=15.01)
    arc = Arc(schedule)
    t = arc.times(Q)
    share = torch.tensor([arc.position(float(s)) / arc.length for s in t]).double()
    torch.testing.assert_close(share, Q, atol=1e-6, rtol=0)


@pytest.mark.parametrize("keep", [1, 3])
def test_times_of_a_batch_are_those_of_each(keep):
    g_type = "proportional" if keep == 3 else "constant_inflation_gap"
    arc = Arc(Schedule(torch.tensor([2.0, 0.5, 0.1]), keep, tmax=7.01, g_type=g_type))
    each = [arc.time(a) for a in (Q * arc.length).tolist()]
    torch.testing.assert_close(
        arc.times(Q), torch.tensor(each, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("straight", [False, True])
def test_times_of_the_likelihood_are_its_quantiles(straight):
    """To rounding, at the ends as well, where the density is as good as zero."""
    schedule = Schedule(
        torch.tensor([2.0, 0.5, 0.1]), 2, tmax=15.01, g_type="orig", g_rescaling=0.15
    )
    weighting = LikelihoodWeighting(schedule, 1e-7, straight)
    q = torch.cat([torch.tensor([0.0, 1e-9]), Q, torch.tensor([1 - 1e-9, 1.0])]).double()
    t = weighting.times(q)
    share = weighting._cumulative(t.numpy()) - weighting._cumulative(1e-7)
    np.testing.assert_allclose(share / weighting.total, q, rtol=0, atol=1e-12)
    assert bool((t.diff() >= 0).all())


@pytest.mark.parametrize("generator", [PHILOX, BLOCKS])
def test_times_of_a_batch_are_stratified(generator):
    times = Times(isotropic(), tmin=0.0)
    drawn = times.batch(0, 5000, 64, generator)
    strata = (drawn / times.schedule.tmax * 64).floor()
    assert sorted(strata.tolist()) == list(range(64))
    assert strata.tolist() != list(range(64))
    assert not torch.equal(times.batch(0, 5064, 64, generator), drawn)
    assert torch.equal(times.batch(0, 5000, 64, generator), drawn)
