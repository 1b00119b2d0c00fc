"""`make bench`: every benchmark is there, and its lines come together in one table."""

import importlib
import json
import re
from dataclasses import asdict
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as bench
from benchmarks import common, frechet, integrators
from benchmarks.common import Line
from metrics.features import frechet_distance
from tests.helpers import ROOT, three_blobs

GOOD = Line("a time, s", "1.0", "other 3.0", 3.0, 2.0)
BAD = Line("its memory, GiB", "2.0", "other 1.0", 0.5, 1.0)
PLAIN = Line("its cost", "2.0", "other 1.0", 0.5)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Folders of their own for what benchmarks write."""
    monkeypatch.setattr(common, "NETWORKS", tmp_path / "out")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    for module in (common, bench):
        monkeypatch.setattr(module, "LINES", tmp_path / "lines")
    return tmp_path


@pytest.mark.parametrize("name", list(bench.BENCHMARKS))
def test_every_benchmark_takes_its_options(name):
    main = importlib.import_module(f"benchmarks.{name}").main
    if isinstance(main, click.Command):
        main.make_context(name, list(bench.BENCHMARKS[name]))
    else:
        assert callable(main)
        assert bench.BENCHMARKS[name] == []


def test_the_makefile_names_what_there_is():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    names = re.search(r"^BENCHMARKS := (.*)$", makefile, re.M)[1].split()
    assert set(bench.BENCHMARKS) < set(names)
    assert all(hasattr(importlib.import_module(f"benchmarks.{n}"), "main") for n in names)


def test_lines_say_whether_they_reach_their_target():
    assert [x.met for x in (GOOD, BAD, PLAIN)] == ["yes", "NO", ""]


def ran(lines, codes):
    """Stands for the processes of benchmarks: they leave these lines, and end with these codes."""

    def run(command, **_):
        name = command[2].removeprefix("benchmarks.")
        path = bench.LINES / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        if name in lines:
            path.write_text(json.dumps([asdict(x) for x in lines[name]]))
        return SimpleNamespace(returncode=codes.get(name, 0))

    return run


def test_one_table_of_all(place, monkeypatch):
    monkeypatch.setattr(bench, "BENCHMARKS", {"unet": [], "basis": []})
    lines = {"unet": [GOOD, BAD], "basis": [PLAIN]}
    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=ran(lines, {})))
    result = CliRunner().invoke(bench.main, [])
    assert result.exit_code == 0, result.output
    rows = (place / "results" / "bench.txt").read_text().splitlines()
    first, second, third = (next(r for r in rows if x.what in r) for x in (GOOD, BAD, PLAIN))
    assert first.startswith("unet")
    assert re.search(r"other 3.0 +3 +>= 2 +yes", first)
    assert not second.startswith("unet")
    assert " NO" in second
    assert third.startswith("basis")
    assert "yes" not in third
    assert "NO" not in third


def test_a_failure_is_said_and_the_committed_table_stays(place, monkeypatch):
    monkeypatch.setattr(bench, "BENCHMARKS", {"unet": [], "basis": []})
    monkeypatch.setattr(
        bench, "subprocess", SimpleNamespace(run=ran({"basis": [PLAIN]}, {"unet": 1}))
    )
    result = CliRunner().invoke(bench.main, [])
    assert result.exit_code == 1
    assert "FAILED: unet" in result.output
    assert not (place / "results" / "bench.txt").exists()
    assert PLAIN.what in (place / "out" / "quick" / "bench.txt").read_text()


def test_lines_of_an_earlier_run_do_not_count(place, monkeypatch):
    (place / "lines").mkdir()
    (place / "lines" / "unet.json").write_text(json.dumps([asdict(GOOD)]))
    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=ran({}, {})))
    assert bench.measured("unet")[0] == []


def test_the_fewest_evaluations_as_accurate_as_the_paper_both_ways():
    def f(evaluations, latent, back):
        return {"evaluations": evaluations, "latent": latent, "round trip": back}

    figures = {integrators.PAPER: f(700, 1e-3, 1e-3), ("ab2", 16): f(17, 1e-4, 2e-3),
               ("angle_heun", 16): f(32, 2e-3, 1e-4), ("rk4", 16): f(64, 1e-3, 1e-4)}  # fmt: skip
    line = integrators.line("PRP", figures)
    assert line.ours == "64 (rk4-16)"
    assert line.ratio == 700 / 64


def test_the_search_on_pilots_is_counted():
    flow, x = three_blobs(2, 2)
    u = flow.to_whitened(x, 0.0, "unscaled")
    exact = flow.integrate(u, 0.0, flow.schedule.tmax, "rk4", 128)
    paper = {"evaluations": 700, "latent": 1e-2, "round trip": 1e-2}
    found = integrators.with_search(flow, u, exact, paper)
    n = found["steps"]
    assert max(found["latent"], found["round trip"]) < 2e-2
    # 4 evaluations a step: ways there with 4, 8, ..., 2n steps, one way back with n.
    search = 4 * (4 * n - 4 + n) * 75 / (3 * 300)
    assert found["in all"] == pytest.approx(4 * n + search)
    assert integrators.line_with_search("PRP", found, paper).ratio == 700 / found["in all"]


def test_the_truth_of_the_frechet_distance(monkeypatch):
    monkeypatch.setattr(frechet, "FEATURES", 40)
    for rank, error in ((40, 1e-9), (20, 1e-5)):
        given, truth = frechet.pair(rank)
        assert frechet_distance(*given) == pytest.approx(truth, rel=error)
    given, truth = frechet.pair(40)
    assert frechet.by_sqrtm(*given) == pytest.approx(truth, rel=1e-9)
