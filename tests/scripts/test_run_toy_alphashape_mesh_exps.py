"""run_toy_alphashape_mesh_exps.py: files, coverage, and one clear line on bad input."""

import json

import numpy as np
import pytest

import run_toy_alphashape_mesh_exps as script
import toy_train
from experiments.coverage import regions
from experiments.coverage.carrier import STAGES
from tests.helpers import run_script
from tests.image_networks import error_line, good
from torch_utils import distributed

SMALL = ["--test_pts=400", "--r_num=3", "--solver=rk4", "--steps=6", "--device=cpu"]


def trained(tmp_path_factory, name, *args):
    out = tmp_path_factory.mktemp(name)
    short = ["--duration=0.03", "--batch=500", "--no-plot", "--device=cpu"]
    good(toy_train.main, f"--outdir={out}", f"--data_name={name}", *short, *args)
    return out


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return trained(tmp_path_factory, "circles", "--dims_to_keep=1")


@pytest.fixture(scope="module")
def solid(tmp_path_factory):
    return trained(tmp_path_factory, "s_curve", "--dims_to_keep=2")


def load(folder, stem):
    with np.load(folder / f"{stem}_coverages.npz", allow_pickle=False) as data:
        arrays = dict(data)
    stages = {s: json.loads((folder / f"{stem}_coverages_{s}.json").read_text()) for s in STAGES}
    return arrays, stages


def test_circles(flat, tmp_path):
    output = good(script.main, f"--network={flat}", f"--save_dir={tmp_path}", *SMALL)
    assert "chi-square" in output
    arrays, stages = load(tmp_path, "circles_PRRto1D")
    assert arrays["coverages"].shape == (3, 3, 3)
    np.testing.assert_allclose(arrays["radii"], [0.5, 2.0, 3.5])
    assert np.abs(arrays["coverages"] - arrays["coverages"][:, :1]).max() <= 0.005
    deviation = np.abs(arrays["coverages"][:, 0] - arrays["chi_square"])
    assert (deviation < 4 * np.sqrt(0.25 / 400)).all()
    for k, stage in enumerate(STAGES):
        content = stages[stage]
        assert content["options"]["test_pts"] == 400
        assert content["schedule"]["name"] == "PRRto1D"
        assert content["method"]["solver"] == "rk4"
        assert content["mean"] == pytest.approx(arrays["coverages"][:, k].mean(0))
        assert set(content["by_seed"]) == {"0", "1", "2"}
    for picture in ("coverages", "boundaries"):
        assert (tmp_path / f"circles_PRRto1D_{picture}.png").stat().st_size > 5000


def test_surfaces_are_written_and_closed(solid, tmp_path):
    pytest.importorskip("alphashape")
    trimesh = pytest.importorskip("trimesh")
    args = ["--num_seeds=1", f"--save_dir={tmp_path}", "--boundary=alphashape"]
    good(script.main, f"--network={solid}", *args, *SMALL)
    arrays, _ = load(tmp_path, "s_curve_PRRto2D")
    assert arrays["vertices_gen_1"].shape == (200, 3)
    for stage in STAGES:
        assert trimesh.load(tmp_path / f"s_curve_PRRto2D_{stage}_r2.ply").is_watertight
    assert (tmp_path / "s_curve_PRRto2D_boundaries.png").stat().st_size > 5000


def test_alpha_shapes_with_the_papers_steps(flat, tmp_path):
    pytest.importorskip("alphashape")
    args = ["--boundary_pts=60", "--test_pts=300", "--num_seeds=2"]
    args += ["--steps=70", "--h=0.1", "--r_num=2", "--device=cpu", "--data_name=circles"]
    args += ["--data_dim=2", "--dims_to_keep=1", f"--save_dir={tmp_path}"]
    good(script.main, f"--network={flat}", *args)
    arrays, stages = load(tmp_path, "circles_PRRto1D")
    assert stages["gen"]["method"]["solver"] == "euler"
    assert stages["gen"]["method"]["steps"] == 70
    assert arrays["vertices_gen_1"].shape == (60, 2)
    deviation = np.abs(arrays["coverages"][:, 0] - arrays["chi_square"])
    assert (deviation < 4 * np.sqrt(0.25 / 300)).all()


BAD = {
    "another dimension": (["--data_dim=3"], "--data_dim=3 contradicts the network"),
    "other data": (["--data_name=moons"], "--data_name=moons contradicts the network"),
    "radii": (["--r_min=3", "--r_max=1"], "--r_max=1 is less than --r_min=3"),
    "beyond tmax": (["--steps=1501"], "beyond the flow's tmax=7.01"),
    "no boundary": (
        ["--boundary=norm", "--boundary_pts=60"],
        "--boundary_pts=60 has no effect with --boundary=norm",
    ),
    "no spheres": (
        ["--experiment=data", "--r_max=3"],
        "--r_max=3 has no effect with --experiment=data, only with --boundary=norm",
    ),
    "empty alpha shape": (["--boundary=alphashape", "--alpha=1e5"], "--alpha=100000 is too large"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(flat, tmp_path, case):
    args, reason = BAD[case]
    rest = SMALL if case != "beyond tmax" else ["--device=cpu"]
    if case == "empty alpha shape":
        pytest.importorskip("alphashape")
    where = f"--save_dir={tmp_path / 'x'}"
    assert reason in error_line(script.main, f"--network={flat}", where, *rest, *args)
    assert not (tmp_path / "x").exists()


def test_four_dimensions_have_no_alpha_shape_but_norms(tmp_path_factory, tmp_path):
    network = trained(tmp_path_factory, "circles", "--augment_to=4")
    args = [f"--network={network}", f"--save_dir={tmp_path / 'x'}"]
    line = error_line(script.main, *args, "--boundary=alphashape")
    assert "data_dim=4: --boundary=alphashape is made of polygons in 2 or surfaces in 3" in line
    good(script.main, *args, *SMALL, "--num_seeds=1", "--no-plot")
    arrays, _ = load(tmp_path / "x", "circles_PRP")
    assert np.abs(arrays["coverages"] - arrays["coverages"][:, :1]).max() <= 0.01


def test_held_out_data_fail_a_network_that_has_hardly_been_trained(flat, tmp_path):
    """--duration=0.03 is 30,000 samples; the published coverage of the same network passes."""
    args = [f"--network={flat}", f"--save_dir={tmp_path}", "--experiment=data", "--steps=8"]
    output = good(script.main, *args, "--solver=rk4", "--test_pts=4000", "--device=cpu")
    assert "Held-out data: FAIL" in output
    content = json.loads((tmp_path / "circles_PRRto1D_held_out.json").read_text())
    assert content["passed"] is False
    assert [b["radius"] for b in content["balls"]] == [1.0, 2.0, 3.0]
    assert (tmp_path / "circles_PRRto1D_held_out.png").stat().st_size > 5000


def test_training_rows_are_not_held_out(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((60, 2)))
    short = ["--duration=0.002", "--batch=100", "--no-plot", "--device=cpu", "--nosubdir"]
    data = f"--data={tmp_path / 'rows.npy'}"
    good(toy_train.main, f"--outdir={tmp_path / 'out'}", data, *short)
    args = [f"--network={tmp_path / 'out'}", f"--save_dir={tmp_path / 'x'}", data]
    line = error_line(script.main, *args, "--experiment=data", "--device=cpu")
    assert "is what the network was trained on" in line


def test_a_mesh_with_holes_is_refused_before_the_points_are_carried(solid, tmp_path, monkeypatch):
    """With a large alpha, tetrahedra go missing and the shape hangs together by edges."""
    pytest.importorskip("alphashape")
    args = ["--boundary=alphashape", "--alpha=1.4", f"--save_dir={tmp_path / 'x'}", "--r_num=1"]
    line = error_line(script.main, f"--network={solid}", *SMALL, *args, "--r_min=1")
    assert "is not watertight" in line
    assert "--boundary=norm" in line
    assert not (tmp_path / "x").exists()


def test_a_missing_package_is_named(flat, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(regions.importlib, "import_module", missing)
    line = error_line(
        script.main, f"--network={flat}", f"--save_dir={tmp_path}", *SMALL, "--boundary=alphashape"
    )
    assert "shapely is not installed: pip install" in line


def test_dry_run_writes_nothing(flat, tmp_path):
    args = [f"--save_dir={tmp_path / 'x'}", "--dry-run", *SMALL]
    assert "3 seeds of 400 points" in good(script.main, f"--network={flat}", *args)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(flat, tmp_path):
    for processes in (1, 2):
        result = run_script(
            "run_toy_alphashape_mesh_exps.py", f"--network={flat}", *SMALL, "--no-plot",
            "--test_pts=3000", f"--save_dir={tmp_path / str(processes)}", processes=processes,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    (one, _), (two, _) = (load(tmp_path / p, "circles_PRRto1D") for p in "12")
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    assert distributed.world_size() == 1
