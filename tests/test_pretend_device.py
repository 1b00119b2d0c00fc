"""Apple GPUs, which have no float64: what is done on one that is pretended works and is right."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import toy_train
import train
from flow.elbo import elbo
from flow.flow import ifs_times, load_flow
from flow.likelihood import log_prob
from flow.method import Method
from flow.simulation import simulate
from tests.image_networks import random_images
from tests.pretend_device import OnDevice, pretend_device


def good(main, *args):
    result = CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_device_refuses_what_the_real_one_refuses(monkeypatch):
    with pretend_device(monkeypatch):
        x = torch.ones(3).to("mps")
        assert isinstance(x, OnDevice)
        assert x.device.type == (2 * x).device.type == "mps"
        assert type((x + x).cpu()) is torch.Tensor
        assert (x + x).tolist() == [2.0, 2.0, 2.0]
        for make in (
            lambda: x.double(),
            lambda: x.to(torch.float64),
            lambda: torch.zeros(3, dtype=torch.float64, device="mps"),
            lambda: torch.ones(3, dtype=torch.float64).to(x.device),
        ):
            with pytest.raises(TypeError, match="float64"):
                make()
        with pytest.raises(RuntimeError, match="on mps and on the CPU"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        weight = torch.nn.Linear(3, 2).to("mps")
        weight(x).sum().backward()
        assert weight.weight.grad.tolist() == [[1.0] * 3] * 2


TRAIN = ["--data_name=circles", "--duration=0.002", "--batch=200", "--no-plot"]


CASES = {
    "ifs": [],
    "arc": ["--t_sampling=arc", "--weighting=arc", "--dims_to_keep=1"],
    "likelihood": ["--weighting=likelihood", "--importance"],
    "second order": ["--second_order", "--transfer={runs}/ifs"],
    "edm": ["--precond=edm"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("cpu")


def trained(runs, case):
    """The folder of a run on the CPU, which the first that asks for it makes."""
    if not (runs / case).exists():
        if case == "second order":
            trained(runs, "ifs")
        more = [word.format(runs=runs) for word in CASES[case]]
        good(toy_train.main, f"--outdir={runs / case}", *TRAIN, *more, "--device=cpu")
    return runs / case


SLOW = ("arc", "likelihood", "second order", "edm")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in CASES]
)
def test_training_of_toys(runs, tmp_path, monkeypatch, case):
    one = trained(runs, case)
    more = [word.format(runs=runs) for word in CASES[case]]
    with pretend_device(monkeypatch):
        good(toy_train.main, f"--outdir={tmp_path}", *TRAIN, *more, "--device=mps")
    here, there = (load_flow(k, "cpu").model.state_dict() for k in (one, tmp_path))
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=1e-3, atol=1e-4)


def answers(flow):
    """What a flow gives: inflation and back, samples, densities, denoised data."""
    x = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32)
    density = log_prob(flow, x, steps=4)
    hutchinson = log_prob(flow, x, steps=4, trace="hutchinson", probes=2)
    bound = elbo(flow, torch.from_numpy(x), 4, seed=0)
    return [
        flow.inflate(x, steps=4), flow.inflate(x, "unscaled", steps=4), flow.sample(5, steps=4),
        flow.round_trip(x, solver="reversible", steps=4), flow.sample(5, eps=0.1, steps=4),
        flow.inflate(x, solver="adaptive", rtol=1e-2, atol=1e-2), flow.denoise(x, 1.0),
        flow.generate(x, solver="heun", times=ifs_times(5, 0.5)), flow.log_prob(x, steps=4),
        density.value, density.latents, hutchinson.value, hutchinson.standard_error,
        bound.prior, bound.diffusion, bound.rest,
    ]  # fmt: skip


def test_what_a_simulation_keeps_on_the_device_does_not_grow_with_samples(runs, monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((96, 2)).astype(np.float32))

    def peak(total, hold=False):
        held, memory.peak = [], 0

        def data(block):
            u = flow.to_whitened(x[block.start : block.stop], 0.0, "unscaled")
            held.extend([u] if hold else [])
            return u

        result = simulate(flow, Method("rk4", 2, tmax), total, data, False, 1, "", torch.float32)
        assert all(type(v) is torch.Tensor for v in result.final.values())
        assert result.arrays["xs"].shape == (3, total, 2)
        return memory.peak

    with pretend_device(monkeypatch) as memory:
        flow = load_flow(trained(runs, "ifs"), "mps")
        flow.block, tmax = 16, flow.schedule.tmax
        peak(16)
        assert peak(16) == peak(96)
        assert peak(96, hold=True) > peak(16, hold=True)


@pytest.mark.parametrize(
    "case", ["ifs", *(pytest.param(c, marks=pytest.mark.slow) for c in ("arc", "edm"))]
)
def test_flows(runs, monkeypatch, case):
    wanted = answers(load_flow(trained(runs, case), "cpu"))
    with pretend_device(monkeypatch):
        found = answers(load_flow(trained(runs, case), "mps"))
        assert isinstance(found[0], OnDevice)
        found = [v.cpu() for v in found]
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(b.double(), a.double(), rtol=2e-3, atol=2e-3)


IMAGES = [
    "--cbase=16", "--cres=1", "--num_blocks=1", "--batch=16", "--tick=0.032", "--lr_rampup=0",
    "--augment=0.5", "--dropout=0.3", "--no-plot", "--duration=0.00008",
]  # fmt: skip


def test_images_with_augmentation_and_dropout(tmp_path, monkeypatch):
    """Trained, inflated and generated there as on the CPU."""
    data = random_images(tmp_path / "images.zip")
    args = [f"--data={data}", *IMAGES]
    good(train.main, f"--outdir={tmp_path / 'cpu'}", *args, "--device=cpu")
    with pretend_device(monkeypatch):
        good(train.main, f"--outdir={tmp_path / 'mps'}", *args, "--device=mps")
    here, there = (load_flow(tmp_path / k, "cpu") for k in ("cpu", "mps"))
    states = (here.model.state_dict(), there.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=2e-3, atol=2e-4)
    x = here.sample(3, seed=0, steps=4)
    wanted = here.inflate(x, steps=4)
    with pretend_device(monkeypatch):
        flow = load_flow(tmp_path / "cpu", "mps")
        found = flow.sample(3, seed=0, steps=4), flow.inflate(x.float(), steps=4)
        assert isinstance(found[0], OnDevice)
        found = [v.cpu() for v in found]
    for a, b in zip((x, wanted), found, strict=True):
        torch.testing.assert_close(b.double(), a.double(), rtol=2e-3, atol=2e-3)
