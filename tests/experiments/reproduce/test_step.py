"""One command as a step: its log, its folder, its time, and how it is stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.reproduce import step
from tests.helpers import ROOT

# Writes its arguments to a journal, and does as it is told.
WORK = """
import pathlib, signal, subprocess, sys, time
folder, *how = sys.argv[1:]
folder = pathlib.Path(folder)
folder.mkdir(parents=True, exist_ok=True)
with open("journal.txt", "a") as file:
    print(*sys.argv[2:], file=file)
print("half\\rwhole line of", folder.name, flush=True)
(folder / "_".join(["file", *how])).touch()
if "wait" in how:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as trainings do, all saved
    (folder / "waiting").touch()
    time.sleep(60)
if "child" in how:
    late = "import pathlib, sys, time; time.sleep(8); pathlib.Path(sys.argv[1]).touch()"
    subprocess.run([sys.executable, "-c", late, str(folder / "late")])
if "fail" in how:
    sys.exit("no luck")
"""


@pytest.fixture
def begin(tmp_path):
    """Starts a step that runs work.py; options of the step come by keyword."""
    (tmp_path / "work.py").write_text(WORK)
    started = []

    def start(name, *how, **options):
        command = [sys.executable, "-m", "experiments.reproduce.step", f"--log=steps/{name}.log"]
        command += [f"--{k}={v}" for k, v in options.items()]
        process = subprocess.Popen(
            [*command, "--", str(tmp_path / "work.py"), name, *how], cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def appears(path):
    deadline = time.time() + 60
    while not path.exists() and time.time() < deadline:
        time.sleep(0.05)
    assert path.exists()


def test_a_command_has_its_log_and_its_exit_code(begin, tmp_path):
    assert begin("a").wait() == 0
    assert begin("b", "fail").wait() == 1
    assert b"half\rwhole line of a" in (tmp_path / "steps/a.log").read_bytes()
    assert "no luck" in (tmp_path / "steps/b.log").read_text()
    assert (tmp_path / "steps/b.txt").read_text().strip().endswith("work.py b fail")


def test_results_of_another_command_go(begin, tmp_path):
    assert begin("a", "1").wait() == 0
    assert begin("a", "1").wait() == 0
    assert (tmp_path / "a/file_1").exists()
    assert begin("a", "2").wait() == 0
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["file_2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_stopped_is_not_done(begin, tmp_path, number):
    process = begin("slow", "wait")
    appears(tmp_path / "slow/waiting")
    process.send_signal(number)
    assert process.wait(30) == step.STOPPED  # though the command said that all is well


def test_the_limit_stops_what_a_command_has_started(begin, tmp_path):
    assert begin("parent", "child", minutes=3 / 60).wait() == step.OUT_OF_TIME
    assert not (tmp_path / "parent/late").exists()  # nor was it waited for


def test_nobody_works_beside_what_a_kill_left_behind(begin, tmp_path, monkeypatch):
    process = begin("slow", "wait")
    appears(tmp_path / "slow/waiting")
    process.kill()
    process.wait()
    monkeypatch.setattr(step, "PATIENCE", 0.1)
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "steps/slow.log"
    words = [str(tmp_path / "work.py"), "slow", "wait"]
    assert step.run(words, log.relative_to(tmp_path), None, 1, 1) == step.TAKEN
    assert "another process is at work in slow" in log.read_text()
    (orphan,) = [p for p in processes() if f"{tmp_path}/work.py".encode() in p[1]]
    os.kill(orphan[0], signal.SIGKILL)
    assert begin("slow").wait() == 0  # it waits a little
    assert (tmp_path / "journal.txt").read_text() == "wait\n\n"


def processes():
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found.append((int(name), file.read()))
            except OSError:
                pass
    return found


def test_the_command_line(tmp_path):
    words = ["toy_train.py", "--outdir=o"]
    assert step.command(words, 1, tmp_path)[1:] == [str(ROOT / "toy_train.py"), "--outdir=o"]
    started = step.command(words, 2, tmp_path)
    assert started[1:5] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
    ]  # fmt: skip
    assert step.command(["-m", "metrics.x"], 1, tmp_path)[1:] == ["-m", "metrics.x"]
    sampler = ["toy_MCMC_exps.py", "--outdir=o"]
    assert step.command(sampler, 1, tmp_path)[-1] == "--outdir=o"
    (tmp_path / "run.json").touch()
    assert step.command(sampler, 1, tmp_path)[-1] == "--resume"
