"""A step of images: nothing waits for the device, and no draw depends on who makes it."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import toy_train
import train
from tests.helpers import run_script
from tests.image_fixtures import png, write_zip
from tests.image_networks import random_images
from torch_utils.seeding import BLOCKS, PHILOX
from training import guards, network_file, times, training_loop

SMALL = ["--cbase=16", "--cres=1", "--num_blocks=1", "--batch=16", "--tick=0.032", "--lr_rampup=0",
         "--cond", "--augment=0.5", "--dropout=0.3", "--device=cpu", "--no-plot"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return random_images(tmp_path_factory.mktemp("data") / "set.zip")


def call(main, *args):
    return CliRunner().invoke(main, [str(a) for a in args])


def trained(out, data, *args):
    result = call(train.main, f"--outdir={out}", f"--data={data}", *SMALL, *args)
    assert result.exit_code == 0, result.output
    return network_file.load_network(out)["state"]


class Waits(TorchDispatchMode):
    """Notes operations whose result a process has to wait for, were it on a GPU."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "linalg_inv",
            "linalg_solve", "unique", "_assert_async")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        name = f._schema.name.removeprefix("aten::")
        lists = [x for a in args if isinstance(a, (list, tuple)) for x in a]
        masks = any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in lists)
        if name.startswith(self.WAIT) or (name.startswith("index") and masks):
            self.found.append(name)
        return f(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Notes what brings numbers to the process without an operation."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, f, types, args=(), kwargs=None):
        if getattr(f, "__name__", "") in ("tolist", "numpy", "cpu", "item", "new_tensor"):
            self.found.append(f.__name__)
        return f(*args, **(kwargs or {}))


class Paused:
    """Nothing is noted within this block."""

    def __enter__(self):
        self.guards = [torch.utils._python_dispatch._disable_current_modes(),
                       torch._C.DisableTorchFunction()]  # fmt: skip
        for guard in self.guards:
            guard.__enter__()

    def __exit__(self, *exc):
        for guard in reversed(self.guards):
            guard.__exit__(*exc)


@pytest.fixture
def waits(monkeypatch):
    """What steps wait for: one list a step, without the state of the step before."""
    found, take = [], training_loop.Trainer._step

    def step(self, net, stream):
        with Waits() as mode, Reads(mode.found):
            done = take(self, net, stream)
        found.append(mode.found)
        return done

    def outside(function):  # of what is counted: what the CPU does, and the state of the last step
        def call(*args):
            with Paused():
                return function(*args)

        return call

    monkeypatch.setattr(training_loop.Trainer, "_step", step)
    monkeypatch.setattr(times.Times, "batch", outside(times.Times.batch))
    monkeypatch.setattr(guards.Watch, "taken", outside(guards.Watch.taken))
    return found


def test_no_step_waits_for_the_device(data, tmp_path, waits):
    trained(tmp_path, data, "--duration=0.00008", "--batch-gpu=8", "--clip=1")
    assert len(waits) == 5
    assert waits == [[]] * 5


def test_a_step_that_waits_is_noticed(data, tmp_path, waits, monkeypatch):
    honest = training_loop.flow_loss

    def loss(*args, **labels):
        errors = honest(*args, **labels)
        return errors[errors.detach().isfinite()][None] * float(errors.mean() > 0)

    monkeypatch.setattr(training_loop, "flow_loss", loss)
    call(train.main, f"--outdir={tmp_path}", f"--data={data}", *SMALL, "--duration=0.00003")
    assert {"_local_scalar_dense", "index"} <= set(waits[0])


def test_pieces_change_nothing_also_with_dropout(data, tmp_path):
    states = [trained(tmp_path / str(n), data, "--duration=0.00008", f"--batch-gpu={n}")
              for n in (16, 5)]  # fmt: skip
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=2e-3, atol=2e-4)
    other = trained(tmp_path / "other", data, "--duration=0.00008", "--dropout=0.29")
    assert any(not torch.allclose(other[k], v, rtol=2e-3, atol=2e-4) for k, v in states[0].items())


@pytest.mark.slow
def test_two_processes_drop_the_same(data, tmp_path):
    args = [f"--data={data}", *SMALL, "--duration=0.00008"]
    states = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        done = run_script("train.py", f"--outdir={out}", *args, processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        states.append(network_file.load_network(out)["state"])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=2e-3, atol=2e-4)


def test_runs_of_before_keep_their_generator(data, tmp_path, monkeypatch):
    """Options without a generator, as they were written, go on as if nothing had happened."""
    new = trained(tmp_path / "new", data, "--duration=0.00008")
    (path,) = (tmp_path / "new").glob("*/training_options.json")
    assert json.loads(path.read_text())["generator"] == PHILOX
    with monkeypatch.context() as m:
        m.setattr("training.options.PHILOX", BLOCKS)
        whole = trained(tmp_path / "whole", data, "--duration=0.00008")
        trained(tmp_path / "parts", data, "--duration=0.00008", "--stop_after=0.00004")
    (path,) = (tmp_path / "parts").glob("*/training_options.json")
    stored = json.loads(path.read_text())
    assert stored.pop("generator") == BLOCKS
    path.write_text(json.dumps(stored))
    parts = trained(tmp_path / "parts", data, "--resume=latest", "--duration=0.00008")
    assert all(torch.equal(parts[k], v) for k, v in whole.items())
    assert not all(torch.equal(new[k], v) for k, v in whole.items())
    assert json.loads(path.read_text())["generator"] == BLOCKS


def test_out_of_memory_names_the_option(data, tmp_path, monkeypatch):
    def loss(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(training_loop, "flow_loss", loss)
    result = call(
        train.main, f"--outdir={tmp_path}", f"--data={data}", *SMALL, "--duration=0.00003"
    )
    assert result.exit_code == 2
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert "too small for --batch-gpu=16 samples at once; use --batch-gpu=8" in line
    args = [f"--outdir={tmp_path}", "--data_name=circles", "--device=cpu", "--batch-gpu=1"]
    result = call(toy_train.main, *args, "--batch=2", "--duration=0.00003")
    assert "too small for one sample at once" in result.output


@pytest.mark.parametrize(("side", "size"), [(16, 64), (32, 64), (64, 16), (512, 1)])
def test_larger_images_come_in_smaller_pieces(tmp_path, side, size):
    rng = np.random.default_rng(0)
    files = {f"{k}.png": png(rng.integers(0, 256, (side, side), dtype=np.uint8)) for k in (0, 1)}
    data = write_zip(tmp_path / "set.zip", files)
    result = call(train.main, f"--outdir={tmp_path}", f"--data={data}", "-n", "--dims_to_keep=2")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["batch_gpu"] == size


def test_what_is_compiled_and_tf32(data, tmp_path, monkeypatch):
    result = call(train.main, f"--outdir={tmp_path}", f"--data={data}", *SMALL, "--tf32")
    assert result.exit_code == 2
    assert "--tf32 is of CUDA; leave it out or give --device=cuda" in result.output
    options = train.ImageTrainOptions(outdir=str(tmp_path), data=str(data))
    monkeypatch.setattr("torch_utils.distributed.find_spec", lambda name: name)
    assert options.compiles("cuda")
    assert not options.compiles("cpu")
    monkeypatch.setattr("torch_utils.distributed.find_spec", lambda name: None)
    assert not options.compiles("cuda")
