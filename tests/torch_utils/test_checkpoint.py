"""Network files: complete, atomic, and never executed."""

import copy
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from flow.flow import load_flow
from tests.helpers import random_basis
from torch_utils import checkpoint
from training import network_file
from training.network_file import build, network_from_dict, network_to_dict

NETWORK = {"class": "ToyMLP", "kwargs": {"in_channels": 3, "width": 16, "depth": 1, "bands": 2}}


def _model(space="IS"):
    basis = random_basis([2.0, 1.0, 0.5])
    model = build(NETWORK, {"dims_to_keep": 2, "tmax": 5.0}, basis, {"space": space})
    torch.nn.init.normal_(model.model.outlet.weight)
    return model


def test_a_network_file_means_the_same_afterwards(tmp_path):
    model = _model()
    info = {"data": {"kind": "toy", "name": "s_curve", "dim": 3}, "kimg": 1.5}
    path = tmp_path / "net.pkl"
    checkpoint.save(path, "network", network_to_dict(model, NETWORK, info))
    flow = load_flow(path, "cpu")
    u, t = torch.randn(7, 3).double(), torch.rand(7).double()
    torch.testing.assert_close(flow.model(u, t), model(u, t), rtol=0, atol=0)
    assert flow.schedule.settings() == model.schedule.settings()
    assert flow.info == info
    content = torch.load(path, weights_only=True)  # nothing but tensors and plain values
    assert content["version"] == checkpoint.VERSION


def test_opening_a_network_leaves_seeds_alone(tmp_path):
    path = tmp_path / "net.pkl"
    checkpoint.save(path, "network", network_to_dict(_model(), NETWORK, {}))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_flow(path, "cpu")
    assert torch.equal(torch.rand(4), expected)


class Hostile:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_hostile_files_run_nothing(tmp_path, save):
    canary, path = tmp_path / "canary", tmp_path / "net.pkl"
    save({"format": "inflationary-flow-network", "state": Hostile(canary)}, path)
    with pytest.raises(ValueError, match=r"net\.pkl: not a network file"):
        network_file.load_network(path)
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut off", b"<html>"])
def test_damaged_files_are_one_clear_line(tmp_path, content):
    path = tmp_path / "net.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pkl: not a network file") as error:
        network_file.load_network(path)
    assert "\n" not in str(error.value)


def test_other_and_newer_files_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    checkpoint.save(path, "training-state", {})
    with pytest.raises(ValueError, match="not a network file"):
        network_file.load_network(path)
    torch.save({"format": "inflationary-flow-network", "version": 99}, path)
    with pytest.raises(ValueError, match="newer version"):
        network_file.load_network(path)
    with pytest.raises(ValueError, match="no such file"):
        network_file.load_network(tmp_path / "absent.pkl")


def test_a_folder_means_its_latest_snapshot(tmp_path):
    for run, kimg in [("00000-a", 900000), ("00001-b", 50), ("00001-b", 1000000)]:
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / checkpoint.SNAPSHOT.format(kimg)).touch()
    (tmp_path / "00002-empty").mkdir()
    latest = tmp_path / "00001-b" / "network-snapshot-1000000.pkl"
    assert checkpoint.find_network(tmp_path) == latest
    assert checkpoint.find_network(tmp_path / "00001-b") == latest
    with pytest.raises(ValueError, match="no network-snapshot"):
        checkpoint.find_network(tmp_path / "00002-empty")


@pytest.mark.parametrize("spoil", ["drop", "resize", "rename"])
def test_inconsistent_networks_are_one_clear_line(spoil):
    content = network_to_dict(_model(), NETWORK, {})
    if spoil == "drop":
        del content["state"]["W"]
    elif spoil == "resize":
        content["state"]["model.inlet.weight"] = torch.zeros(16, 9)
    else:
        content["network"] = {"class": "Unknown", "kwargs": {}}
    with pytest.raises(ValueError, match=r"lacks the entry|does not fit|network class") as error:
        network_from_dict(content)
    assert "\n" not in str(error.value)


def test_a_network_can_be_opened_from_an_address(tmp_path, monkeypatch):
    from dnnlib import download

    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    checkpoint.save(tmp_path / "net.pkl", "network", network_to_dict(_model(), NETWORK, {}))

    data, asked = (tmp_path / "net.pkl").read_bytes(), []

    def fetch(url, dest, *_):
        asked.append(url)
        Path(dest).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    monkeypatch.setattr(download, "_download", fetch)
    for _ in range(2):  # the second time from the cache
        assert load_flow("https://example.org/net.pkl", "cpu").schedule.data_dim == 3
    assert asked == ["https://example.org/net.pkl"]
    with pytest.raises(ValueError, match="expected 0000"):
        load_flow("https://example.org/net.pkl", "cpu", sha256="0" * 64)
    with pytest.raises(ValueError, match="only https"):
        load_flow("http://example.org/net.pkl", "cpu")


def test_older_versions_are_brought_up_to_date(tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    checkpoint.save(path, "network", network_to_dict(_model(), NETWORK, {}))

    def to_version_2(content):
        return content | {"info": {"licence": "said in version 2"}}

    monkeypatch.setattr(checkpoint, "VERSION", 2)
    monkeypatch.setitem(checkpoint.MIGRATIONS, 1, to_version_2)
    content = network_file.load_network(path)
    assert content["version"] == 2
    assert content["info"]["licence"] == "said in version 2"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("info"), "lacks the entry 'info'"),
        (
            lambda c: c["state"].update(W=torch.full((3, 3), float("nan"))),
            "'?W'? that are not finite",
        ),
        (lambda c: c["state"].update({"schedule.xi": torch.zeros(3)}), "no variances"),
        (lambda c: c["schedule"].update(rho="fast"), "rho=fast outside"),
        (lambda c: c["schedule"].update(tmax=1e9), "tmax=1000000000.0 outside"),
        (lambda c: c["network"]["kwargs"].update(width=10**9), "width=1000000000 out of range"),
        (lambda c: c["network"]["kwargs"].update(depth=200), "weights .* are not those"),
        (lambda c: c["network"]["kwargs"].update(width=60000), "weights .* are not those"),
        (lambda c: c["precond"].update(shape=[3, 1]), "does not fit its own description"),
        (lambda c: c["precond"].update(time_input="edm"), "does not fit its own description"),
        (lambda c: c["schedule"].update(rho=4.0), "rho is not that of its settings"),
        (lambda c: c["info"].update(a=float("inf")), "'info' that is not finite"),
        (lambda c: c.update(version=True), "has no version"),
    ],
)
def test_what_a_file_contradicts_is_said(spoil, message, tmp_path):
    content = network_to_dict(_model(), copy.deepcopy(NETWORK), {})
    spoil(content)
    checkpoint.save(tmp_path / "net.pkl", "network", content)
    with pytest.raises(ValueError, match=message) as error:
        load_flow(tmp_path / "net.pkl", "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x93NUMPY", "no known layout"),
    ],
)
def test_common_mistakes_are_named(content, message, tmp_path):
    (tmp_path / "net.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        network_file.load_network(tmp_path / "net.pkl")


def test_what_is_frozen_stays_as_it_was():
    weight = torch.arange(4.0)
    live = {"w": weight, "state": {0: {"step": torch.tensor(1.0)}}, "betas": (0.9, [weight[1:]])}
    copy = checkpoint.frozen(live)
    weight.add_(1)
    live["state"][0]["step"] += 1
    assert torch.equal(copy["w"], torch.arange(4.0))
    assert copy["state"][0]["step"] == 1
    assert copy["betas"][0] == 0.9
    assert torch.equal(copy["betas"][1][0], torch.arange(1.0, 4.0))
