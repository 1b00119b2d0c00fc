"""reproduce.py: commands that exist, one table end to end, clear refusals."""

import json

import click
import pytest
from click.testing import CliRunner

import reproduce
from experiments.reproduce import plans as reproduction_plans
from experiments.reproduce import presets
from tests.commands import parsed


def call(*args):
    return CliRunner().invoke(reproduce.main, [str(a) for a in args])


@pytest.fixture
def tiny(monkeypatch):
    """Settings of `smoke` that take seconds."""
    short = ("--duration=0.04", "--batch=500")
    monkeypatch.setattr(presets, "TOY_TRAINING", {"smoke": short})
    monkeypatch.setattr(presets, "TOY_SAMPLES", {"smoke": 100})
    monkeypatch.setattr(presets, "TOYS", {"circles": 2})

    def one(s, name):
        yield "PRP", reproduction_plans.toy_network(s, name)

    monkeypatch.setattr(reproduction_plans, "both_schedules", one)


@pytest.mark.parametrize("scale", presets.SCALES)
def test_every_command_of_a_dry_run_parses(scale, tmp_path):
    result = call("all", f"--scale={scale}", f"--outdir={tmp_path / 'out'}", "-n", "--procs=2")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == len(set(lines)) > 50
    for line in lines:
        parsed(line)
    assert not (tmp_path / "out").exists()
    scripts = {"toy_train.py", "train.py", "gen_fid_samples.py", "calc_nll.py", "dataset_tool.py"}
    assert scripts <= {w.rsplit("/", 1)[-1] for line in lines for w in line.split()}
    distributed = [x for x in lines if x.startswith("torchrun --standalone --nproc_per_node=2 ")]
    assert len(distributed) > len(lines) / 2


def test_the_parser_of_these_tests_knows_what_is_unknown():
    with pytest.raises(click.ClickException):
        parsed("python toy_train.py --outdir=out --no_such_option=1")
    with pytest.raises(click.ClickException):
        parsed("torchrun --standalone train.py --outdir=out --data=x.zip --lr=fast")


def test_the_paper_scale_asks_for_what_is_published(tmp_path):
    result = call("images", "--scale=paper", "-n", f"--outdir={tmp_path}", "--data=cifar10=c.zip")
    lines = result.output.splitlines()
    trained = [parsed(x) for x in lines if " train.py" in x or "/train.py" in x]
    cifar = {o["dims_to_keep"]: o for o in trained if o["data"] == "c.zip"}
    assert tuple(sorted(cifar)) == presets.D_KEPT
    assert cifar[30]["inflation_gap"] == 0.02
    assert (cifar[3072]["batch"], cifar[3072]["duration"], cifar[3072]["tmax"]) == (512, 275, 15.01)
    gaps = {round(1 + o["inflation_gap"], 2) for o in trained if o["dims_to_keep"] == 2}
    assert gaps == set(presets.GAP_FID)
    made = [parsed(x) for x in lines if "gen_fid_samples.py" in x]
    assert {len(o["seeds"]) for o in made} == {50_000}
    assert {o["steps"] for o in made} == {256}


@pytest.mark.slow
def test_a_table_end_to_end_and_again(tiny, tmp_path):
    out = tmp_path / "out"
    result = call("toys", f"--outdir={out}", "--jobs=1", "--device=cpu", "--seed=3")
    assert result.exit_code == 0, result.output
    content = json.loads((out / "toys/table.json").read_text())
    assert {"what", "published", "ours", "ratio", "settings", "seed"} <= set(content["columns"])
    (row,) = content["rows"]
    assert row["ours"] == pytest.approx(1, abs=0.3)  # Gaussian, and hardly trained
    assert row["ratio"] == row["ours"]
    assert row["seed"] == "3"
    assert all((out / p).exists() for p in content["pictures"] + content["run_folders"])
    assert len(content["pictures"]) >= 5
    assert len(content["commands"]) == 2
    assert content["commit"]
    together = json.loads((out / "results.json").read_text())
    assert together["tables"] == [content]
    assert "circles PRP" in (out / "results.txt").read_text()
    again = call("toys", f"--outdir={out}", "--jobs=1", "--device=cpu", "--seed=3")
    assert again.exit_code == 0
    assert "[toys/circles-PRP] kept" in again.output
    assert " done in " not in again.output


def test_a_failure_is_reported_and_ends_in_exit_code_1(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(presets, "TOY_TRAINING", {"smoke": ("--lr=-1",)})
    result = call("toys", f"--outdir={tmp_path}", "--jobs=1")
    assert result.exit_code == 1
    assert "FAILED: python" in result.output
    log = tmp_path / "steps/nets/circles-PRP.log"
    assert f"log: {log}" in result.output
    assert "--lr" in log.read_text()
    (row,) = json.loads((tmp_path / "toys/table.json").read_text())["rows"]
    assert row["ours"] is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--scale=small"], "give --data="),
        (["--scale=small", "--data=cifar10=no/such.zip"], "no/such.zip, which is not there"),
        (["--data=mnist=x.zip"], "--data=mnist=x.zip: give cifar10=PATH"),
        (["--data=cifar10"], "--data=cifar10: give cifar10=PATH"),
        (["--scale=large"], "--scale"),
        (["--outdir=taken/x"], "--outdir=taken/x: taken is a file"),
    ],
)
def test_refusals_come_before_work(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    result = call("images", *args)
    assert result.exit_code == 2
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*reproduce.PLANS, "all"])
def test_help_has_an_example_that_parses(name):
    text = call(name, "--help").output
    assert "Example:" in text
    example = text.split("Example:")[1].replace("\\\n", " ").strip()
    parsed(" ".join(example.split()))
