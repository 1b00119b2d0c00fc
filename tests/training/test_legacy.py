"""Networks of older files: the published numbers, and never a line of their source text."""

import json
import math

import numpy as np
import pytest
import torch

from flow.flow import Flow, ifs_times, load_flow, vp_ode_times
from tests.helpers import conformance, paper_denoiser
from tests.security.legacy_writer import (
    Persistent,
    dump,
    module_state,
    write_embedded_toy,
    write_inflationary,
    write_sigma,
    write_toy_edm,
)
from tests.training.test_edm_precond import IMAGES
from tests.training.test_precond import TOYS
from torch_utils import checkpoint
from training import network_file
from training.edm_precond import DENOISERS
from training.network_file import network_from_dict
from training.times import sigma_times


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "source text of a file was run"


@pytest.mark.parametrize(("name", "protocol"), [*zip(TOYS, (2, 3, 4), strict=True), (TOYS[0], 5)])
@torch.no_grad()
def test_toys_give_the_published_numbers(name, protocol, tmp_path, canary):
    path = write_inflationary(tmp_path / "old.pkl", name, canary, protocol=protocol)
    args, a = conformance(name)
    tmax = args["n_iters"] * args["h"]
    flow = load_flow(path, "cpu", tmax=tmax)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(flow.model.model(a["x"], a["t"]), a["F"], **close)
    x = a["x"] @ flow.model.W.float().T if args["space"] == "IS" else a["x"]
    torch.testing.assert_close(paper_denoiser(flow.model, x, a["t"]), a["D"], **close)
    times = ifs_times(args["n_iters"], args["h"])
    u = flow.to_whitened(a["batch"], times[0], "unscaled")
    end = flow.integrate(u, times[0], times[-1], solver="euler", times=times)
    latent = flow.from_whitened(end, times[-1], "scaled_es").float()
    torch.testing.assert_close(latent, a["melt_xs_es"][-1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_images_give_the_published_numbers(name, tmp_path, canary):
    path = write_inflationary(tmp_path / "network-snapshot-012345.pkl", name, canary)
    args, a = conformance(name)
    flow = load_flow(path, "cpu", tmax=args["end_time"])
    x = a["x"].flatten(1)
    x = x @ flow.model.W.float().T if args["space"] == "IS" else x
    torch.testing.assert_close(paper_denoiser(flow.model, x, a["t"]), a["D"], rtol=1e-4, atol=1e-5)
    times = vp_ode_times(args["n_iters"], args["end_time"], True, args["vpode_disc_eps"])
    u = flow.to_whitened(a["melt_xs_es"][-1], times[0], "scaled_es")
    end = flow.integrate(u, times[0], times[-1], solver="heun", times=times)
    data = flow.from_whitened(end, times[-1], "unscaled").float()
    torch.testing.assert_close(data, a["gen_tilde_xs"][-1], rtol=1e-4, atol=2e-5)
    assert flow.info["kimg"] == 12345
    assert flow.info["data"] == {"kind": "images", "name": "cifar10-8x8"}
    assert load_flow(path, "cpu").schedule.tmax == 15.01  # of all published image networks


@pytest.mark.parametrize("precond", DENOISERS)
@torch.no_grad()
def test_edm_networks_give_the_published_denoiser(precond, tmp_path, canary):
    path = write_sigma(tmp_path / "old.pkl", precond, canary)
    _, a = conformance(f"precond_{precond}")
    flow = load_flow(path, "cpu")
    t = sigma_times(flow.schedule, a["sigma"])
    reached = flow.schedule.gamma(t)[0][:, 0].sqrt()
    here = (reached / a["sigma"] - 1).abs() < 1e-4  # of the noise levels that the flow has
    assert int(here.sum()) >= 3
    D = paper_denoiser(flow.model, a["x"].flatten(1).double(), t).reshape(a["x"].shape).float()
    scale = a["D"].abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close((D / scale)[here], (a["D"] / scale)[here], rtol=1e-4, atol=1e-4)
    u = torch.randn(2, 192).double()
    assert torch.isfinite(flow.integrate(u, flow.schedule.tmax, 0.0, solver="rk4", steps=4)).all()


def test_published_toy_files_say_what_they_were_trained_on(tmp_path, canary):
    """Their dataset_kwargs: dset_name, augment_to, and a scikit-learn PCA, which does not run."""
    path = write_inflationary(tmp_path / "old.pkl", TOYS[0], canary)
    assert b"sklearn.decomposition._pca" in path.read_bytes()
    assert b"cuda:0" in path.read_bytes()
    assert load_flow(path, "cpu", tmax=7.0).info["data"] == {"kind": "toy", "name": "circles"}
    path = write_embedded_toy(tmp_path / "wide.pkl", canary)
    data = load_flow(path, "cpu", tmax=7.0).info["data"]
    assert data == {"kind": "toy", "name": "circles", "augment_to": 4, "embedding": "orthonormal"}


@torch.no_grad()
def test_eigenvalues_of_zero_are_not_floored(tmp_path, canary):
    """In dimensions that the data does not have, the published denoiser is zero."""
    flow = load_flow(write_embedded_toy(tmp_path / "old.pkl", canary), "cpu", tmax=7.0)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).double()
    D = paper_denoiser(flow.model, x, torch.linspace(1e-7, 7, 64).double())
    assert float(D[:, :2].abs().min(1).values.max()) > 0.1
    assert float(D[:, 2:].abs().max()) < 5e-7
    z = flow.inflate(x @ torch.eye(4, 2).double() @ flow.model.W[:, :2].T, steps=4)
    assert bool(z.isfinite().all())


@pytest.mark.parametrize("rotated", [False, True])
@torch.no_grad()
def test_toys_of_edm_give_the_published_denoiser(rotated, tmp_path, canary):
    """D = c_skip x + c_out F(c_in x, log(sigma)/4) of Karras et al., table 1, in float64."""
    W = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double())[0]
    path = write_toy_edm(tmp_path / "old.pkl", canary, TOYS[0], W.float() if rotated else None)
    flow = load_flow(path, "cpu")
    sigma = torch.tensor([0.004, 0.05, 0.5, 4.0, 60.0]).double()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    total = sigma.square() + 0.25
    net = flow.model.model
    F = net((x / total.sqrt()[:, None]).float(), (sigma.log() / 4).float()).double()
    wanted = 0.25 / total[:, None] * x + (0.5 * sigma / total.sqrt())[:, None] * F
    t = sigma_times(flow.schedule, sigma)
    D = paper_denoiser(flow.model, x, t)  # in the network's own coordinates
    torch.testing.assert_close(D, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        flow.model.W, W.float().double() if rotated else torch.eye(2).double()
    )


def test_a_toy_network_that_nothing_describes_is_refused(tmp_path, canary):
    net = Persistent("ToySongUNet", "", module_state(label_dim=0))
    whole = Persistent("ToyIFsPrecond", "", module_state(modules={"model": net}))
    with pytest.raises(ValueError, match="a ToySongUNet, a toy network whose layers") as error:
        load_flow(dump(tmp_path / "old.pkl", whole, ""), "cpu")
    assert "\n" not in str(error.value)


def test_the_time_input_of_an_edm_network_is_edms(tmp_path, canary):
    """The field of EDM's own kind is that of a network trained here with --precond=edm."""
    path = write_sigma(tmp_path / "old.pkl", "EDMPrecond", canary)
    content = network_file.load_network(path)
    ours = network_from_dict(content)[0].eval()
    del content["precond"]["denoiser"]
    content["precond"]["time_input"] = "edm"
    native = network_from_dict(content)[0].eval()
    u, t = torch.randn(4, 192).double(), torch.linspace(0, 10, 4).double()
    with torch.no_grad():
        torch.testing.assert_close(ours(u, t), native(u, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["ncsnpp", "adm"])
@torch.no_grad()
def test_every_published_network_is_read(network, tmp_path, canary):
    path = write_sigma(tmp_path / "old.pkl", "EDMPrecond", canary, network)
    _, a = conformance(f"net_{network}")
    net = load_flow(path, "cpu").model.model
    F = net(a["x"], a["noise_labels"], a["labels"] if a["labels"].numel() else None)
    torch.testing.assert_close(F, a["F"], rtol=1e-4, atol=4e-4)  # as in test_networks


def test_an_older_file_written_anew_means_the_same(tmp_path, canary):
    path = write_inflationary(tmp_path / "old.pkl", TOYS[2], canary, W=None, g=None)
    with pytest.raises(ValueError, match="preconditioners that are read"):
        load_flow(path, "cpu", tmax=4.0)
    path = write_inflationary(tmp_path / "old.pkl", TOYS[2], canary)
    content = network_file.load_network(path, tmax=4.0)
    checkpoint.save(tmp_path / "new.pkl", "network", content)
    old, new = load_flow(path, "cpu", tmax=4.0), load_flow(tmp_path / "new.pkl", "cpu")
    z = old.latents(5, seed=1)
    assert torch.equal(old.generate(z, steps=4), new.generate(z, steps=4))
    assert old.schedule.settings() == new.schedule.settings()


def test_the_end_time_is_read_or_asked_for(tmp_path, canary):
    path = write_inflationary(tmp_path / "old.pkl", TOYS[0], canary)
    with pytest.raises(ValueError, match=r"does not tell the end time .* give --tmax"):
        load_flow(path, "cpu")
    assert load_flow(path, "cpu", fallback_tmax=7.01).schedule.tmax == 7.01
    path = write_inflationary(tmp_path / "old.pkl", TOYS[0], canary, tmax=5.0)
    assert load_flow(path, "cpu", fallback_tmax=7.01).schedule.tmax == 5.0
    with pytest.raises(ValueError, match=r"--tmax=7\.01 contradicts .* tmax=5"):
        load_flow(path, "cpu", tmax=7.01)


@pytest.mark.parametrize("name", [*TOYS, IMAGES[0]])
def test_schedules_are_recognised(name, tmp_path, canary):
    args, a = conformance(name)
    flow = load_flow(write_inflationary(tmp_path / "old.pkl", name, canary), "cpu", tmax=5.0)
    settings = flow.schedule.settings()
    prp = args["dims_to_keep"] == len(a["eigs"])
    assert settings["dims_to_keep"] == args["dims_to_keep"]
    assert prp or settings["g_type"] == args["g_type"]
    assert prp or args["g_type"] == "orig" or settings["inflation_gap"] == args["inflation_gap"]
    torch.testing.assert_close(flow.schedule.g, a["g"].double(), rtol=1e-6, atol=1e-7)
    assert isinstance(flow, Flow)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"M": 100}, "M=100; 1000 is what can be read"),
        ({"space": "XS"}, "space XS"),
        ({"data_eigs": torch.ones(4)}, "different dimensions"),
        ({"W": torch.full((2, 2), math.nan)}, "W with values that are not finite"),
        ({"g": torch.tensor([0.5, -3.0]), "gamma0": "a"}, "gamma0 in an unknown form"),
        ({"g": torch.tensor([-1.0, 1.0])}, "no known kind"),
        ({"rho": 1e5}, "grows noise"),
        ({"data_eigs": None}, "preconditioners that are read"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(changes, message, tmp_path, canary):
    path = write_inflationary(tmp_path / "old.pkl", TOYS[0], canary, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_flow(path, "cpu", tmax=7.0)
    assert "\n" not in str(error.value)


def test_numpy_attributes_are_read(tmp_path, canary):
    args, a = conformance(TOYS[0])
    numpy = {"g": a["g"].numpy(), "W": a["W"].numpy(), "data_eigs": np.asfortranarray(a["eigs"])}
    numpy |= {"gamma0": np.float64(args["gamma0"]), "rho": torch.tensor(args["rho"])}
    flows = [
        load_flow(
            write_inflationary(tmp_path / "old.pkl", TOYS[0], canary, **changes), "cpu", tmax=4.0
        )
        for changes in ({}, numpy, numpy | {"protocol": 2}, {"class_name": "AnyName"})
    ]
    u, t = torch.randn(3, 2).double(), torch.rand(3).double()
    for flow in flows[1:]:
        torch.testing.assert_close(flow.model(u, t), flows[0].model(u, t))
    assert json.dumps(flows[0].info)
