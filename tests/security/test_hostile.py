"""Files that try to run something or to take memory: refused by every script that takes a file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import calc_net_residuals_autocorrelations
import calc_nll
import calc_roundtrip_mse
import dataset_tool
import fid
import gen_fid_samples
import pfODE_int
import run_toy_alphashape_mesh_exps
import toy_MCMC_exps
import toy_pfODE_int
import toy_train
import train
from experiments.density import langevin
from flow.inflation_file import read_melt
from metrics.detectors import load_detector
from metrics.image_stream import open_stream
from tests.helpers import ROOT, run_script
from tests.image_networks import call, digits
from tests.security import hostile
from tests.security.bounds import MIB, about_memory, memory_bound
from torch_utils import checkpoint
from training import network_file
from training.networks import tool as network_tool

# Script and the option that names a file -> the other options that it needs.
NETWORK_SCRIPTS = {
    "toy_pfODE_int": (toy_pfODE_int.main, ["net", "--save_dir={out}", "--network={file}"]),
    "pfODE_int": (pfODE_int.main, ["--save_dir={out}", "--data_root=x", "--network={file}"]),
    "gen_fid_samples": (gen_fid_samples.main, ["--save_dir={out}", "--network={file}"]),
    "calc_roundtrip_mse": (
        calc_roundtrip_mse.main,
        ["--save_dir={out}", "--data_root=x", "--network={file}"],
    ),
    "calc_nll toys": (calc_nll.main, ["toys", "--save_dir={out}", "--network={file}"]),
    "calc_nll net": (
        calc_nll.main,
        ["net", "--save_dir={out}", "--data_root=x", "--network={file}"],
    ),
    "toy_MCMC_exps": (toy_MCMC_exps.main, ["--outdir={out}", "--network={file}"]),
    "run_toy_alphashape_mesh_exps": (
        run_toy_alphashape_mesh_exps.main,
        ["--save_dir={out}", "--network={file}"],
    ),
    "autocorrelations extract": (
        calc_net_residuals_autocorrelations.main,
        ["extract", "--save_dir={out}", "--data_root=x", "--network={file}"],
    ),
    "autocorrelations extracttoys": (
        calc_net_residuals_autocorrelations.main,
        ["extracttoys", "--save_dir={out}", "--network={file}"],
    ),
    "langevin": (langevin.main, ["--save_dir={out}", "--network={file}"]),
    "checkpoint info": (network_tool.main, ["info", "{file}"]),
    "checkpoint verify": (network_tool.main, ["verify", "{file}"]),
    "checkpoint convert": (network_tool.main, ["convert", "{file}", "{out}/new.pkl"]),
}
DATA_SCRIPTS = {
    "toy_train .npy": (toy_train.main, ["--outdir={out}", "--data={file}"], ".npy"),
    "toy_train .npz": (toy_train.main, ["--outdir={out}", "--data={file}"], ".npz"),
    "toy_train .csv": (toy_train.main, ["--outdir={out}", "--data={file}"], ".csv"),
    "train --data": (train.main, ["--outdir={out}", "--data={file}"], ".zip"),
    "dataset_tool .zip": (dataset_tool.main, ["--source={file}", "--dest={out}/d.zip"], ".zip"),
    "dataset_tool .tar.gz": (
        dataset_tool.main,
        ["--source={file}", "--dest={out}/d.zip"],
        ".tar.gz",
    ),
    "dataset_tool .gz": (dataset_tool.main, ["--source={file}", "--dest={out}/d.zip"], ".gz"),
    "fid --ref": (fid.main, ["calc", "--images=x", "--ref={file}"], ".npz"),
    "fid --data": (fid.main, ["ref", "--data={file}", "--dest={out}/r.npz"], ".zip"),
}


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "a file was run"


def quick(canary: Path) -> dict[str, bytes]:
    """The hostile files that are refused at once."""
    files = hostile.all_files(canary)
    return {k: v for k, v in files.items() if not k.startswith(hostile.SLOW)}


def refused(main, arguments: list[str], file: Path, out: Path) -> str:
    """The line by which a script refuses a file."""
    arguments = [a.format(file=file, out=out) for a in arguments]
    result = call(main, *arguments)
    lines = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert result.exit_code == 2, (arguments, result.output, result.exception)
    assert len(lines) == 1, (arguments, result.output)
    assert "Traceback" not in result.output
    assert lines[0].isprintable()
    return lines[0]


def test_there_are_many_and_they_are_real(tmp_path):
    """Unpickled in the usual way, each of the first kind runs its command."""
    canaries = {k: tmp_path / str(i) for i, k in enumerate(hostile.executing(tmp_path))}
    assert len(canaries) >= 25
    assert len(hostile.all_files(tmp_path)) > 150
    files = {k: hostile.executing(path)[k] for k, path in canaries.items()}
    code = (
        "import pickle, sys\n"
        "for data in pickle.load(sys.stdin.buffer).values():\n"
        "    try:\n"
        "        r = pickle.loads(data)\n"
        "        getattr(r, 'wait', getattr(r, 'close', int))()\n"
        "    except Exception:\n"
        "        pass\n"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(files), cwd=ROOT, check=True)
    assert [k for k, path in canaries.items() if not path.exists()] == []


@pytest.mark.parametrize("kind", ["network", "training-state", "basis"])
def test_no_hostile_file_is_read_and_none_takes_memory(kind, tmp_path, canary):
    path = tmp_path / "net.pkl"
    files = hostile.all_files(canary) if kind == "network" else quick(canary)
    for name, data in files.items():
        path.write_bytes(data)
        with memory_bound(256 * MIB), pytest.raises(ValueError, match="not a") as error:
            network_file.read(path) if kind == "network" else checkpoint.load(path, kind)
        assert str(error.value).isprintable(), name
        assert not about_memory(error.value), (name, error.value)
        assert len(str(error.value)) < 400
        assert not canary.exists(), name


@pytest.mark.parametrize("script", NETWORK_SCRIPTS)
def test_scripts_refuse_hostile_networks(script, tmp_path, canary):
    main, arguments = NETWORK_SCRIPTS[script]
    path, out = tmp_path / "net.pkl", tmp_path / "out"
    for data in quick(canary).values():
        path.write_bytes(data)
        assert "net.pkl" in refused(main, arguments, path, out)
        assert not canary.exists()
    assert not out.exists()


@pytest.mark.parametrize("script", DATA_SCRIPTS)
def test_scripts_refuse_hostile_data(script, tmp_path, canary):
    main, arguments, suffix = DATA_SCRIPTS[script]
    path, out = tmp_path / f"data{suffix}", tmp_path / "out"
    for data in quick(canary).values():
        path.write_bytes(data)
        assert "data" in refused(main, arguments, path, out)
        assert not canary.exists()
    assert not out.exists()


def test_train_refuses_hostile_networks_to_transfer(tmp_path, canary):
    data = digits(tmp_path, 40)
    small = ["--cbase=16", "--cres=1,2", "--batch=20", "--duration=0.001", "--device=cpu"]
    files = list(quick(canary).values())[::12]
    path = tmp_path / "net.pkl"
    for content in files:
        path.write_bytes(content)
        arguments = ["--outdir={out}", f"--data={data}", "--transfer={file}", *small]
        assert "--transfer" in refused(train.main, arguments, path, tmp_path / "out")
        assert not canary.exists()
    assert not (tmp_path / "out").exists()


def test_training_goes_on_from_no_hostile_state(tmp_path, canary):
    arguments = ["--data_name=circles", "--batch=64", "--duration=0.001", "--tick=1", "--dump=1"]
    arguments += ["--device=cpu", "--no-plot"]
    assert call(toy_train.main, f"--outdir={tmp_path}", *arguments).exit_code == 0
    (run,) = (p for p in tmp_path.iterdir() if p.is_dir())
    for content in list(quick(canary).values())[::60]:
        (run / "training-state-000009.pt").write_bytes(content)
        result = call(toy_train.main, f"--outdir={tmp_path}", "--resume=latest", *arguments)
        assert result.exit_code == 0, result.output
        assert "Passing over a damaged state" in result.output
        assert not canary.exists()


@pytest.mark.parametrize(
    "content", [b"[1]", b"7", b"{}", b'{"arch": []}', b"\x80\x04N.", b"[" * 9999]
)
def test_damaged_options_of_a_run_are_refused(content, tmp_path):
    (tmp_path / "training_options.json").write_bytes(content)
    for main in (toy_train.main, train.main):
        assert "--resume" in refused(main, ["--resume={file}"], tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["storage that runs (pickle)"])
def test_the_same_from_a_shell(name, tmp_path, canary):
    path = tmp_path / "net.pkl"
    path.write_bytes(hostile.all_files(canary)[name])
    shell = run_script("toy_pfODE_int.py", "net", f"--save_dir={tmp_path}", f"--network={path}")
    assert shell.returncode == 2
    assert len(shell.stderr.strip().splitlines()) == 1
    assert "Traceback" not in shell.stdout + shell.stderr


def test_what_a_state_lacks_is_said(tmp_path):
    path = tmp_path / "training-state-000001.pt"
    checkpoint.save(path, "training-state", {"nimg": 5, "model": {}, "ema": {}})
    with pytest.raises(ValueError, match="lacks the entry 'optimizer'"):
        checkpoint.load(path, "training-state")
    checkpoint.save(path, "basis", {"mean": json.dumps({})})
    with pytest.raises(ValueError, match="'mean' as a str"):
        checkpoint.load(path, "basis")


def test_readers_behind_a_network_refuse_too(tmp_path, canary):
    """Files that scripts open only after their network: --prev_melt, --images and --detector."""
    readers = {
        ".npz": [lambda p: read_melt(p, None), open_stream],
        ".pt": [lambda p: load_detector(str(p), None, "pixels", torch.device("cpu"))],
    }
    for data in quick(canary).values():
        for suffix, functions in readers.items():
            path = tmp_path / f"data{suffix}"
            path.write_bytes(data)
            for read in functions:
                with memory_bound(256 * MIB), pytest.raises(ValueError, match="data") as error:
                    read(path)
                assert "\n" not in str(error.value)
                assert not canary.exists()
