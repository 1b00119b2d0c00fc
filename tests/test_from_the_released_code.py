"""docs/from-the-released-code.md: its column "here" is what the scripts write and take."""

import importlib
import json
import re
from pathlib import Path

import click
import numpy as np
import pytest
import torch

import calc_net_residuals_autocorrelations as residuals
import calc_roundtrip_mse
import pfODE_int
import run_toy_alphashape_mesh_exps
import toy_pfODE_int
import toy_train
from flow.flow import load_flow
from tests.helpers import ROOT, paper_denoiser
from tests.image_networks import digits, good, untrained

DOCUMENT = (ROOT / "docs" / "from-the-released-code.md").read_text()
HEADER = ["where", "released code", "here", "what to write instead"]
# What the released code calls otherwise, each of which has a row.
THEIRS = (
    "net_rdtrp_results.npz", "{schedule}_rdtrp_results.npz", "gt_netout", "dxs", "PRRto30",
    "IFsNet", "Loss/loss", "TB_logs", "train_loss", "flat", "mse", "lssamples_init_ls",
    "lssamples_ds", "ls_end_rdtrp", "_meshes/", "00000-circles-prp", "n - 1", "Fortran",
    "zero labels", "2f+1", "in the network's space", "optimizer_state", "50,000",
    "flat in the logits", "--seed=42", "--bs=800", "--bs=500", "every 10th", "order of the files",
    "Heun with 256", "attention at 16",
)  # fmt: skip
FILE = re.compile(r"[\w{}.-]+\.(npz|jsonl?|png|pkl|pt)")


def rows():
    """(section, where, released code, here, instead) of every row."""
    section = ""
    for line in DOCUMENT.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("|") and not line.startswith(("|---", "| where")):
            cells = [c.strip() for c in line.strip("|").split(" | ")]
            yield section, *cells, *[""] * (4 - len(cells))


def tokens(cell):
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with what the scripts write."""
    out, cpu = tmp_path_factory.mktemp("out"), ["--device=cpu", "--no-plot"]
    network, save = f"--network={out / 'toy'}", f"--save_dir={out}"
    euler = ["--steps=5", "--h=0.5", "--save_freq=1"]
    good(toy_train.main, f"--outdir={out / 'toy'}", "--data_name=circles", "--dims_to_keep=1",
         "--duration=0.002", "--batch=500", "--tick=1", "--tmax=3", *cpu)  # fmt: skip
    good(toy_pfODE_int.main, "net", save, network, "--total_samples=20", *euler, *cpu)
    good(toy_pfODE_int.main, "discrete", save, "--data_name=circles", "--total_samples=20", *euler,
         *cpu)  # fmt: skip
    good(run_toy_alphashape_mesh_exps.main, save, network, *euler[:2], "--test_pts=200",
         "--boundary_pts=20", "--r_num=2", *cpu)  # fmt: skip
    good(residuals.main, "extracttoys", save, network, "--n_time_pts=3", "--h=0.5",
         "--n_samples=20", cpu[0])  # fmt: skip
    root = f"--res_root={out / 'circles_PRRto1D_toy_net_outputs_residuals.npz'}"
    good(residuals.main, "calctoys", save, root, *cpu)
    data = digits(out, 70)
    network = f"--network={untrained(out / 'net.pkl', data, 8)}"
    images = [save, network, f"--data_root={data}"]
    few = ["--solver=ab2", "--steps=2", *cpu]
    good(pfODE_int.main, *images, *few, "--bs=5")
    good(calc_roundtrip_mse.main, *images, *few, "--total_samples=5")
    good(residuals.main, "extract", *images, "--n_time_pts=2", "--n_samples=5", cpu[0])
    return out


def found(written, pattern):
    """Files of a name in which {...} stands for anything."""
    name = re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(pattern)))
    return [p for p in written.rglob("*") if name.fullmatch(p.name)]


def keys(path):
    if path.suffix == ".npz":
        with np.load(path) as f:
            return set(f.files)
    return set(
        json.loads(
            path.read_text().splitlines()[0] if path.suffix == ".jsonl" else path.read_text()
        )
    )


def options(script):
    """Option -> its default, over all commands of a script."""
    main = importlib.import_module(Path(script).stem).main
    commands = main.commands.values() if isinstance(main, click.Group) else [main]
    return {o: p.default for c in commands for p in c.params for o in p.opts}


def test_every_published_name_has_a_row():
    theirs = " ".join(row[2] for row in rows())
    assert [name for name in THEIRS if name not in theirs] == []
    assert all(len(row) == 5 for row in rows())
    assert DOCUMENT.count("| " + " | ".join(HEADER) + " |") == 4


def test_published_files_are_called_here_what_the_table_says(written):
    checked = 0
    for section, *cells in rows():
        if section == "Names of files":
            for token in tokens(cells[2]):
                if FILE.fullmatch(token) and token != "loss.png":  # --no-plot
                    assert found(written, token), token
                    checked += 1
                elif token.startswith("00000-"):
                    assert found(written, token)[0].is_dir()
    assert checked == 10


def test_published_keys_are_called_here_what_the_table_says(written):
    for section, *cells in rows():
        if section == "What is in them":
            (pattern,) = tokens(cells[0])
            files = [p for p in found(written, pattern) if "toy" not in p.name or "toy" in pattern]
            assert files, pattern
            names = {t for t in tokens(cells[2]) if not t.startswith("--")}
            assert names
            for path in files:
                assert names <= keys(path), (path, names)


def test_published_options_are_here_what_the_table_says():
    for section, *cells in rows():
        if cells[0].endswith(".py"):
            known = options(cells[0])
            for token in tokens(cells[2] + cells[3]):
                name, _, _ = token.partition("=")
                assert not name.startswith("--") or name in known, token
            for token in tokens(cells[2]):
                name, _, value = token.partition("=")
                if section == "Defaults":
                    assert str(known[name]) == value


def test_what_to_write_instead_gives_the_published_numbers(written):
    """The expressions of the table, beside what the released code stores."""
    (path,) = (written / "toy").iterdir()
    flow = load_flow(path, "cpu")
    with np.load(written / "circles_PRRto1D_net_melt_results.npz") as arrays:
        f = dict(arrays)
    instead = [token for _, *cells in rows() for token in tokens(cells[3])]
    names = {"np": np, "torch": torch, "f": f, "flow": flow}
    output, score, steps = (
        eval(next(t for t in instead if part in t), names)
        for part in ("encode(", "unscaled_scores", "np.diff")
    )
    x = torch.from_numpy(f["tilde_xs_es"][0])
    D = paper_denoiser(flow.model, x, torch.zeros(20).double())
    torch.testing.assert_close(output, D, rtol=1e-4, atol=1e-6)
    gamma = flow.schedule.gamma(0.0)[0]
    torch.testing.assert_close(torch.from_numpy(score), (D - x) / gamma, rtol=1e-3, atol=1e-3)
    dt = np.diff(f["t"])[:, None, None]
    np.testing.assert_allclose(steps, f["dxs"][:-1] * dt, rtol=1e-4, atol=1e-7)
