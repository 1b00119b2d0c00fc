"""Hosts as they are: notebooks' settings, no home, names and streams that cannot be written."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dnnlib import host, util
from tests.helpers import ROOT

CARRY_ON = """
import sys
from dnnlib import cli, host, plot
from dnnlib.cache import cache_dir
import numpy as np

@cli.command("x")
def main():
    plot.curve(sys.argv[1] + ".png", np.arange(3), {"a": np.arange(3)}, ("x", "y"))
    print("caf\\udce9 \\u043a\\u043e\\u0442", cache_dir())

main([])
"""


def run(tmp_path, *, env=(), without=(), code=CARRY_ON, **more):
    """A process with other settings; what it wrote, and its exit status."""
    settings = {k: v for k, v in os.environ.items() if k not in without}
    settings |= {"PYTHONPATH": str(ROOT)} | dict(env)
    command = [sys.executable, "-c", code, str(tmp_path / "p")]
    return subprocess.run(command, env=settings, cwd=more.pop("cwd", ROOT), check=False, **more)


ALL = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "INFLATIONARY_FLOWS_CACHE", "MPLCONFIGDIR")


@pytest.mark.parametrize(
    "env",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "nonsense"},
        {"MPLBACKEND": "TkAgg", "DISPLAY": ""},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "0"},
        {"TMPDIR": "/nowhere"},
    ],
    ids=str,
)
def test_settings_that_do_not_stop_a_script(tmp_path, env):
    done = run(tmp_path, env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf" in done.stdout
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.parametrize("home", ["a file", "nowhere"])
def test_no_home_folder(tmp_path, home):
    (tmp_path / "a file").touch()
    env = {"TMPDIR": str(tmp_path), "HOME": "/proc/self/nowhere"}
    if home == "a file":
        env["HOME"] = str(tmp_path / home)
    done = run(tmp_path, env=env, without=ALL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Note: no home folder that can be written to; caches are kept in")
    assert done.stderr.count("\n") == 1
    (folder,) = tmp_path.glob("inflationary-flows-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert str(folder) in done.stdout


def test_caches_are_not_taken_from_another_user(tmp_path, monkeypatch):
    """Who else can write to the shared temporary folder could fill the caches."""
    monkeypatch.setattr(host.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"inflationary-flows-{os.getuid()}"
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    assert host.private_temporary.__wrapped__() is None
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    assert host.private_temporary.__wrapped__() is None
    folder.chmod(0o700)
    assert host.private_temporary.__wrapped__() == folder


def test_a_backend_that_exists_stays(tmp_path):
    code = "import dnnlib, matplotlib; print(matplotlib.rcParams['backend'])"
    done = run(tmp_path, env={"MPLBACKEND": "svg"}, code=code, capture_output=True, text=True)
    assert done.stdout == "svg\n"


def test_pictures_leave_pyplot_alone(tmp_path):
    code = "import sys, dnnlib.plot, experiments.coverage.plots; print([*sys.modules])"
    done = run(tmp_path, code=code, capture_output=True, text=True)
    assert "dnnlib.plot" in done.stdout
    assert "pyplot" not in done.stdout


def test_threads_wait_without_spinning_unless_the_user_says_otherwise(tmp_path):
    code = "import os, dnnlib; print(os.environ.get('OMP_WAIT_POLICY'))"
    for env, found in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"),
                       ({"GOMP_SPINCOUNT": "9"}, "None")):  # fmt: skip
        done = run(tmp_path, env=env, without=["OMP_WAIT_POLICY"], code=code, capture_output=True)
        assert done.stdout.decode().strip() == found


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    (tmp_path / "x.py").write_text(CARRY_ON)
    command = f"exec '{sys.executable}' x.py p {closed}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_reader_that_leaves_is_one_line(tmp_path):
    code = """
from dnnlib import cli

@cli.command("x")
def main():
    for i in range(100_000):
        print(i)

main([])
"""
    (tmp_path / "x.py").write_text(code)
    command = f"{{ '{sys.executable}' x.py; echo $? >&2; }} | head -1"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    error, code = done.stderr.splitlines()
    assert error.startswith("Error: stopped, as nobody reads what is printed any more")
    assert (done.stdout, code) == ("0\n", "2")


def test_a_full_disk_under_stdout_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = run(tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the disk is full" in done.stderr


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "x.py").write_text(CARRY_ON)
    command = f"mkdir gone; cd gone; rmdir ../gone; exec '{sys.executable}' ../x.py p"
    command = command.replace("../x.py", str(tmp_path / "x.py"))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Error: the folder that this was started in no longer exists; start it in another"
    ]


def test_a_home_that_nobody_knows(monkeypatch, tmp_path):
    """No HOME, and no entry among the users: libraries ask for it, arviz's among them."""

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(host, "home_cache", lambda: None)
    monkeypatch.setattr(host, "private_temporary", lambda: tmp_path)
    monkeypatch.setattr(host.Path, "home", unknown)
    monkeypatch.setattr(host.getpass, "getuser", lambda: {}["uid not found"])
    monkeypatch.setattr(host.os, "environ", {})
    host.prepare()
    assert os.environ["HOME"] == os.environ["XDG_CACHE_HOME"] == str(tmp_path)
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "matplotlib")
    assert os.environ["LOGNAME"] == f"uid-{os.getuid()}"


def test_printable_names():
    assert host.printable("caf\udce9") == "café"
    assert host.printable("кот") == "кот"
    assert host.printable("plain-1") == "plain-1"


def test_the_log_says_names_that_are_no_text(tmp_path, capsys):
    host.standard_streams()
    with util.Logger(tmp_path / "log.txt"):
        print("caf\udce9")
    assert (tmp_path / "log.txt").read_text() == "caf\\udce9\n"


def test_data_in_a_file_with_a_latin_1_name(tmp_path):
    """The name reaches the run folder, its files and the log; TensorBoard has no word for it."""
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.npy")
    with open(path, "wb") as file:
        np.save(file, np.random.default_rng(0).standard_normal((50, 2)))
    args = ["toy_train.py", b"--data=" + path, b"--outdir=" + os.fsencode(tmp_path) + b"/o\xe9"]
    command = [sys.executable, *args, "--duration=0.001", "--batch=100", "--tick=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr[-1000:]
    (run_folder,) = (tmp_path / os.fsdecode(b"o\xe9")).iterdir()
    assert run_folder.name == "00000-café-PRP"
    assert {"log.txt", "loss.png", "stats.jsonl"} <= {p.name for p in run_folder.iterdir()}
    assert "Note: no TensorBoard events" in done.stdout
