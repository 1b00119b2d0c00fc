"""One process and two give the same numbers: basis, integration, generation, training."""

import numpy as np
import pytest
import torch

from tests.helpers import random_basis, run_script
from torch_utils import distributed
from training import network_file
from training.networks.toy import ToyMLP
from training.precond import InflationPrecond
from training.schedule import Schedule

WORKER = """
import os
import sys
import time
import numpy as np
import torch
from torch_utils import distributed
from tests.helpers import three_blobs
from training.basis import eigenbasis
from flow.method import Method
from flow.simulation import simulate
from training.data.toys import ToySource

with distributed.session("cpu"):
    source = ToySource("s_curve")
    basis = eigenbasis(source.basis_batches(), 3)
    flow, _ = three_blobs(3, 2)
    method = Method("rk4", 8, flow.schedule.tmax)
    x = flow.sample(5000, seed=1, steps=2)

    def data(block):
        return flow.to_whitened(x[block.start : block.stop], 0.0, "unscaled")

    def latents(block):
        return flow.latents(len(block), 7, start=block.start)

    melt = simulate(flow, method, 5000, data, False, None, "inflation")
    gen = simulate(flow, method, 5000, latents, True, None, "generation")
    with distributed.rank0_first():
        if distributed.is_main():
            time.sleep(0.5)
            open(sys.argv[1] + ".first", "w").close()
        assert os.path.exists(sys.argv[1] + ".first")
    assert distributed.any_rank(distributed.rank() == distributed.world_size() - 1)
    assert not distributed.any_rank(False)
    # every rank holds the same basis, bit for bit
    mine = torch.cat([basis.mean, basis.xi, basis.W.flatten()])
    assert torch.equal(mine, distributed.broadcast_(mine.clone()))
    if distributed.is_main():
        np.savez(sys.argv[1], W=basis.W, xi=basis.xi, mean=basis.mean,
                 melt=melt.arrays["xs_es"], gen=gen.arrays["tilde_xs"])
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "worker.py").write_text(WORKER)
    results = []
    for processes in (1, 2):
        out = folder / f"{processes}.npz"
        done = run_script(folder / "worker.py", out, processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(dict(np.load(out)))
    return results


@pytest.mark.parametrize("key", ["mean", "xi", "W"])
def test_basis_of_two_processes(outcomes, key):
    one, two = outcomes  # sums are added in another order: rounding is all that may differ
    np.testing.assert_allclose(one[key], two[key], rtol=0, atol=1e-11)


@pytest.mark.parametrize("key", ["melt", "gen"])
def test_simulations_of_two_processes_are_identical(outcomes, key):
    one, two = outcomes
    assert one[key].shape == two[key].shape == (9, 5000, 3)
    np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.slow
def test_discrete_flow_on_two_processes(tmp_path):
    states = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        args = ["discrete", "--save_dir", out, "--data_name=circles", "--dims_to_keep=1"]
        args += ["--total_samples=2500", "--solver=ab2", "--steps=4", "--no-plot", "--device=cpu"]
        done = run_script("toy_pfODE_int.py", *args, processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        states.append(np.load(out / "circles_PRRto1D_melt_results.npz")["xs_es"])
    np.testing.assert_allclose(states[0], states[1], rtol=0, atol=1e-10)


def trained_by(processes, out, *more):
    args = ["--outdir", out, "--data_name", "circles", "--duration", 0.02, "--batch", 1000]
    args += ["--batch-gpu", 300, "--tick", 10, "--no-plot", "--device", "cpu", *more]
    done = run_script("toy_train.py", *args, processes=processes)
    assert done.returncode == 0, done.stderr[-2000:]
    return network_file.load_network(out)["state"]


def test_training_on_two_processes(tmp_path):
    one, two = (trained_by(n, tmp_path / str(n)) for n in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_second_order_on_two_processes(tmp_path):
    trained_by(1, tmp_path / "1")
    best = ["--weighting=likelihood", "--importance", "--second_order"]
    best += ["--transfer", tmp_path / "1", "--clip=1"]
    one, two = (trained_by(n, tmp_path / f"second-{n}", *best) for n in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-5)


def test_shares_cover_everything_once(monkeypatch):
    seen = []
    for name, value in {"WORLD_SIZE": 3, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        seen += [i for block in distributed.share(1000, 64) for i in block]
    assert sorted(seen) == list(range(1000))


def test_a_missing_device_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device=cuda: no CUDA device here; use --device=cpu"):
        distributed.pick_device("cuda")
    assert distributed.pick_device("auto").type == "cpu"


def test_tf32_is_off_after_init(monkeypatch):
    """PyTorch leaves it on for convolutions; whoever turned it on by either interface."""
    settings = torch.backends
    cuda, cudnn = settings.cuda.matmul, settings.cudnn
    cuda.allow_tf32 = cudnn.allow_tf32 = True
    distributed.init("cpu")
    assert not cuda.allow_tf32
    assert not cudnn.allow_tf32
    if hasattr(settings, "fp32_precision"):
        settings.fp32_precision = cudnn.conv.fp32_precision = "tf32"
        distributed.init("cpu")
        found = {p.fp32_precision for p in (settings, cuda, cudnn, cudnn.conv, cudnn.rnn)}
        assert found == {"ieee"}
        distributed.set_tf32(True)
        assert cuda.allow_tf32
        assert cudnn.allow_tf32
        distributed.init("cpu")
        with cudnn.flags(enabled=True, allow_tf32=False):  # raises where interfaces are at odds
            assert not cudnn.allow_tf32


def test_small_work_is_for_one_thread(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(distributed, "_threads", 8)
    distributed.use_threads(1e6)
    assert chosen == []  # OMP_NUM_THREADS is set for tests
    monkeypatch.delenv("OMP_NUM_THREADS")
    distributed.use_threads(1e6)
    distributed.use_threads(1e12)
    assert chosen == [1, 8]


def test_the_size_of_work():
    """Multiplications and additions of matrices, counted by hand."""
    basis = random_basis([2.0, 1.0])
    schedule = Schedule(basis.xi, 2)
    network = ToyMLP(2)
    model = InflationPrecond(network, schedule, basis)
    weights = sum(w.numel() for w in network.parameters() if w.dim() == 2)
    rotation = 2 * 2  # between eigenbasis and the data's own coordinates, at most twice
    assert 2 * weights * 5 <= model.operations(5) <= 2 * (weights + 2 * rotation) * 5
