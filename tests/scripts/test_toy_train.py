"""toy_train.py: options, and one clear line on bad input before anything is written."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

import toy_train
from flow.flow import load_flow
from training.toy_options import ToyTrainOptions


def call(*args):
    return CliRunner().invoke(toy_train.main, [*map(str, args), "--device=cpu"])


BAD = {
    "unknown set": (["--data_name=cubes"], "'cubes' is not one of"),
    "no data": ([], "give either --data_name"),
    "both": (["--data_name=circles", "--data=x.csv"], "give either --data_name"),
    "wrong dims": (["--data_name=circles", "--data_dim=3"], "circles has 2 dimensions"),
    "keep too many": (
        ["--data_name=circles", "--data_dim=2", "--dims_to_keep=3"],
        "--dims_to_keep=3 is larger than --data_dim=2",
    ),
    "proportional PRR": (
        ["--data_name=circles", "--dims_to_keep=1", "--g_type=proportional"],
        "--g_type: g_type=proportional preserves",
    ),
    "edm PRR": (
        ["--data_name=circles", "--dims_to_keep=1", "--precond=edm"],
        "--precond=edm is for one noise level",
    ),
    "embed down": (["--data_name=s_curve", "--augment_to=2"], "--augment_to=2 is less than"),
    "times": (["--data_name=circles", "--tmin=8"], "--tmin=8.0 is not below --tmax=7.01"),
    "no steps": (["--data_name=circles", "--duration=1e-6"], "is less than one --batch"),
    "nan": (["--data=nan.npy"], "row 1, column 0"),
    "empty": (["--data=empty.csv"], "no rows of numbers"),
    "absent": (["--data=absent.csv"], "no such file"),
    "no column": (
        ["--data=t.csv", "--columns=a,d"],
        "lacks the columns d; its columns are a, b, c",
    ),
    "gap": (["--data=t.csv"], "--missing=drop"),
    "large": (["--data=t.csv", "--columns=a,c"], "column 'c' holds 1.7e+308, too large"),
    "option of tables": (["--data=nan.npy", "--missing=drop"], "--missing is for tables of text"),
    "no table": (["--data_name=circles", "--no-header"], "--no-header is for a table given"),
    "resume": (["--data_name=circles", "--resume=nowhere"], "--resume=nowhere: no run there"),
    "device": (["--data_name=circles", "--device=warp"], "--device=warp"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    np.save("nan.npy", np.array([[1.0, 2], [np.nan, 3], [4, 5]]))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "t.csv").write_text("a,b,c\n1.5,2,1.7e308\n2,NA,3\n4,5,6\n")
    args, reason = BAD[case]
    result = CliRunner().invoke(toy_train.main, ["--outdir=out", *args])
    assert result.exit_code == 2, result.output
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert reason in line
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_missing_and_unwritable_outdir(tmp_path):
    result = call("--data_name=circles")
    assert (result.exit_code, "--outdir is missing" in result.output) == (2, True)
    (tmp_path / "file").write_text("")
    result = call("--data_name=circles", f"--outdir={tmp_path / 'file'}")
    assert (result.exit_code, "is a file, not a folder" in result.output) == (2, True)
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        result = call("--data_name=circles", f"--outdir={tmp_path / 'locked'}")
        assert (result.exit_code, "no permission" in result.output) == (2, True)


def test_dash_and_underscore_are_one(tmp_path):
    for spelling in ("--data-name=circles", "--data_name=circles"):
        for batch in ("--batch-gpu=64", "--batch_gpu=64"):
            result = call(f"--outdir={tmp_path}", spelling, batch, "-n")
            assert result.exit_code == 0, result.output
            assert json.loads(result.output)["batch_gpu"] == 64


def test_defaults_depend_on_the_network_and_the_schedule(tmp_path):
    def options(*args):
        return json.loads(call(f"--outdir={tmp_path}", "--data_name=s_curve", "-n", *args).output)

    assert options("--arch=ToyConvUNet")["batch"] == 8192
    assert options("--arch=ToyConvUNet")["lr"] == 1e-5
    assert options()["rho"] == 2.0
    assert options("--dims_to_keep=2")["rho"] == 1.0
    assert options("--dims_to_keep=2", "--rho=1.5", "--batch=100")["rho"] == 1.5
    assert options()["data_dim"] == options()["dims_to_keep"] == 3


def test_resume_refuses_another_experiment_and_latest_starts_one(tmp_path):
    common = [f"--outdir={tmp_path}", "--duration=0.004", "--batch=500", "--no-plot"]
    assert call(*common, "--data_name=circles").exit_code == 0
    run = tmp_path / "00000-circles-PRP"
    result = call(f"--resume={run}", "--data_name=moons")
    assert result.exit_code == 2
    assert "--data_name=moons contradicts" in result.output
    assert call(*common, "--data_name=moons", "--resume=latest").exit_code == 0
    assert (tmp_path / "00001-moons-PRP").is_dir()
    assert call(*common, "--data_name=circles", "--resume=latest").exit_code == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_keeps_how_its_table_was_read(tmp_path):
    table, rng = tmp_path / "t.csv", np.random.default_rng(0)
    rows = [f"{a:.3f},x,{b:.3f}" for a, b in rng.standard_normal((60, 2))]
    table.write_text("\n".join(["a,kind,b", *rows, "1.5,x,?"]))
    common = [f"--outdir={tmp_path}", "--duration=0.001", "--batch=50", "--no-plot"]
    result = call(*common, f"--data={table}", "--missing=drop")
    assert result.exit_code == 0, result.output
    line = "60 rows, 2 columns: a, b; left out: 'kind' (text); 1 rows with missing values left out"
    assert f"{table}: {line}" in result.output
    run = tmp_path / "00000-t-PRP"
    stored = json.loads((run / "training_options.json").read_text())
    reading = {"columns": ["a", "b"], "header": True, "decimal": ".", "missing": "drop"}
    assert stored["reading"] == reading | {"left_out": ["kind"]}
    assert load_flow(run).columns == ["a", "b"]
    assert call(f"--resume={run}", "--duration=0.002").exit_code == 0
    table.write_text("\n".join(["a,kind,c", *rows]))
    result = call(f"--resume={run}", "--duration=0.003")
    assert result.exit_code == 2
    assert "columns ['a', 'b'] before, ['a', 'c'] now" in result.output


@pytest.mark.parametrize(
    ("rows", "told", "duration", "tick", "said"),
    [
        (200, {}, 0.1, 5.0, "200 rows are seen 500 times each"),
        (20, {}, 0.02, 1.0, "20 rows are seen 1,000 times each"),
        (40_000, {}, 10.0, 250.0, "40000 rows are seen 250 times each"),
        (200, {"duration": 0.5}, 0.5, 250.0, "Note: 200 rows are seen 2,500 times each"),
        (200, {"arch": "ToyConvUNet"}, 7000.0, 1000.0, "Note: 200 rows are seen 35,000,000 times"),
    ],
)  # fmt: skip
def test_small_tables_are_not_learnt_by_heart(rows, told, duration, tick, said, tmp_path):
    """The default follows the rows; what is told does not, and is remarked on."""
    table = tmp_path / "t.npy"
    np.save(table, np.random.default_rng(0).standard_normal((rows, 2)))
    options = ToyTrainOptions(data=str(table), **told)
    source = options.open()
    full = options.filled(source)
    assert (full.duration, full.tick) == (duration, tick)
    assert full.remarks(source)[0].startswith(said)


def test_help_shows_a_runnable_example():
    result = CliRunner().invoke(toy_train.main, ["--help"])
    assert result.exit_code == 0
    assert "python toy_train.py --outdir=out --data_name=circles" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moons", "swirl"])
def test_embedded_data_and_edm(tmp_path, name):
    args = [f"--outdir={tmp_path}", f"--data_name={name}", "--duration=0.004", "--batch=500"]
    assert call(*args, "--precond=edm", "--arch=ToyConvUNet", "--no-plot").exit_code == 0
    result = call(*args, "--augment_to=6", "--dims_to_keep=2", "--space=IS", "--inflation_gap=0.02")
    assert result.exit_code == 0, result.output
