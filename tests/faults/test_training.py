"""Training meets signals, dying ranks, damaged states and losses that are not finite."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import toy_train
from tests.faults.harness import (
    differences,
    ended,
    load,
    run,
    start,
    start_ranks,
    wait_for,
)
from tests.helpers import ROOT
from torch_utils import checkpoint
from training import network_file, training_loop
from training.data.toys import ToySource
from training.guards import SCALE_FLOOR, Watch
from training.options import TrainOptions

COMMON = ["--outdir=out", "--data_name=circles", "--batch=128", "--tick=1", "--snap=4", "--dump=2",
          "--no-plot", "--device=cpu"]  # fmt: skip
COMMAND = ["toy_train", *COMMON, "--duration=0.02"]
RUN = "out/00000-circles-PRP"


def outcome(folder):
    """Weights, their average and optimizer at the end, and the network file's tensors."""
    found = {}
    for pattern in (checkpoint.STATE, checkpoint.SNAPSHOT):
        path = checkpoint.numbered(folder / RUN, pattern)[-1]
        found[path.name] = load(path, path.read_bytes())
        found[path.name].pop("info", None)  # how it was begun
    return found


def kimgs(folder):
    lines = (folder / RUN / "stats.jsonl").read_text().splitlines()
    return [json.loads(line)["kimg"] for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(COMMAND, folder, folder / "log.txt") == 0, (folder / "log.txt").read_text()
    return folder


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert ended(start_ranks(COMMAND, folder, folder / "log.txt")) == [0, 0]
    return folder


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_stops_it_with_everything_saved(whole, tmp_path, number):
    log = tmp_path / "log.txt"
    process = start(COMMAND, tmp_path, log)
    wait_for(lambda: (tmp_path / RUN / "stats.jsonl").exists(), process)
    os.kill(process.pid, number)
    assert ended([process]) == [0]
    said = log.read_text()
    assert f"Stopped by {signal.Signals(number).name} at" in said
    assert f"--resume={RUN}" in said
    state = checkpoint.numbered(tmp_path / RUN, checkpoint.STATE)[-1]
    nimg = checkpoint.load(state, "training-state")["nimg"]
    assert kimgs(tmp_path)[-1] == nimg / 1000 < 20
    assert network_file.load_network(tmp_path / RUN)["info"]["kimg"] == nimg / 1000
    assert run([*COMMAND, "--resume=latest"], tmp_path, log) == 0
    assert not differences(outcome(whole), outcome(tmp_path))
    assert kimgs(tmp_path) == sorted(set(kimgs(tmp_path)))


def test_a_signal_to_one_of_two_stops_both_at_one_step(whole_of_two, tmp_path):
    log = tmp_path / "log.txt"
    ranks = start_ranks(COMMAND, tmp_path, log)
    wait_for(lambda: (tmp_path / RUN / "stats.jsonl").exists(), ranks[0])
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert ended(ranks) == [0, 0]
    assert "Stopped by" in log.read_text()
    assert kimgs(tmp_path)[-1] < 20
    assert ended(start_ranks([*COMMAND, "--resume=latest"], tmp_path, log)) == [0, 0]
    assert not differences(outcome(whole_of_two), outcome(tmp_path))


def test_a_restart_goes_on_with_the_run_of_the_rank_that_died(whole_of_two, tmp_path):
    log = tmp_path / "log.txt"
    ranks = start_ranks(COMMAND, tmp_path, log)
    wait_for(lambda: len(checkpoint.numbered(tmp_path / RUN, checkpoint.STATE)) > 1
             if (tmp_path / RUN).exists() else False, ranks[0])  # fmt: skip
    os.kill(ranks[1].pid, signal.SIGKILL)
    first, second = ended(ranks)
    assert second == -signal.SIGKILL
    assert first != 0
    assert ended(start_ranks(COMMAND, tmp_path, log, RESTARTS="1")) == [0, 0]
    assert "Resuming at" in log.read_text()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["00000-circles-PRP"]
    assert not differences(outcome(whole_of_two), outcome(tmp_path))
    assert kimgs(tmp_path) == sorted(set(kimgs(tmp_path)))


@pytest.mark.slow
def test_torchrun_restarts_after_a_kill(whole_of_two, tmp_path):
    """The same under torchrun itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "--max-restarts=1", ROOT / "toy_train.py", *COMMAND[1:]]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "log.txt", "w") as log:
        parent = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
        run_dir = tmp_path / RUN
        while not run_dir.exists() or len(checkpoint.numbered(run_dir, checkpoint.STATE)) < 2:
            assert parent.poll() is None, (tmp_path / "log.txt").read_text()
        children = subprocess.run(
            ["pgrep", "-P", str(parent.pid)], capture_output=True, text=True, check=True
        )
        os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
        assert parent.wait() == 0, (tmp_path / "log.txt").read_text()
    assert "Resuming at" in (tmp_path / "log.txt").read_text()
    assert not differences(outcome(whole_of_two), outcome(tmp_path))


def test_a_flipped_byte_of_a_state_is_noticed_or_does_not_matter(tmp_path):
    path = tmp_path / "training-state-000000.pt"
    tensor = {"w": torch.arange(50.0)}  # 50 numbers, in a file of some kilobytes
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    content = {"nimg": 5, "model": tensor, "ema": tensor, "optimizer": optimizer}
    checkpoint.save(path, "training-state", content)
    whole, expected = path.read_bytes(), load(path, path.read_bytes())
    data = whole.index(np.arange(50, dtype="<f4").tobytes())
    refused = set()
    everywhere = {*range(0, len(whole), 4), *range(data - 40, data + 240)}
    for i in sorted(everywhere):
        bit = 1 << (i % 8)
        path.write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
        try:
            found = checkpoint.load(path, "training-state")
        except ValueError:
            refused.add(i)
            continue
        assert torch.equal(found["model"]["w"], tensor["w"]), i
        assert found["nimg"] == 5
    assert set(range(data, data + 200)) <= refused
    assert expected["nimg"] == 5
    for size in range(0, len(whole), 397):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=path.name):
            checkpoint.load(path, "training-state")


def test_damaged_states_fall_back_and_none_left_is_an_error(whole, tmp_path):
    shutil.copytree(whole / "out", tmp_path / "out")
    log, states = tmp_path / "log.txt", checkpoint.numbered(tmp_path / RUN, checkpoint.STATE)
    assert len(states) == 2
    raw = bytearray(states[-1].read_bytes())
    raw[len(raw) // 2] ^= 4
    states[-1].write_bytes(raw)
    assert run([*COMMAND, "--resume=latest"], tmp_path, log) == 0
    assert f"Passing over a damaged state: {RUN}/{states[-1].name}" in log.read_text()
    assert not differences(outcome(whole), outcome(tmp_path))
    assert kimgs(tmp_path) == kimgs(whole)
    for state in states:
        state.write_bytes(state.read_bytes()[:-100])
    before = {p.name: p.read_bytes() for p in (tmp_path / RUN).glob("*.[ps][kt]*")}
    assert run([*COMMAND, "--resume=latest"], tmp_path, log) == 2
    (line,) = [x for x in log.read_text().splitlines() if x.startswith("Error:")]
    assert "all 2 training states in it are damaged" in line
    assert before == {p.name: p.read_bytes() for p in (tmp_path / RUN).glob("*.[ps][kt]*")}


def test_a_full_disk_leaves_the_last_state_and_the_run_goes_on_later(whole, tmp_path):
    log = tmp_path / "log.txt"
    assert run([*COMMAND, "--stop_after=0.006"], tmp_path, log) == 0
    states = checkpoint.numbered(tmp_path / RUN, checkpoint.STATE)
    before = {p: p.read_bytes() for p in states}
    # Networks still fit, and states, which are larger, do not.
    most = str(states[-1].stat().st_size // 2)
    assert run([*COMMAND, "--resume=latest", "--stop_after=1"], tmp_path, log, MOST_BYTES=most) == 2
    (line,) = [x for x in log.read_text().splitlines() if x.startswith("Error:")]
    assert f"Error: {RUN}/training-state-" in line
    assert "cannot be written" in line
    assert "Traceback" not in log.read_text()
    assert before == {p: p.read_bytes() for p in states}
    assert not list((tmp_path / RUN).glob(".*"))
    assert run([*COMMAND, "--resume=latest", "--stop_after=1"], tmp_path, log) == 0
    assert not differences(outcome(whole), outcome(tmp_path))


def call(folder, *args):
    folder.mkdir(exist_ok=True)
    arguments = [a for a in COMMON if a != "--outdir=out"]
    return CliRunner().invoke(
        toy_train.main, [f"--outdir={folder / 'out'}", "--duration=0.004", *arguments, *args]
    )


@pytest.fixture
def poisoned(monkeypatch):
    """Step 20 is not finite, in its loss or only its gradient; notes whether weights changed."""
    honest, take = training_loop.flow_loss, training_loop.Trainer._step
    state = {"kind": "loss", "bad": {20}, "unchanged": []}

    def loss(field, x, t, noise, weights, **labels):
        errors = honest(field, x, t, noise, weights, **labels)
        if state["now"] not in state["bad"]:
            return errors
        if state["kind"] == "loss":
            return errors * torch.tensor([1.0, torch.nan])
        return errors + 0 * (errors - errors.detach()).sqrt()  # its gradient is 0/0

    def step(self, net, stream):
        state["now"] = self.nimg // self.options.batch
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        done = take(self, net, stream)
        if not done[1]:
            same = all(torch.equal(v, before[k]) for k, v in self.model.state_dict().items())
            state["unchanged"].append(same)
        return done

    monkeypatch.setattr(training_loop, "flow_loss", loss)
    monkeypatch.setattr(training_loop.Trainer, "_step", step)
    return state


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_with_its_batch(poisoned, tmp_path, kind):
    poisoned["kind"] = kind
    result = call(tmp_path)
    assert result.exit_code == 2
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert ("the loss is nan" if kind == "loss" else "the gradient is not finite") in line
    assert "--skip-nonfinite=" in line
    path = tmp_path / RUN / "nonfinite-batch-000002.pt"
    assert str(path) in line
    batch = torch.load(path, weights_only=True)
    assert batch["nimg"] == 2560
    assert torch.equal(batch["positions"], torch.arange(2560, 2688))
    assert torch.equal(batch["x"], ToySource("circles").samples(0, 2560, 2688, "training"))
    assert batch["t"].shape == batch["loss"].shape == (128,)
    assert batch["noise"].shape == (128, 2)
    assert bool(batch["loss"].isnan().all()) == (kind == "loss")
    state = checkpoint.numbered(tmp_path / RUN, checkpoint.STATE)[-1]
    content = checkpoint.load(state, "training-state")
    assert content["nimg"] == 2048
    assert all(v.isfinite().all() for v in content["model"].values())
    again = call(tmp_path, "--resume=latest", "--skip-nonfinite=1")
    assert again.exit_code == 0, again.output
    assert "Skipped a step at 2.6 kimg" in again.output
    assert poisoned["unchanged"] == [True, True]  # of the run that stopped as well


def test_so_many_are_skipped_and_counted_and_no_more(poisoned, tmp_path):
    poisoned["bad"] = {3, 10, 20}
    few = call(tmp_path / "few", "--skip-nonfinite=2")
    assert few.exit_code == 2
    assert "after 2 steps that were skipped" in few.output
    assert poisoned["unchanged"] == [True, True, True]
    enough = call(tmp_path / "enough", "--skip-nonfinite=3")
    assert enough.exit_code == 0, enough.output
    lines = (tmp_path / "enough" / RUN / "stats.jsonl").read_text().splitlines()
    counts = [json.loads(line)["skipped"] for line in lines]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 3)
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)
    assert "skipped 3" in enough.output
    resumed = call(tmp_path / "few", "--resume=latest", "--skip-nonfinite=3")  # it goes on counting
    assert resumed.exit_code == 0, resumed.output
    assert "skipped 3" in resumed.output
    ends = [network_file.load_network(tmp_path / k / RUN)["state"] for k in ("few", "enough")]
    assert all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())


def test_overflow_of_fp16_is_no_fault_until_the_scale_is_at_its_floor():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for scale, taken in ((2.0**16, True), (SCALE_FLOOR, False)):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(torch.zeros(()))  # which makes it take up its scale
        watch = Watch(TrainOptions(clip=0.0), ROOT, model, optimizer, scaler)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.inf)
        assert bool(watch.look(torch.tensor(1.0)) == 0) is taken
        assert watch.taken() is taken
