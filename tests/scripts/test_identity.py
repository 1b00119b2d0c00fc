"""Data are their content, wherever they lie; results are those of one network."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

import calc_net_residuals_autocorrelations as residuals
import calc_nll
import calc_roundtrip_mse
import pfODE_int
import run_toy_alphashape_mesh_exps
import toy_pfODE_int
import toy_train
import train
from experiments.density import langevin
from tests.image_fixtures import pixels, png, write_zip
from tests.image_networks import error_line, good, untrained
from torch_utils import checkpoint
from training.data import toys as toy_data
from training.data.toys import ToySource
from training.data.vectors import VectorSource
from training.options import OPTIONS_FILE

QUICK = ["--duration=0.0004", "--batch=200", "--no-plot", "--device=cpu"]
LONGER = ["--duration=0.0008", *QUICK[1:]]
SMALL = ["--cbase=16", "--cres=1", "--num_blocks=1", "--batch=4", "--lr_rampup=0", "--no-plot",
         "--device=cpu"]  # fmt: skip


def rows(path, seed=0):
    x = np.random.default_rng(seed).standard_normal((50, 2))
    save = np.save if path.suffix == ".npy" else lambda p, x: np.savetxt(p, x, delimiter=",")
    path.parent.mkdir(exist_ok=True)
    save(path, x)
    return path


@pytest.fixture
def run(tmp_path):
    """A run on mine.npy, in out."""
    data = rows(tmp_path / "mine.npy")
    good(toy_train.main, f"--outdir={tmp_path / 'out'}", f"--data={data}", *QUICK)
    return tmp_path / "out/00000-mine-PRP"


@pytest.mark.parametrize("resume", ["latest", "folder"])
def test_a_run_goes_on_where_its_data_have_moved(tmp_path, run, resume):
    there = tmp_path / "elsewhere/other.npy"
    there.parent.mkdir()
    shutil.move(tmp_path / "mine.npy", there)
    resume = run if resume == "folder" else resume
    said = good(toy_train.main, f"--outdir={run.parent}", f"--data={there}", *LONGER,
                f"--resume={resume}")  # fmt: skip
    assert "Resuming at 0.4 kimg" in said
    assert json.loads((run / OPTIONS_FILE).read_text())["data"] == str(there)
    assert len(list(run.parent.iterdir())) == 1


def test_a_run_does_not_go_on_with_other_rows(tmp_path, run):
    rows(tmp_path / "mine.npy", seed=1)
    for resume in ("latest", run):
        line = error_line(toy_train.main, f"--outdir={run.parent}", f"--resume={resume}", *LONGER,
                          f"--data={tmp_path / 'mine.npy'}")  # fmt: skip
        assert f"was trained on other data than --data={tmp_path / 'mine.npy'} has now" in line
    line = error_line(toy_train.main, f"--resume={run}", "--duration=0.0008", "--device=cpu")
    assert "was trained on other data" in line
    (tmp_path / "mine.npy").unlink()
    line = error_line(toy_train.main, f"--resume={run}", "--device=cpu")
    assert "mine.npy: no such file" in line


def test_what_kept_latest_from_going_on_is_said(tmp_path, run):
    common = [f"--outdir={run.parent}", "--resume=latest"]
    mine, other = f"--data={tmp_path / 'mine.npy'}", f"--data={rows(tmp_path / 'b.npy', 1)}"
    said = good(toy_train.main, *common, mine, *QUICK, "--lr=0.002")
    assert f"--resume=latest: no run in {run.parent} matches: {run.name} differs in --lr" in said
    assert "(0.005, now 0.002). A new one begins" in said
    said = good(toy_train.main, *common, other, *QUICK)
    assert f"{run.name} was trained on other data than {other} has now" in said
    said = good(toy_train.main, f"--outdir={tmp_path / 'new'}", "--resume=latest", mine, *QUICK)
    assert "no run in" in said
    assert "yet. A new one begins" in said
    assert "Resuming at" in good(toy_train.main, *common, mine, *LONGER, "--lr=0.005")


def test_a_toy_set_of_another_definition_is_other_data(tmp_path, monkeypatch):
    common = [f"--outdir={tmp_path}", "--data_name=circles"]
    good(toy_train.main, *common, *QUICK)
    (snapshot,) = tmp_path.glob("*/network-snapshot-*.pkl")
    simulate = ["net", f"--network={snapshot}", f"--save_dir={tmp_path / 'flow'}", "--no-plot",
                "--total_samples=10", "--device=cpu"]  # fmt: skip
    assert "not the data" not in good(toy_pfODE_int.main, *simulate)
    (run,) = tmp_path.glob("00000-*")
    monkeypatch.setitem(toy_data.TOY_SETS, "circles", toy_data.TOY_SETS["circles_sharp"])
    other = "was trained on other data than --data_name=circles has now"
    assert other in error_line(toy_train.main, *common, *LONGER, f"--resume={run}")
    said = good(toy_train.main, *common, *LONGER, "--resume=latest")
    assert f"matches: {run.name} {other}" in said
    assert "A new one begins" in said
    note = "Note: --data_name=circles is not the data that the network was trained on"
    assert note in good(toy_pfODE_int.main, *simulate)


def test_identities(tmp_path):
    circles = ToySource("circles").content_hash()
    others = [ToySource("moons"), ToySource("circles", 3), ToySource("circles", 4)]
    assert len({circles, *(x.content_hash() for x in others)}) == 4
    assert circles == ToySource("circles").description()["sha256"]
    a, b = VectorSource(rows(tmp_path / "a.npy")), VectorSource(rows(tmp_path / "b.npy", 1))
    assert a.content_hash() != b.content_hash()
    assert a.content_hash() == VectorSource(rows(tmp_path / "c.npy")).description()["sha256"]


def test_older_runs_without_a_digest_go_on_with_a_note(tmp_path, run):
    options = json.loads((run / OPTIONS_FILE).read_text())
    del options["data_sha256"]
    (run / OPTIONS_FILE).write_text(json.dumps(options))
    said = good(toy_train.main, f"--resume={run}", "--duration=0.0008", "--device=cpu")
    assert "is older than digests of data" in said
    assert "Resuming at" in said


def test_going_on_for_longer_under_a_cosine_rate_is_said(tmp_path, run):
    said = good(toy_train.main, f"--resume={run}", "--duration=0.0008", "--device=cpu")
    assert "from here on it follows 0.0008 Mimg, no longer 0.0004" in said
    assert "from here on" not in good(toy_train.main, f"--resume={run}", "--device=cpu")


def test_images_in_a_zip_and_in_a_folder_are_the_same_and_labels_count(tmp_path):
    files = {f"{i}.png": png(x) for i, x in enumerate(pixels(24))}
    labels = [[name, i % 2] for i, name in enumerate(files)]
    files["dataset.json"] = json.dumps({"labels": labels}).encode()
    data = write_zip(tmp_path / "set.zip", files)
    with zipfile.ZipFile(data) as archive:
        archive.extractall(tmp_path / "set")
    out = f"--outdir={tmp_path / 'out'}"
    said = good(train.main, out, f"--data={data}", *SMALL, "--duration=0.000004")
    assert "dropout masks" not in said  # they depend on samples alone
    data.unlink()
    longer = [out, *SMALL, "--resume=latest"]
    said = good(train.main, *longer, f"--data={tmp_path / 'set'}", "--duration=0.000008")
    assert "Resuming at" in said
    labels[0][1] = 1
    (tmp_path / "set/dataset.json").write_text(json.dumps({"labels": labels}))
    line = error_line(train.main, *longer, f"--data={tmp_path / 'set'}", "--duration=0.000012")
    assert "was trained on other data" in line


@pytest.mark.parametrize("case", ["one image", "equal images", "too large"])
def test_data_without_a_basis_are_one_line(tmp_path, case):
    if case == "too large":
        x = np.random.default_rng(0).standard_normal((20, 2))
        x[3, 1] = 1.7e308
        np.save(tmp_path / "x.npy", x)
        line = error_line(
            toy_train.main, f"--outdir={tmp_path}", f"--data={tmp_path / 'x.npy'}", *QUICK
        )
        assert "column '1' holds 1.7e+308, too large to compute with" in line
        return
    count = 1 if case == "one image" else 5
    data = write_zip(tmp_path / "set.zip", {f"{i}.png": png(pixels(1)[0]) for i in range(count)})
    line = error_line(train.main, f"--outdir={tmp_path}", f"--data={data}", *SMALL,
                      "--duration=0.000004")  # fmt: skip
    assert line.startswith(f"Error: --data={data}: ")
    assert f"{count} {'image' if count == 1 else 'equal images'}, of which nothing can be" in line


def test_rank_without_the_rest_is_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(
        toy_train.main, [f"--outdir={tmp_path}", "--data_name=circles", *QUICK]
    )
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Note: RANK without WORLD_SIZE in the environment")
    assert "Done. Network:" in result.output
    line = error_line(toy_train.main, f"--outdir={tmp_path}", "--data_name=circles", "--lr=-1")
    assert "--lr" in line


# Results ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two networks of circles and two of images, alike but for their weights or times."""
    folder = tmp_path_factory.mktemp("networks")
    for seed in range(2):
        good(toy_train.main, f"--outdir={folder / 'runs'}", "--data_name=circles", *QUICK,
             f"--seed={seed}")  # fmt: skip
        shutil.copy(checkpoint.find_network(folder / "runs"), folder / f"toy{seed}.pkl")
    data = write_zip(folder / "set.zip", {f"{i}.png": png(x) for i, x in enumerate(pixels(8))})
    for seed in range(2):
        untrained(folder / f"images{seed}.pkl", data, 192, tmax=15.0 + seed)
    return folder


TOY = ["--device=cpu", "--no-plot", "--solver=rk4", "--steps=4"]
IMAGE = ["--device=cpu", "--no-plot", "--solver=euler", "--steps=2", "--data_root={data}"]
SCRIPTS = {
    "simulation": (toy_pfODE_int.main, ["net", *TOY, "--total_samples=10"]),
    "likelihood": (calc_nll.main, ["toys", *TOY, "--total_samples=10"]),
    "coverage": (run_toy_alphashape_mesh_exps.main,
                 [*TOY, "--test_pts=20", "--r_num=1", "--num_seeds=1"]),
    "residuals": (residuals.main, ["extracttoys", "--device=cpu", "--n_samples=10", "--h=1"]),
    "langevin": (langevin.main, ["--device=cpu", "--no-plot", "--total_samples=10", "--steps=4"]),
    "images": (pfODE_int.main, [*IMAGE, "--bs=4"]),
    "round trips": (calc_roundtrip_mse.main, [*IMAGE, "--total_samples=4"]),
    "likelihood of images": (calc_nll.main, ["net", *IMAGE, "--total_samples=2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SCRIPTS)
def test_results_of_another_network_are_not_overwritten(networks, tmp_path, case):
    main, options = SCRIPTS[case]
    kind = "images" if any("{data}" in word for word in options) else "toy"
    args = [word.format(data=networks / "set.zip") for word in options]
    args.append(f"--save_dir={tmp_path}")
    good(main, *args, f"--network={networks / kind}0.pkl")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*")}
    line = error_line(main, *args, f"--network={networks / kind}1.pkl")
    assert f"--save_dir={tmp_path}: " in line
    assert "of another network (sha256 " in line
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*")} == before
    good(main, *args, f"--network={networks / kind}0.pkl")  # the same again


def test_exact_flows_of_other_samples_are_not_overwritten(tmp_path):
    common = ["discrete", *TOY, "--total_samples=10", f"--save_dir={tmp_path}"]
    for seed in range(2):
        rows(tmp_path / f"{seed}/mine.npy", seed)
    good(toy_pfODE_int.main, *common, f"--data={tmp_path}/0/mine.npy")
    line = error_line(toy_pfODE_int.main, *common, f"--data={tmp_path}/1/mine.npy")
    assert "of another data (sha256 " in line


def test_correlations_of_another_network_are_not_overwritten(networks, tmp_path):
    paths = []
    for k in range(2):
        good(residuals.main, "extracttoys", f"--network={networks}/toy{k}.pkl", "--device=cpu",
             "--n_samples=10", "--h=1", f"--save_dir={tmp_path}/{k}")  # fmt: skip
        paths += (tmp_path / f"{k}").glob("*.npz")
    common = ["calctoys", f"--save_dir={tmp_path}", "--device=cpu", "--no-plot"]
    good(residuals.main, *common, f"--res_root={paths[0]}")
    line = error_line(residuals.main, *common, f"--res_root={paths[1]}")
    assert "of another network" in line
