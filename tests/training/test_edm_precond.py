"""EDM's table 1 against published outputs, and inflationary flows on published image networks."""

import inspect
import json

import numpy as np
import pytest
import torch

from flow.flow import Flow, vp_ode_times
from tests.helpers import (
    CONFORMANCE,
    conformance,
    fill_weights,
    loss_weight,
    paper_denoiser,
    sigma_denoiser,
)
from training.basis import Basis
from training.edm_precond import (
    DENOISERS,
    LEVELS,
    edm_scalings,
    vp_sigma,
    vp_time,
)
from training.networks.image import SongUNet
from training.precond import InflationPrecond
from training.schedule import Schedule

IMAGES = [
    "image_keep192_orig_IS",
    "image_keep30_constant_inflation_gap_ES",
    "image_keep30_constant_inflation_gap_IS",
]


@pytest.mark.parametrize("precond", DENOISERS)
@torch.no_grad()
def test_published_outputs(precond):
    with np.load(CONFORMANCE / "net_ddpmpp.npz") as data:
        config = json.loads(str(data["config"]))
    salt = config.pop("salt")
    del config["model_type"]
    net = fill_weights(SongUNet(**config), salt)
    _, a = conformance(f"precond_{precond}")
    D = sigma_denoiser(DENOISERS[precond], net.eval(), a["x"], a["sigma"])
    # sigma = 40 multiplies the network's own rounding in VP and VE.
    scale = a["D"].abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(D / scale, a["D"] / scale, rtol=1e-4, atol=1e-4)


def test_edm_scalings_keep_unit_variance():
    """Input and target of the network have variance one, whatever sigma (Karras et al., B.6)."""
    sd = 0.7
    sigma = torch.logspace(-3, 2, 20).double()
    c_skip, c_out, c_in, c_noise = edm_scalings(sigma, sigma_data=sd)
    one = torch.ones_like(sigma)
    torch.testing.assert_close(c_in.square() * (sd**2 + sigma**2), one)
    target = ((1 - c_skip).square() * sd**2 + c_skip.square() * sigma**2) / c_out.square()
    torch.testing.assert_close(target, one)
    torch.testing.assert_close(c_noise, sigma.log() / 4)


def test_vp_noise_level_and_its_inverse():
    t = torch.linspace(1e-5, 1, 50)
    torch.testing.assert_close(vp_time(vp_sigma(t)), t, rtol=1e-5, atol=0)
    half, full = vp_sigma(torch.tensor([0.5, 1.0], dtype=torch.float64)).tolist()
    assert half == pytest.approx(np.sqrt(np.exp(19.9 / 8 + 0.05) - 1))
    assert full == pytest.approx(152.17, abs=0.01)  # the published largest noise level


def test_noise_levels_and_weights():
    q = (torch.arange(20000).double() + 0.5) / 20000
    sigma, weight = LEVELS["lognormal"](q)
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=1e-3)
    c_out = edm_scalings(sigma)[1]
    torch.testing.assert_close(weight, c_out.pow(-2))
    sigma, weight = LEVELS["vp_time"](q)
    torch.testing.assert_close(vp_time(sigma), 1e-5 + (1 - 1e-5) * q)
    torch.testing.assert_close(weight, 1 / sigma**2)
    sigma, weight = LEVELS["log_uniform"](q)
    assert float(sigma[0]) == pytest.approx(0.02, rel=1e-3)
    assert float(sigma[-1]) == pytest.approx(100, rel=1e-3)
    assert float(sigma.log().std()) == pytest.approx(np.log(5000) / np.sqrt(12), rel=1e-3)
    torch.testing.assert_close(weight, 1 / sigma**2)
    for levels in LEVELS.values():  # stratified draws in float32 may touch the ends
        for part in levels(torch.tensor([0.0, 1.0])):
            assert bool(part.isfinite().all())


def test_best_linear_denoiser_of_gaussian_data_is_the_zero_network():
    """For N(0, sigma_data^2) data D = c_skip x is the posterior mean, of mean weighted error 1."""
    rng = np.random.default_rng(0)
    x, noise = torch.from_numpy(rng.standard_normal((2, 20000, 1)))
    q = (torch.arange(20000).double() + 0.5) / 20000
    sigma, weight = (v[:, None] for v in LEVELS["lognormal"](q))
    c_skip = edm_scalings(sigma)[0]
    loss = weight * (c_skip * (0.5 * x + sigma * noise) - 0.5 * x).square()
    assert float(loss.mean()) == pytest.approx(1.0, abs=4 * np.sqrt(2 / 20000))


# Inflationary flows on the published image network -----------------------------------------------


def published(name):
    """The preconditioned network of a conformance file, its arguments and arrays."""
    args, arrays = conformance(name)
    zero, one = torch.zeros(192).double(), torch.ones(192).double()
    basis = Basis(zero, one, arrays["eigs"].double(), arrays["W"].double())
    schedule = Schedule(
        basis.xi,
        args["dims_to_keep"],
        g_type=args["g_type"],
        inflation_gap=args["inflation_gap"] or 0.0,
        rho=args["rho"],
        gamma0=args["gamma0"],
        tmax=args["end_time"],
    )
    shared = inspect.signature(SongUNet).parameters.keys() & args.keys()
    net = fill_weights(SongUNet(8, 3, 3, **{k: args[k] for k in shared}), args["salt"])
    precond = InflationPrecond(net, schedule, basis, space=args["space"], shape=(3, 8, 8))
    return precond.eval(), args, arrays


@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_published_inflationary_denoiser(name):
    precond, args, a = published(name)
    # The file's x is in the eigenbasis and its D in the network's own space.
    x = a["x"].flatten(1)
    x = x @ precond.W.float().T if args["space"] == "IS" else x
    torch.testing.assert_close(paper_denoiser(precond, x, a["t"]), a["D"], rtol=1e-4, atol=1e-5)
    # The published weight subtracts nearly equal float32 numbers where gamma is small.
    ours = loss_weight(precond, a["t"]).float()
    torch.testing.assert_close(ours, a["loss_weight"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", IMAGES)
def test_published_heun(name):
    """The published grid starts at t = 0.01, and its first state takes the data to be there."""
    precond, args, a = published(name)
    flow = Flow(precond)

    def walk(x, coords, backward):
        times = vp_ode_times(args["n_iters"], args["end_time"], backward, args["vpode_disc_eps"])
        u = flow.to_whitened(x, times[0], coords)
        end = flow.integrate(u, times[0], times[-1], solver="heun", times=times)
        return [(u, times[0]), (end, times[-1])]

    close = {"rtol": 1e-4, "atol": 2e-5}
    melt = walk(a["batch"], "unscaled", False)
    states = torch.stack([flow.from_whitened(u, t, "scaled_es") for u, t in melt])
    torch.testing.assert_close(states.float(), a["melt_xs_es"], **close)
    gen = walk(a["melt_xs_es"][-1], "scaled_es", True)
    states = torch.stack([flow.from_whitened(u, t, "unscaled") for u, t in gen])
    torch.testing.assert_close(states.float(), a["gen_tilde_xs"], **close)
