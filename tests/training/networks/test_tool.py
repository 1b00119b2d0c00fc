"""python -m torch_utils.checkpoint: what it shows, and conversion there and back."""

import hashlib
import json

import pytest
import torch

from flow.flow import load_flow
from tests.helpers import random_basis, run_script
from tests.image_networks import call, error_line, good
from tests.security.legacy_writer import write_inflationary
from torch_utils import checkpoint
from training import network_file
from training.network_file import build, network_to_dict
from training.networks.tool import main

NETWORK = {"class": "ToyMLP", "kwargs": {"in_channels": 2, "width": 8, "depth": 1, "bands": 2}}


@pytest.fixture
def network(tmp_path):
    basis = random_basis([2.0, 0.5])
    model = build(NETWORK, {"dims_to_keep": 1, "tmax": 5.0}, basis, {"space": "IS"})
    torch.nn.init.normal_(model.model.outlet.weight)
    info = {"data": {"kind": "toy", "name": "circles"}, "kimg": 2.5, "licence": "Apache-2.0"}
    path = tmp_path / "net.pkl"
    checkpoint.save(path, "network", network_to_dict(model, NETWORK, info))
    return path


def lines(text):
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def test_info(network):
    said = lines(good(main, "info", network, "--tensors"))
    assert said["sha256"].strip() == hashlib.sha256(network.read_bytes()).hexdigest()
    assert said["licence"].strip() == "Apache-2.0"
    assert said["trained"].strip() == "2.5 kimg"
    assert "PRRto1D" in said["schedule"]
    weights = sum(
        x.numel()
        for k, x in network_file.load_network(network)["state"].items()
        if k.startswith("model.")
    )
    assert f"{weights:,} weights" in said["network"]


def test_verify(network, tmp_path):
    assert good(main, "verify", network).startswith("Good")
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    good(main, "verify", network, f"--sha256={digest}")
    assert "expected 0000" in error_line(main, "verify", network, f"--sha256={'0' * 64}")
    assert "not 64 hexadecimal digits" in error_line(main, "verify", network, "--sha256=12")
    content = network_file.load_network(network)
    content["state"]["model.inlet.bias"][0] = float("nan")
    checkpoint.save(tmp_path / "bad.pkl", "network", content)
    assert "not finite" in error_line(main, "verify", tmp_path / "bad.pkl")


def test_conversion_there_and_back(network, tmp_path):
    there, back = tmp_path / "net.safetensors", tmp_path / "back.pkl"
    assert "net.json" in good(main, "convert", network, there)
    assert json.loads((tmp_path / "net.json").read_text())["network"] == NETWORK
    good(main, "convert", there, back)
    hashes = {lines(good(main, "info", p))["content"] for p in (network, there, back)}
    assert len(hashes) == 1
    z = torch.randn(4, 2).double()
    flows = [load_flow(p, "cpu") for p in (network, there, back)]
    assert all(torch.equal(f.generate(z, steps=3), flows[0].generate(z, steps=3)) for f in flows)


def test_older_files_are_converted(tmp_path):
    old = write_inflationary(tmp_path / "old.pkl", "toy_d2_keep1_orig_ES", tmp_path / "canary")
    new = tmp_path / "new.pkl"
    assert "give --tmax" in error_line(main, "convert", old, new)
    assert not new.exists()
    said = good(main, "convert", old, new, "--tmax=7.01", "--licence=CC-BY-4.0")
    assert "Note" not in said
    assert "CC-BY-4.0" in good(main, "info", new)
    assert "older file of the EDM family" in good(main, "info", new)
    assert "does not tell its licence" in good(main, "convert", old, new, "--tmax=7.01")
    assert load_flow(new, "cpu").schedule.tmax == 7.01
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda j, s: j.unlink(), "needs net.json beside it"),
        (lambda j, s: j.write_text("{"), "damaged net.json"),
        (lambda j, s: j.write_text("[" * 9999), "damaged net.json"),
        (lambda j, s: j.write_text("[]"), "not a dict"),
        (lambda j, s: s.write_bytes(s.read_bytes()[:-9]), "is damaged"),
        (lambda j, s: s.write_bytes(b"\xff" * 99), "is damaged"),
    ],
)
def test_damaged_pairs_are_refused(network, tmp_path, spoil, message):
    pair = tmp_path / "net.safetensors"
    good(main, "convert", network, pair)
    spoil(tmp_path / "net.json", pair)
    assert message in error_line(main, "verify", pair)


def test_bad_destinations(network, tmp_path):
    assert "neither .pkl nor .safetensors" in error_line(main, "convert", network, "x.pt")
    (tmp_path / "file").touch()
    line = error_line(main, "convert", network, tmp_path / "file" / "net.pkl")
    assert "is a file, not a folder" in line
    assert call(main, "--help").exit_code == 0


def test_it_runs_as_a_module(network):
    shell = run_script("-m", "torch_utils.checkpoint", "verify", network)
    assert shell.returncode == 0, shell.stderr
    assert shell.stdout.startswith("Good")
