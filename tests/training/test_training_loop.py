"""The loop: exact resumption, truth as its fixed point, and honest failure."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import toy_train
from flow.flow import load_flow
from torch_utils import checkpoint
from training import network_file
from training.loss import learning_rate
from training.options import TrainOptions

QUICK = ["--data_name=circles", "--batch=512", "--tick=5", "--snap=2", "--dump=1", "--no-plot"]


def train(*args):
    result = CliRunner().invoke(toy_train.main, [*map(str, args), "--device=cpu"])
    assert result.exit_code == 0, result.output
    return result.output


def states(folder):
    path = checkpoint.numbered(folder, checkpoint.STATE)[-1]
    return checkpoint.load(path, "training-state")


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[key])
        elif torch.is_tensor(value):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key


SIZES = {
    "ToyMLP": ["--duration=0.04", "--stop_after=0.02"],
    "ToyConvUNet": ["--duration=0.002", "--stop_after=0.001", "--batch=128", "--tick=0.5"],
}


@pytest.mark.parametrize("arch", ["ToyMLP", pytest.param("ToyConvUNet", marks=pytest.mark.slow)])
def test_interrupted_training_is_bit_identical(tmp_path, arch):
    duration, stop_after, *more = SIZES[arch]
    common = [*QUICK, f"--arch={arch}", duration, *more]
    train("--outdir", tmp_path / "whole", *common)
    train("--outdir", tmp_path / "parts", *common, stop_after)
    first = tmp_path / "parts" / "00000-circles-PRP"
    assert states(first)["nimg"] < 0.75 * states(tmp_path / "whole" / first.name)["nimg"]
    train("--outdir", tmp_path / "parts", *common, "--resume=latest")
    whole = tmp_path / "whole" / "00000-circles-PRP"
    assert_same(states(whole), states(first))
    ours, theirs = (network_file.load_network(f)["state"] for f in (whole, first))
    assert_same(ours, theirs)
    kimg = [json.loads(line)["kimg"] for line in (first / "stats.jsonl").read_text().splitlines()]
    assert kimg == sorted(set(kimg))


def test_n_then_n_more_is_2n(tmp_path):
    common = [*QUICK, "--lr_decay=none", "--lr_rampup=0.002"]
    train("--outdir", tmp_path / "whole", *common, "--duration=0.04")
    train("--outdir", tmp_path / "parts", *common, "--duration=0.02048")
    run = tmp_path / "parts" / "00000-circles-PRP"
    train("--resume", run, "--duration=0.04")
    assert_same(states(tmp_path / "whole" / "00000-circles-PRP"), states(run))


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path):
    common = [*QUICK, "--duration=0.04"]
    train("--outdir", tmp_path / "a", *common)
    whole = tmp_path / "a" / "00000-circles-PRP"
    hurt = tmp_path / "b" / whole.name
    shutil.copytree(whole, hurt)
    last = checkpoint.numbered(hurt, checkpoint.STATE)[-1]
    last.write_bytes(last.read_bytes()[:1000])
    with (hurt / "stats.jsonl").open("a") as file:
        file.write('{"tick": 99, "ki')
    output = train("--resume", hurt)
    assert "damaged" in output
    assert "Resuming at" in output
    assert_same(states(whole), states(hurt))
    for line in (hurt / "stats.jsonl").read_text().splitlines():
        json.loads(line)


def test_states_do_not_pile_up_and_everything_promised_is_there(tmp_path):
    options = [o for o in QUICK if o != "--no-plot"]
    train("--outdir", tmp_path, *options, "--duration=0.03")
    run = tmp_path / "00000-circles-PRP"
    names = {p.name for p in run.iterdir()}
    assert len(checkpoint.numbered(run, checkpoint.STATE)) == 2
    for name in ("training_options.json", "log.txt", "stats.jsonl", "loss.png"):
        assert name in names
    assert any(n.startswith("events.out.tfevents") for n in names)
    assert any(n.startswith("samples-") for n in names)
    assert not any(n.startswith(".") for n in names)
    assert "Participation ratio" in (run / "log.txt").read_text()
    info = network_file.load_network(run)["info"]
    assert info["data"]["name"] == "circles"
    assert info["kimg"] == pytest.approx(30, abs=1)


def test_training_approaches_the_exact_field(tmp_path):
    """gmm1d: after a few seconds the network's field is far nearer to the truth than zero is."""
    from flow.exact import MixtureField
    from training.data.toys import ToySource, exact_mixture

    train("--outdir", tmp_path, "--data_name=gmm1d", "--duration=0.2", "--batch=512", "--no-plot")
    flow = load_flow(tmp_path, "cpu")
    truth = MixtureField(flow.schedule, flow.model.basis, **exact_mixture("gmm1d"))
    y = flow.model.encode(ToySource("gmm1d").samples(1, 0, 4000)) / flow.schedule.xi.sqrt()
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(y.shape))
    error = size = 0.0
    for t in np.linspace(0, flow.schedule.tmax, 15):
        when = torch.full((len(y),), t).double()
        cos, sin = flow.schedule.cos_sin(when)
        u = cos * y + sin * noise
        F = truth(u, when)
        error += float((flow.model(u, when) - F).square().mean())
        size += float(F.square().mean())
    assert error / size < 0.1


def test_a_loss_that_is_not_finite_stops_with_one_line(tmp_path):
    args = ["--outdir", tmp_path, *QUICK, "--duration=0.05", "--lr=1e30", "--clip=0"]
    result = CliRunner().invoke(toy_train.main, [*map(str, args), "--device=cpu"])
    assert result.exit_code == 2
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert "not finite" in line or "the loss is" in line
    assert "nonfinite-batch-000000.pt" in line
    assert "--resume" in line


def test_learning_rate():
    c = TrainOptions(duration=1e-3, batch=10, lr=2.0, lr_rampup=1e-4)
    assert learning_rate(c, 0) == pytest.approx(0.2)
    assert learning_rate(c, 90) == pytest.approx(2.0)
    assert learning_rate(c, 900) == pytest.approx(2.0)
    c = replace(c, lr_decay="cosine")
    assert learning_rate(c, 500) == pytest.approx(1.0)
    assert learning_rate(c, 1000) == pytest.approx(0.0)
