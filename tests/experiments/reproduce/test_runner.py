"""The runner of reproduce.py: once, resumably, failures reported; and the tables it fills."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dnnlib.cli import UserError
from experiments.reproduce import presets
from experiments.reproduce import runner as reproduction
from experiments.reproduce.presets import Figure
from experiments.reproduce.runner import Runner, Step
from experiments.reproduce.table import Row, Table, Value, all_steps, write_table
from tests.helpers import ROOT

# Writes a number, says what it did to a journal, and does as it is told.
WORK = """
import json, pathlib, signal, subprocess, sys, time
folder, number, *how = sys.argv[1:]
folder = pathlib.Path(folder)
folder.mkdir(parents=True, exist_ok=True)
journal = folder.parent / "journal.txt"
with open(journal, "a") as file:
    print(folder.name, number, file=file)
print("half\\rwhole line of", folder.name, flush=True)
if "wait" in how:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as trainings do, all saved
    (folder / "result.json").write_text("{}")
    time.sleep(60)
if "child" in how:
    late = "import pathlib, sys, time; time.sleep(8); pathlib.Path(sys.argv[1]).touch()"
    subprocess.run([sys.executable, "-c", late, str(folder / "late")])
if "fail" in how:
    sys.exit("no luck")
if "nothing" not in how:
    (folder / "result.json").write_text(json.dumps({"a": {"b": [float(number), 3.0]}}))
"""


@pytest.fixture
def work(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(WORK)

    def step(name, number=1, *how, needs=()):
        args = (str(tmp_path / "out" / name), str(number), *how)
        return Step(name, str(script), args, "result.json", tuple(needs), device=False, seed=7)

    return step


def runner(tmp_path, **kwargs):
    said = []
    made = Runner(tmp_path / "out", say=said.append, **kwargs)
    return made, said


def states(made):
    return {s.folder: o.state for s, o in made.outcomes.items()}


def journal(tmp_path):
    return (tmp_path / "out" / "journal.txt").read_text().split("\n")[:-1]


def test_steps_run_once_in_order_and_are_kept(work, tmp_path):
    a = work("a")
    steps = [a, work("b", 2, needs=[a])]
    first, said = runner(tmp_path)
    first.run(steps)
    assert states(first) == {"a": "done", "b": "done"}
    assert journal(tmp_path) == ["a 1", "b 2"]
    assert "[a] whole line of a" in said
    assert b"half\rwhole line of a" in (tmp_path / "out/steps/a.log").read_bytes()
    again, _ = runner(tmp_path)
    again.run(steps)
    assert states(again) == {"a": "kept", "b": "kept"}
    assert journal(tmp_path) == ["a 1", "b 2"]


def test_a_changed_option_runs_what_depends_on_it(work, tmp_path):
    a, other = work("a"), work("c")
    first, _ = runner(tmp_path)
    first.run([a, work("b", needs=[a]), other])
    (tmp_path / "out/b/stale.txt").touch()
    changed = work("a", 5)
    again, _ = runner(tmp_path)
    again.run([changed, work("b", needs=[changed]), other])
    assert states(again) == {"a": "done", "b": "done", "c": "kept"}
    assert journal(tmp_path)[-2:] == ["a 5", "b 1"]
    assert not (tmp_path / "out/b/stale.txt").exists()


def test_a_lost_result_is_made_again(work, tmp_path):
    first, _ = runner(tmp_path)
    first.run([work("a")])
    (tmp_path / "out/a/result.json").unlink()
    again, _ = runner(tmp_path)
    again.run([work("a")])
    assert states(again) == {"a": "done"}


@pytest.mark.parametrize(("how", "why"), [("fail", "exit code 1"), ("nothing", "no result.json")])
def test_a_failure_is_reported_and_others_go_on(work, tmp_path, how, why):
    bad = work("bad", 1, how)
    after = work("after", needs=[bad])
    made, said = runner(tmp_path)
    made.run([bad, after, work("last", needs=[after]), work("good")])
    assert states(made) == {"bad": "failed", "after": "skipped", "last": "skipped", "good": "done"}
    (line,) = [x for x in said if x.startswith("[bad] failed")]
    assert why in line
    assert str(tmp_path / "out/steps/bad.log") in line
    assert str(tmp_path / "work.py") in line
    again, _ = runner(tmp_path)
    again.run([bad])
    assert states(again) == {"bad": "failed"}  # tried again, not kept


def test_the_limit_stops_a_command_without_calling_it_done(work, tmp_path):
    slow = work("slow", 1, "wait")
    made, _ = runner(tmp_path, limit=3)
    made.run([slow, work("after", needs=[slow])])
    assert states(made) == {"slow": "stopped"}
    assert json.loads((tmp_path / "out/steps/slow.json").read_text())["state"] == "started"
    assert not made.is_done(slow)


def test_the_limit_stops_what_a_command_has_started(work, tmp_path):
    made, _ = runner(tmp_path, limit=2)
    made.run([work("parent", 1, "child")])
    assert states(made) == {"parent": "stopped"}
    assert not (tmp_path / "out/parent/late").exists()  # nor was it waited for


def test_two_commands_at_a_time(work, tmp_path):
    made, _ = runner(tmp_path, jobs=2)
    made.run([work(name) for name in "abc"])
    assert set(states(made).values()) == {"done"}


def test_a_killed_run_goes_on_and_nobody_works_beside_it(work, tmp_path, monkeypatch):
    driver = tmp_path / "driver.py"
    driver.write_text(
        "from experiments.reproduce.runner import *\n"
        f"step = lambda n, *how: Step(n, {str(tmp_path / 'work.py')!r}, "
        f"({str(tmp_path / 'out')!r} + '/' + n, '1', *how), 'result.json', device=False, seed=7)\n"
        f"Runner(Path({str(tmp_path / 'out')!r})).run([step('a'), step('slow', 'wait')])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, driver], env=environment, stdout=subprocess.DEVNULL)
    record = tmp_path / "out/steps/slow.json"
    deadline = time.time() + 60
    while not (tmp_path / "out/slow/result.json").exists() and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads(record.read_text())["state"] == "started"
    monkeypatch.setattr(reproduction, "PATIENCE", 0.1)
    made, _ = runner(tmp_path)
    with pytest.raises(UserError, match="another run is at work"):
        made.run([work("a")])  # the command left behind still holds the folder
    (orphan,) = [p for p in _processes() if str(tmp_path / "work.py") in p[1]]
    os.kill(orphan[0], signal.SIGKILL)
    monkeypatch.setattr(reproduction, "PATIENCE", 30.0)
    made, _ = runner(tmp_path)
    made.run([work("a"), work("slow")])
    assert states(made) == {"a": "kept", "slow": "done"}


def _processes():
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline") as file:
                    found.append((int(name), file.read()))
            except OSError:
                pass
    return found


def test_the_command_line(work, tmp_path):
    step = work("a")
    made, _ = runner(tmp_path, device="cpu", procs=2)
    assert made.line(step).startswith(
        f"torchrun --standalone --nproc_per_node=2 {tmp_path}/work.py"
    )
    with_device = Step("x", "train.py", ("--outdir=o",), "*", resume=("--resume", "run.json"))
    assert made.command(with_device)[-2:] == ["--outdir=o", "--device=cpu"]
    (tmp_path / "out/x").mkdir(parents=True)
    (tmp_path / "out/x/run.json").touch()
    assert made.command(with_device)[-1] == "--resume"


def test_a_table_has_what_was_found(work, tmp_path):
    one, two, bad = work("one", 2), work("two", 4), work("bad", 0, "fail")
    both = Value((one, two), "a|b|0")
    rows = (
        Row("mean of two", both, Figure(6.0, 0.5), None, "how", {"also": Value((one,), "a|b|*")}),
        Row("exact", Value((one,), "a|b|0"), None, Value((two,), "a|b|0")),
        Row("words", Value((one,), "a|b|-1"), "6.0 (of others)"),
        Row("missing", Value((bad,), "a|b|0"), Figure(1.0)),
        Row("no such key", Value((one,), "a|c"), None, 1.0),
    )
    table = Table("t", "Title", rows, (one, two, bad), ("A note.",))
    made, _ = runner(tmp_path)
    made.run(all_steps([table]))
    facts = {"scale": "smoke", "machine": "M", "commit": "C"}
    content = write_table(table, made, facts)
    assert content == json.loads((tmp_path / "out/t/table.json").read_text())
    first, exact, words, missing, absent = content["rows"]
    assert (first["ours"], first["ratio"], first["also"]) == (3.0, 0.5, 2.5)
    assert first["published"] == "6.00 ± 0.50"
    assert first["± 2 sd"] == pytest.approx(2 * 2**0.5)
    assert first["seed"] == "7"
    assert (exact["ours"], exact["exact"], exact["ratio"]) == (2.0, 4.0, 0.5)
    assert (words["ours"], words["ratio"]) == (3.0, None)
    assert missing["ours"] is None
    assert absent["ours"] is None
    assert absent["ratio"] is None
    assert content["commands"] == [made.line(s) for s in (one, two, bad)]
    assert content["notes"][0] == "A note."
    assert content["notes"][1].startswith("failed: ")
    text = (tmp_path / "out/t/table.txt").read_text()
    assert "mean of two" in text
    assert "6.00 ± 0.50" in text


def test_published_figures_are_those_of_the_paper():
    """A few, typed again from the paper's tables; and as many as there are columns."""
    assert str(presets.FID["cifar10"][3072]) == "17.01 ± 0.10"
    assert str(presets.FID["afhqv2"][62]) == "14.05 ± 0.18"
    assert str(presets.MSE["cifar10"][1536]) == "0.16 ± 0.06"
    assert presets.GAP_FID[1.02] == presets.FID["afhqv2"][2].value
    assert presets.GAP_MSE[1.02] == presets.MSE["afhqv2"][2].value
    for table in (*presets.FID.values(), *presets.MSE.values()):
        assert tuple(table) == presets.D_KEPT == (1, 2, 30, 62, 307, 615, 1536, 3041, 3072)
    assert presets.BITS["CIFAR-10"] == 2.56
