"""Machines with disks of their own: what differs or is missing ends all, in a line on each."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch

from tests.faults import harness
from tests.helpers import ROOT
from tests.image_fixtures import pixels, png, write_zip
from tests.scripts.test_fid import Tiny
from torch_utils import checkpoint
from training import network_file

TOY = ["toy_train", "--outdir=out", "--data=mine.csv", "--duration=0.002", "--batch=200",
       "--no-plot", "--device=cpu"]  # fmt: skip
IMAGES = ["train", "--outdir=out", "--data=set.zip", "--cbase=16", "--cres=1", "--num_blocks=1",
          "--batch=4", "--duration=0.000008", "--dropout=0", "--no-plot",
          "--device=cpu"]  # fmt: skip
SIMULATE = ["toy_pfODE_int", "net", "--network=net.pkl", "--save_dir=flow", "--total_samples=10",
            "--no-plot", "--device=cpu"]  # fmt: skip
WHO = "rank 1 on machine 1"


def together(folder, commands, of_one_machine=False, envs=({}, {})):
    """Run a command in each of two processes, in folders of their own; exit codes and logs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2" if of_one_machine else "1"}
    processes, logs = [], [folder / f"log{r}.txt" for r in range(2)]
    for r, (command, env) in enumerate(zip(commands, envs, strict=True)):
        where = {"RANK": str(r), "LOCAL_RANK": str(r * of_one_machine)}
        where["GROUP_RANK"] = str(r * (not of_one_machine))
        logs[r].unlink(missing_ok=True)
        processes.append(
            harness.start(command, folder / f"n{r}", logs[r], **common, **where, **env)
        )
    for process in processes:
        process.join(120)
        assert process.exitcode is not None, "it waits for ever"
    return [p.exitcode for p in processes], [log.read_text() for log in logs]


def errors(log):
    return [line for line in log.splitlines() if line.startswith("Error:")]


def refused(folder, commands, **more):
    """The one line that both machines say."""
    codes, logs = together(folder, commands, **more)
    assert codes == [2, 2], logs
    first, second = map(errors, logs)
    assert first == second
    assert len(first) == 1
    assert "Traceback" not in logs[0] + logs[1]
    return first[0]


def table(path, seed=0, rows=300):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.random.default_rng(seed).standard_normal((rows, 2)), delimiter=",")


def image_set(path, seed=0):
    path.parent.mkdir(exist_ok=True)
    return write_zip(path, {f"{i}.png": png(x) for i, x in enumerate(pixels(24, seed=seed))})


@pytest.fixture(scope="module")
def toy_net(tmp_path_factory):
    """Networks of two lengths, on circles."""
    folder = tmp_path_factory.mktemp("nets")
    for name in ("a", "b"):
        command = ["toy_train", f"--outdir={name}", "--data_name=circles", "--batch=200",
                   f"--seed={ord(name)}", "--duration=0.002", "--no-plot"]  # fmt: skip
        assert harness.run(command, folder, folder / "log") == 0
        shutil.copy(checkpoint.find_network(folder / name), folder / f"{name}.pkl")
    return folder


def test_data_that_one_lacks(tmp_path):
    table(tmp_path / "n0/mine.csv")
    line = refused(tmp_path, [TOY, TOY])
    assert line.startswith(f"Error: {WHO} (")
    assert "mine.csv: no such file" in line


def test_other_data_on_one(tmp_path):
    for r in range(2):
        table(tmp_path / f"n{r}/mine.csv", seed=r)
    line = refused(tmp_path, [TOY, TOY])
    assert line.startswith(f"Error: {WHO}")
    assert "has another --data=mine.csv (sha256 " in line
    assert not (tmp_path / "n0/out").exists()


@pytest.mark.parametrize(
    ("which", "kept"),
    [
        (0, "whole"),
        (1, "damaged"),
        pytest.param(1, "whole", marks=pytest.mark.slow),
        pytest.param(0, "damaged", marks=pytest.mark.slow),
    ],
)
def test_a_basis_kept_on_one_machine(tmp_path, which, kept):
    image_set(tmp_path / "alone/set.zip")
    for r in range(2):
        image_set(tmp_path / f"n{r}/set.zip")
    assert harness.run(IMAGES, tmp_path / "alone", tmp_path / "log") == 0
    (basis,) = (tmp_path / "alone").glob("set.basis-*.pt")
    there = tmp_path / f"n{which}" / basis.name
    there.write_bytes(basis.read_bytes()[: None if kept == "whole" else 1000])
    codes, logs = together(tmp_path, [IMAGES, IMAGES])
    assert codes == [0, 0], logs
    found = checkpoint.load(tmp_path / "n0" / basis.name, "basis")
    for key, value in checkpoint.load(basis, "basis").items():
        assert torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value


def test_machines_with_other_images_leave_no_basis(tmp_path):
    for r in range(2):
        image_set(tmp_path / f"n{r}/set.zip", seed=r)
    assert "another --data=set.zip" in refused(tmp_path, [IMAGES, IMAGES])
    assert not list(tmp_path.glob("n*/*.pt"))


@pytest.mark.parametrize("there", [None, "b.pkl"])
def test_a_network_that_one_lacks_or_has_otherwise(tmp_path, toy_net, there):
    for r, name in enumerate(("a.pkl", there)):
        (tmp_path / f"n{r}").mkdir()
        if name:
            shutil.copy(toy_net / name, tmp_path / f"n{r}/net.pkl")
    line = refused(tmp_path, [SIMULATE, SIMULATE])
    assert line.startswith(f"Error: {WHO}")
    assert "net.pkl: no such file" in line if there is None else "another --network=net.pkl" in line


def test_options_and_code_that_differ(tmp_path):
    for r in range(2):
        table(tmp_path / f"n{r}/mine.csv")
    line = refused(tmp_path, [TOY, [*TOY, "--lr=0.002"]])
    assert "rank 1 on machine 1" in line
    assert "has --lr=0.002, rank 0 on machine 0" in line
    assert "has --lr=None: all processes must have the same" in line
    command = ["tests.faults.failing"]
    line = refused(tmp_path, [command, command], envs=({}, {"OTHER_CODE": "abc"}))
    assert "(sha256 abc), rank 0" in line
    assert f"has the code in {ROOT}" in line


def test_where_files_lie_may_differ(tmp_path):
    table(tmp_path / "n0/mine.csv")
    table(tmp_path / "n1/elsewhere/mine.csv")
    there = [word.replace("mine.csv", "elsewhere/mine.csv") for word in TOY]
    codes, logs = together(tmp_path, [TOY, there])
    assert codes == [0, 0], logs


def test_a_run_that_only_machine_0_has_goes_on(tmp_path):
    (tmp_path / "n0").mkdir()
    for r in range(2):
        table(tmp_path / f"n{r}/mine.csv")
    assert together(tmp_path, [TOY, TOY])[0] == [0, 0]
    assert not (tmp_path / "n1/out").exists()
    longer = [*TOY[:3], "--duration=0.004", *TOY[4:], "--resume=latest"]
    codes, logs = together(tmp_path, [longer, longer])
    assert codes == [0, 0], logs
    assert "Resuming at 2.0 kimg" in logs[0]
    assert network_file.load_network(tmp_path / "n0/out")["info"]["kimg"] == 4
    assert not (tmp_path / "n1/out").exists()


@pytest.mark.parametrize("how", ["early", "late"])
def test_an_error_of_one_rank_ends_both(tmp_path, how):
    command = ["tests.faults.failing", f"--how={how}", "--ranks=1"]
    assert refused(tmp_path, [command, command]).startswith(f"Error: {WHO} (")
    codes, logs = together(tmp_path, [command, command], of_one_machine=True)
    assert codes == [2, 2]
    assert errors(logs[0] + logs[1]) == [f"Error: rank 1: --how={how}: cannot be"]


def test_an_error_of_all_ranks_is_one_line(tmp_path):
    command = ["tests.faults.failing", "--how=early", "--ranks=0,1"]
    codes, logs = together(tmp_path, [command, command], of_one_machine=True)
    assert (codes, errors(logs[0] + logs[1])) == ([2, 2], ["Error: --how=early: cannot be"])
    wrong = ["tests.faults.failing", "--nonsense"]
    codes, logs = together(tmp_path, [wrong, wrong], of_one_machine=True)
    assert codes == [2, 2]
    (line,) = errors(logs[0] + logs[1])
    assert "--nonsense" in line


def test_a_fault_of_one_rank_ends_both(tmp_path):
    command = ["tests.faults.failing", "--how=fault", "--ranks=1"]
    codes, logs = together(tmp_path, [command, command])
    assert codes == [1, 1]
    assert logs[1].count("Traceback") == 1
    assert "Traceback" not in logs[0]
    (line,) = errors(logs[0])
    assert f"{WHO} (" in line
    assert "KeyError: 'nothing here'" in line


def start_agents(folder, command):
    """Start a command under torchrun on each of two machines, in folders of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    agents = []
    for r in range(2):
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={r}",
                 "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}",
                 f"{ROOT}/{command[0]}.py", *command[1:]]  # fmt: skip
        with open(folder / f"agent{r}.txt", "w") as log:
            agents.append(
                subprocess.Popen(words, cwd=folder / f"n{r}", env=env, stdout=log, stderr=log)
            )
    return agents


def by_agents(folder, command):
    """Run a command so; its output on the first machine."""
    codes = [agent.wait(300) for agent in start_agents(folder, command)]
    logs = [(folder / f"agent{r}.txt").read_text() for r in range(2)]
    assert codes == [0, 0], logs
    return logs[0]


@pytest.mark.slow
def test_two_machines_from_training_to_fid(tmp_path):
    """Killed and gone on with, the network is that of processes of one folder; then the FID."""
    for name in ("n0", "n1", "one"):
        image_set(tmp_path / f"{name}/set.zip")
    train = [*IMAGES[:-4], "--duration=0.0004", "--tick=0.02", "--snap=1000", "--dump=1",
             "--dropout=0", "--no-plot", "--device=cpu"]  # fmt: skip
    assert harness.ended(harness.start_ranks(train, tmp_path / "one", tmp_path / "log")) == [0, 0]
    agents = start_agents(tmp_path, train)
    run = tmp_path / "n0/out/00000-set-PRP"
    stats = run / "stats.jsonl"
    harness.wait_for(
        lambda: stats.exists() and stats.read_text().count("\n") > 2, Alive(agents)
    )  # so that there is a state
    for agent in agents:  # and what it has started
        for child in psutil.Process(agent.pid).children(recursive=True):
            child.kill()
        agent.kill()
        agent.wait()
    assert not (run / "network-snapshot-000000.pkl").exists()
    assert "Resuming at" in by_agents(tmp_path, [*train, "--resume=latest"])
    assert not (tmp_path / "n1/out").exists()
    ends = [network_file.load_network(tmp_path / k / "out")["state"] for k in ("one", "n0")]
    assert all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())
    for r in range(2):
        shutil.copy(checkpoint.find_network(run), tmp_path / f"n{r}/net.pkl")
    images = tmp_path / "images"  # the disk that generation shares
    by_agents(tmp_path, ["gen_fid_samples", f"--save_dir={images}", "--network=net.pkl",
                         "--seeds=0-9", "--bs=3", "--solver=ab2", "--steps=2", "--no-plot",
                         "--device=cpu"])  # fmt: skip
    assert len(list(images.glob("*.png"))) == 10
    torch.jit.script(Tiny(0)).save(str(tmp_path / "tiny.pt"))
    how = [f"--detector={tmp_path / 'tiny.pt'}", "--detector-input=pixels", "--device=cpu"]
    by_agents(tmp_path, ["fid", "ref", "--data=set.zip", f"--dest={tmp_path / 'ref.npz'}", *how])
    by_agents(tmp_path, ["fid", "calc", f"--images={images}", f"--ref={tmp_path / 'ref.npz'}",
                         "--dest=fid.json", *how])  # fmt: skip
    assert json.loads((tmp_path / "n0/fid.json").read_text())
    assert not (tmp_path / "n1/fid.json").exists()


class Alive:
    """Several processes as one, of which `harness.wait_for` asks whether it has ended."""

    def __init__(self, processes):
        self.processes = processes

    @property
    def exitcode(self):
        return next((p.returncode for p in self.processes if p.poll() is not None), None)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["missing", "other", "basis"])
def test_two_agents_of_torchrun(tmp_path, case):
    """The same with torchrun itself, whose agents wait for each other."""
    for r in range(2):
        image_set(tmp_path / f"n{r}/set.zip", seed=r if case == "other" else 0)
    if case == "missing":
        (tmp_path / "n1/set.zip").unlink()
    if case == "basis":
        assert harness.run(IMAGES, tmp_path / "n0", tmp_path / "log") == 0
    agents = start_agents(tmp_path, IMAGES)
    for agent in agents:
        agent.wait(120)
    logs = [(tmp_path / f"agent{r}.txt").read_text() for r in range(2)]
    if case == "basis":
        assert [agent.returncode for agent in agents] == [0, 0], logs
        return
    for log in logs:
        (line,) = errors(log)
        assert f"{WHO} (" in line
        assert "set.zip" in line
    assert "exitcode  : 2" in logs[1]


def test_results_of_two_processes_say_their_network(tmp_path, toy_net):
    for r in range(2):
        (tmp_path / f"n{r}").mkdir()
        shutil.copy(toy_net / "a.pkl", tmp_path / f"n{r}/net.pkl")
    codes, logs = together(tmp_path, [SIMULATE, SIMULATE])
    assert codes == [0, 0], logs
    (told,) = (tmp_path / "n0/flow").glob("*sim_params.json")
    assert len(json.loads(told.read_text())["results"]["network_sha256"]) == 64
    shutil.copy(toy_net / "b.pkl", tmp_path / "n0/net.pkl")
    shutil.copy(toy_net / "b.pkl", tmp_path / "n1/net.pkl")
    line = refused(tmp_path, [SIMULATE, SIMULATE])
    assert "--save_dir=flow" in line
    assert "another network" in line
