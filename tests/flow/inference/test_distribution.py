"""A flow as a torch distribution: densities, shapes, gradients, and as a prior of pyro's NUTS."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from flow.exact import MixtureField
from flow.flow import Flow
from flow.inference.distribution import FlowDistribution
from tests.helpers import gaussian_flow, three_blobs

HOW = {"solver": "rk4", "steps": 8}
XI, VARIANCES = [1.5, 0.4], [1.0, 0.3]


def gaussian():
    """A linear flow, and the normal distribution that it is: of the push-forward of N(0, I)."""
    flow = gaussian_flow(XI, VARIANCES, 2)
    unit = torch.cat([torch.zeros(1, 2).double(), torch.eye(2).double()])
    points = flow.generate(unit, coords="whitened", **HOW)
    J = (points[1:] - points[0]).T
    return FlowDistribution(flow, **HOW), MultivariateNormal(points[0], J @ J.T)


def test_density_and_shapes_are_those_of_a_distribution():
    prior, exact = gaussian()
    assert prior.event_shape == exact.event_shape
    assert prior.batch_shape == torch.Size()
    assert prior.support.check(torch.zeros(5, 2)).all()
    x = exact.sample((4, 3))
    assert prior.log_prob(x).shape == (4, 3)
    torch.testing.assert_close(prior.log_prob(x), exact.log_prob(x), atol=2e-3, rtol=0)
    many = prior.expand((3,))
    assert many.sample((5,)).shape == (5, 3, 2)
    assert many.log_prob(x).shape == (4, 3)


def test_samples_follow_the_density():
    prior, exact = gaussian()
    torch.manual_seed(0)
    x = prior.sample((4000,))
    sd = exact.covariance_matrix.diagonal().sqrt()
    assert ((x.mean(0) - exact.mean).abs() < 4 * sd / math.sqrt(4000)).all()
    torch.testing.assert_close(torch.cov(x.T), exact.covariance_matrix, rtol=0.1, atol=0.02)
    torch.manual_seed(0)
    torch.testing.assert_close(prior.rsample((4000,)), x)


def test_gradients():
    """Of the density by the datum, and of a sample by its latent."""
    flow, x = three_blobs(2, 1)
    prior = FlowDistribution(flow, steps=4)
    x = x[:3].clone().requires_grad_()
    (slope,) = torch.autograd.grad(prior.log_prob(x).sum(), x)
    step = torch.zeros_like(x)
    step[:, 0] = 1e-5
    with torch.no_grad():
        found = (prior.log_prob(x + step) - prior.log_prob(x - step)) / 2e-5
    torch.testing.assert_close(slope[:, 0], found, rtol=1e-4, atol=1e-6)
    z = torch.zeros(1, 2).double().requires_grad_()
    (down,) = torch.autograd.grad(prior.from_latents(z)[0, 0], z)
    expected = flow.propagate([0.0, 0.0], [1.0, 1.0], to="data", n=2, steps=4).jacobian[0]
    torch.testing.assert_close(down[0], expected)
    assert not prior.log_prob(x.detach()).requires_grad


@pytest.mark.slow
def test_pyro_takes_it_as_a_prior():
    """NUTS with y = x1 + N(0, .1^2): the posterior of a Gaussian flow is Gaussian."""
    pyro = pytest.importorskip("pyro")
    prior, exact = gaussian()
    basis, schedule = prior.flow.model.basis, prior.flow.schedule
    C = basis.W @ torch.diag(torch.tensor(VARIANCES).double()) @ basis.W.T
    field = MixtureField(schedule, basis, basis.mean[None], C[None])  # has second derivatives
    prior = FlowDistribution(Flow(field), solver="rk4", steps=2)
    noise, y = 0.3, torch.tensor(0.5).double()

    def model():
        x = pyro.sample("x", prior)
        pyro.sample("y", pyro.distributions.Normal(x[0], noise), obs=y)

    pyro.set_rng_seed(0)
    kernel = pyro.infer.NUTS(model, max_tree_depth=3)
    mcmc = pyro.infer.MCMC(kernel, num_samples=200, warmup_steps=60, disable_progbar=True,
                           initial_params={"x": exact.mean.clone()})  # fmt: skip
    mcmc.run()
    x, S = mcmc.get_samples()["x"], exact.covariance_matrix
    gain = S[:, 0] / (S[0, 0] + noise**2)
    mean = exact.mean + gain * (y - exact.mean[0])
    sd = (S - torch.outer(gain, S[0])).diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < 0.3 * sd).all()
    torch.testing.assert_close(x.std(0), sd, rtol=0.25, atol=0.0)
