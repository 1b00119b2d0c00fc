"""The CIFAR-10 recipe: its commands, its pieces, its state; run whole at smoke size (slow)."""

import shlex

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import cifar10_fid, cifar10_state
from benchmarks.evaluations import EXACT, PAPER, Found, paired, verdict
from tests.commands import parsed
from tests.image_networks import digits
from torch_utils import checkpoint
from training.data.images import ImageSource
from training.image_options import basis_of


@pytest.mark.parametrize("size", list(cifar10_fid.SIZES))
def test_commands_parse(size, tmp_path):
    trainings, measurements = cifar10_fid.steps(size, tmp_path, "data.zip", "cpu")
    trained = [parsed(shlex.join(["python", *s.words])) for s in trainings]
    assert [o["dims_to_keep"] for o in trained] == [cifar10_fid.SIZES[size].data_dim, 30]
    assert trained[1]["inflation_gap"] == 0.02
    assert len(measurements) == 10
    for step in measurements:
        options = parsed(shlex.join(["python", *step.words]))
        words = shlex.split(" ".join(f"--{k}={options[k]}" for k in ("solver", "steps", "n_iters")
                                     if options[k]))  # fmt: skip
        parsed(f"python gen_fid_samples.py --network=x --save_dir=y {' '.join(words)}")


def test_a_state_without_eigenvectors_comes_back_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_state, "LARGE", 100)
    data = digits(tmp_path)
    W = basis_of(ImageSource(data)).W.double()
    state = {"nimg": 7, "model": {"W": W, "weight": torch.arange(3.0)}, "ema": {"W": W}}
    state["optimizer"] = {"state": {}, "param_groups": []}
    run = tmp_path / "out" / "PRP" / "00000-digits-PRP"
    checkpoint.save(run / checkpoint.STATE.format(7), "training-state", state)
    (run / "stats.jsonl").write_text("{}\n")
    (tmp_path / "out" / "cache").mkdir()
    (tmp_path / "out" / "cache" / "large.npz").write_bytes(bytes(1000))
    packed = tmp_path / "out" / "state.zip"
    size = cifar10_state.pack(tmp_path / "out", packed)
    assert size < W.nbytes  # and there were two
    assert cifar10_state.unpack(packed, tmp_path / "new", data) == []
    found = tmp_path / "new" / "PRP" / run.name
    content = checkpoint.load(found / checkpoint.STATE.format(7), "training-state")
    assert torch.equal(content["model"]["W"], W)
    assert torch.equal(content["ema"]["W"], W)
    assert torch.equal(content["model"]["weight"], torch.arange(3.0))
    assert content["nimg"] == 7
    assert (found / "stats.jsonl").read_text() == "{}\n"
    assert not (tmp_path / "new" / "cache").exists()
    (tmp_path / "other").mkdir()
    other = digits(tmp_path / "other", 100)
    (note,) = cifar10_state.unpack(packed, tmp_path / "third", other)
    assert "other eigenvectors" in note


def test_old_checkpoints_go(tmp_path):
    for kimg in (1, 2):
        for pattern in (checkpoint.SNAPSHOT, checkpoint.STATE):
            (tmp_path / pattern.format(kimg)).touch()
    cifar10_state.prune(tmp_path, finished=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "network-snapshot-000002.pkl", "training-state-000002.pt"
    ]  # fmt: skip
    cifar10_state.prune(tmp_path, finished=True)
    assert [p.name for p in tmp_path.iterdir()] == ["network-snapshot-000002.pkl"]


def test_full_size_asks_for_the_data(tmp_path):
    result = CliRunner().invoke(cifar10_fid.main, ["--size=full", f"--outdir={tmp_path}"])
    assert result.exit_code != 0
    assert "--data" in result.output


def test_the_fewest_evaluations_that_change_images_no_more():
    def found(evaluations, change, *distances):
        return Found(evaluations, np.array(distances), 0.9, change)

    all_of = {
        EXACT: found(512, 0.0, 1.0, 1.4),
        f"{PAPER}, 17 points": found(32, 1.0, 1.1, 1.5),
        f"{PAPER}, 256 points": found(510, 0.1, 1.0, 1.4),
        "ab2, 8 steps": found(9, 2.0, 0.9, 1.3),
        "rk4, 4 steps": found(16, 1.0, 1.1, 1.6),
        "ab2, 16 steps": found(17, 0.9, 1.1, 1.6),
    }
    first, second = verdict(all_of, "PRP")
    assert "rk4, 4 steps: 16, 1.00: 2.0 times fewer" in first
    assert second == f"PRP: nothing tried changes images as little as {PAPER}, 256 points"
    mean, error = paired(
        all_of["rk4, 4 steps"], all_of[EXACT]
    )  # .1 and .2, though seeds are .4 apart
    assert (mean, error) == (pytest.approx(0.15), pytest.approx(0.05))


@pytest.mark.slow
def test_the_recipe_in_pieces(tmp_path, monkeypatch):
    """At smoke size, with a budget of seconds; the second call finds everything done."""
    short = (*(o for o in cifar10_fid.DIGITS if "duration" not in o), "--duration=0.001")
    size = cifar10_fid.Size(64, short, cifar10_fid.SIZES["smoke"].tmax, 40, "distance")
    monkeypatch.setitem(cifar10_fid.SIZES, "smoke", size)
    monkeypatch.setattr(cifar10_fid, "report", lambda *_: None)
    args = ["--size=smoke", f"--outdir={tmp_path}", "--device=cpu"]
    cut = CliRunner().invoke(cifar10_fid.main, [*args, "--piece=0.2"])
    assert cut.exit_code == 0, cut.output
    assert "12 of 12" not in cut.output
    whole = CliRunner().invoke(cifar10_fid.main, args)
    assert whole.exit_code == 0, whole.output
    assert "12 of 12 commands are done" in whole.output
    assert (tmp_path / "distance.png").exists()
    again = CliRunner().invoke(cifar10_fid.main, args)
    assert again.output.count(" kept ") == 12
