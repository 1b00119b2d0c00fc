"""Network, preconditioner and loss against published outputs and against each other."""

import json

import pytest
import torch

from tests.helpers import (
    CONFORMANCE,
    conformance,
    fill_weights,
    loss_weight,
    paper_denoiser,
    random_basis,
)
from training.basis import Basis
from training.edm_precond import edm_levels
from training.loss import flow_loss
from training.networks.image import DhariwalUNet, SongUNet
from training.networks.toy import ToyConvUNet, ToyMLP
from training.precond import InflationPrecond
from training.schedule import Schedule
from training.times import sigma_times

TOYS = [
    "toy_d2_keep1_orig_ES",
    "toy_d2_keep2_orig_ES",
    "toy_d3_keep2_constant_inflation_gap_IS",
]


def published(name):
    """The preconditioned published network of a conformance file, its arguments and arrays."""
    args, arrays = conformance(name)
    d = args["data_dim"]
    zero, one = torch.zeros(d).double(), torch.ones(d).double()
    basis = Basis(zero, one, arrays["eigs"].double(), arrays["W"].double())
    schedule = Schedule(
        basis.xi,
        args["dims_to_keep"],
        g_type=args["g_type"],
        inflation_gap=args["inflation_gap"] or 0.0,
        rho=args["rho"],
        gamma0=args["gamma0"],
        tmax=args["n_iters"] * args["h"],
    )
    net = fill_weights(ToyConvUNet(d), args["salt"])
    return InflationPrecond(net, schedule, basis, space=args["space"]).eval(), args, arrays


@pytest.mark.parametrize("d", [2, 3])
def test_parameter_names_and_shapes_are_the_published_ones(d):
    shapes = json.loads((CONFORMANCE / "toy_state_dict_shapes.json").read_text())
    ours = {k: list(v.shape) for k, v in ToyConvUNet(d).state_dict().items()}
    assert ours == shapes[f"ToyConvUNet_d{d}"]


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_published_outputs(name):
    precond, args, a = published(name)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(precond.model(a["x"], a["t"]), a["F"], **close)
    # The file's x is in the eigenbasis and its D in the network's own space.
    x = a["x"] @ precond.W.float().T if args["space"] == "IS" else a["x"]
    torch.testing.assert_close(paper_denoiser(precond, x, a["t"]), a["D"], **close)
    torch.testing.assert_close(loss_weight(precond, a["t"]).float(), a["loss_weight"], **close)


@pytest.mark.parametrize("space", ["ES", "IS"])
@torch.no_grad()
def test_loss_is_the_papers_weighted_denoising_loss(space):
    basis = random_basis([1.5, 0.7, 0.1])
    schedule = Schedule(basis.xi, 2, inflation_gap=0.02)
    net = ToyMLP(3)
    torch.nn.init.normal_(net.outlet.weight)
    precond = InflationPrecond(net, schedule, basis, space=space)
    torch.manual_seed(1)
    x, noise = torch.randn(64, 3).double(), torch.randn(64, 3).double()
    t = schedule.tmax * torch.rand(64).double()
    y = precond.encode(x)
    noisy = y + schedule.gamma(t)[0].sqrt() * noise
    W = basis.W
    D = paper_denoiser(precond, noisy @ W.T if space == "IS" else noisy, t)
    D = D @ W if space == "IS" else D
    ours = flow_loss(precond, x, t, noise)
    torch.testing.assert_close(ours, ((D - y) * loss_weight(precond, t)) ** 2, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_image_space_network_is_one_rotation_away():
    basis = random_basis([1.5, 0.7, 0.1])
    schedule = Schedule(basis.xi, 3)

    class Rotated(torch.nn.Module):
        time_input = "features"

        def __init__(self, inner, W):
            super().__init__()
            self.inner, self.W = inner, torch.nn.Parameter(W.float())

        def forward(self, v, *labels):
            return self.inner(v @ self.W, *labels) @ self.W.T

    net = ToyMLP(3)
    torch.nn.init.normal_(net.outlet.weight)
    es = InflationPrecond(net, schedule, basis, space="ES")
    image = InflationPrecond(Rotated(net, basis.W), schedule, basis, space="IS")
    u, t = torch.randn(50, 3).double(), torch.rand(50).double() * 7
    torch.testing.assert_close(es(u, t), image(u, t), rtol=1e-4, atol=1e-5)


def test_encode_and_decode_are_inverse():
    basis = random_basis([2.0, 1.0, 0.3])
    basis.scale = torch.tensor([10.0, 0.1, 3.0]).double()
    precond = InflationPrecond(ToyMLP(3), Schedule(basis.xi, 3), basis)
    x = torch.randn(20, 3).double() * basis.scale + 5
    torch.testing.assert_close(precond.decode(precond.encode(x)), x)


def test_edm_noise_levels_are_log_normal():
    basis = random_basis([0.25, 0.25]).isotropic()
    schedule = Schedule(basis.xi, 2, gamma0=1e-6, tmax=20.0)
    q = (torch.arange(10000).double() + 0.5) / 10000
    log_sigma = schedule.gamma(sigma_times(schedule, edm_levels(q)[0]))[0][:, 0].log() / 2
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=0.01)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=0.01)


def test_edm_preconditioning_is_the_isotropic_case():
    """Karras et al. 2022, table 1, with sigma_data = 0.5."""
    basis = random_basis([0.25, 0.25]).isotropic()
    basis.mean.zero_()
    schedule = Schedule(basis.xi, 2)
    net = fill_weights(ToyConvUNet(2))
    precond = InflationPrecond(net, schedule, basis, time_input="edm")
    x, t = torch.randn(9, 2), torch.linspace(0, 7, 9)
    sigma, sd = schedule.gamma(t)[0][:, :1].sqrt().float(), 0.5
    c_skip = sd**2 / (sigma**2 + sd**2)
    c_out = sigma * sd / (sigma**2 + sd**2).sqrt()
    c_in = 1 / (sigma**2 + sd**2).sqrt()
    with torch.no_grad():
        expected = c_skip * x + c_out * net(c_in * x, sigma[:, 0].log() / 4)
        torch.testing.assert_close(paper_denoiser(precond, x, t), expected, rtol=1e-4, atol=1e-5)


IMAGE = {
    "img_resolution": 8,
    "in_channels": 1,
    "out_channels": 1,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
NETWORKS = {
    "ToyMLP": (lambda: ToyMLP(64), False),
    "ToyConvUNet": (lambda: ToyConvUNet(64), False),
    "DDPM++": (lambda: SongUNet(**IMAGE), True),
    "NCSN++": (lambda: SongUNet(**IMAGE, embedding_type="fourier", channel_mult_noise=2), True),
    "ADM": (lambda: DhariwalUNet(**IMAGE), True),
}


@pytest.mark.parametrize("output", ["velocity", "straight"])
@pytest.mark.parametrize("name", list(NETWORKS))
@torch.no_grad()
def test_a_time_that_all_share_may_be_given_once(name, output):
    make, image = NETWORKS[name]
    basis = random_basis([float(2 - k / 40) for k in range(64)])
    net = fill_weights(make())
    shape = (1, 8, 8) if image else None
    precond = InflationPrecond(net, Schedule(basis.xi, 30), basis, "IS", shape, output=output)
    u = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).double()
    labels = {"class_labels": torch.eye(3)[[0, 1, 2, 0, 1]]} if image else {}
    once = torch.full((1,), 2.3, dtype=torch.float64)
    expected = precond.eval()(u, once.expand(5), **labels)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(precond(u, once, **labels), expected, rtol=1e-4, atol=1e-5)
