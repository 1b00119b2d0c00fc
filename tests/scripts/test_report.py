"""report.py from the command line: what scripts wrote, and what bad input ends in."""

import os

import pytest
from click.testing import CliRunner

import report
import toy_pfODE_int
import toy_train
from tests.helpers import ROOT, run_script


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run folder and its simulations, as the scripts write them."""
    folder = tmp_path_factory.mktemp("results")
    args = [f"--outdir={folder}/train", "--data_name=circles", "--duration=0.004", "--batch=500"]
    done = CliRunner().invoke(toy_train.main, [*args, "--tick=1"])
    assert done.exit_code == 0, done.output
    args = ["net", f"--network={folder}/train", f"--save_dir={folder}/flow", "--animate"]
    done = CliRunner().invoke(
        toy_pfODE_int.main, [*args, "--total_samples=60", "--solver=angle_heun", "--steps=4"]
    )
    assert done.exit_code == 0, done.output
    return folder


def run(*args):
    return CliRunner().invoke(report.main, [str(a) for a in args])


def test_what_the_scripts_wrote_is_shown(results, tmp_path):
    dest = tmp_path / "below" / "report.html"
    done = run(results, f"--dest={dest}", "--title=My circles & more")
    assert done.exit_code == 0, done.output
    assert "Training: 1; Simulations: 1" in done.output
    html = dest.read_text()
    assert "<h1>My circles &amp; more</h1>" in html
    assert "00000-circles-PRP" in html
    assert "data:image/svg+xml;base64," in html
    assert "data:image/gif;base64," in html
    assert html.count("data:image/png;base64,") >= 4
    assert "&#34;inflation_gap&#34;: 1.0" in html  # the options, in full


def test_it_needs_no_torch(results, tmp_path):
    code = "import sys, report; assert 'torch' not in sys.modules; report.main()"
    (tmp_path / "x.py").write_text(code)
    done = run_script(tmp_path / "x.py", results, f"--dest={tmp_path}/r.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").exists()


def test_a_dry_run_writes_nothing(results, tmp_path):
    done = run(results, f"--dest={tmp_path}/r.html", "-n")
    assert done.exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_an_older_page_is_replaced_whole_or_not_at_all(results, tmp_path, monkeypatch):
    dest = tmp_path / "r.html"
    dest.write_text("older")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    assert run(results, f"--dest={dest}").exception
    assert dest.read_text() == "older"
    monkeypatch.undo()
    assert run(results, f"--dest={dest}").exit_code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert dest.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere"], "nowhere is not there"),
        (["file.txt"], "file.txt is a file, not a folder"),
        (["empty"], "empty holds no results"),
        (["results", "--dest=."], "--dest=. is a folder"),
        (["results", "--dest=file.txt/r.html"], "is a file, not a folder"),
        (["results", "--max-mb=0"], "--max-mb"),
        ([], "FOLDER"),
    ],
)
def test_bad_input_is_one_line(args, says, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "results").symlink_to(results)
    done = run(*args)
    assert done.exit_code == 2
    assert says.lower() in done.output.lower()
    assert len(done.output.strip().splitlines()) == 1
    assert "Traceback" not in done.output


def test_help_has_an_example():
    done = run_script(ROOT / "report.py", "--help")
    assert done.returncode == 0
    assert "python report.py out --dest" in done.stdout
