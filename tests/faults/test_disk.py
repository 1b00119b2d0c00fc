"""Files on disks that are full, read-only or slow to die, and processes that race."""

import errno
import multiprocessing
import os
import random
import signal
import stat
import tempfile
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import dataset_tool
import toy_train
from dnnlib import util
from dnnlib.cli import DiskError
from torch_utils import checkpoint

processes_of = multiprocessing.get_context("fork")  # they need nothing of torch


def hidden(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


@pytest.fixture
def full_disk(monkeypatch):
    """Every file that is written atomically is /dev/full: the system itself says ENOSPC."""
    honest = util.scratch_dir

    @contextmanager
    def scratch_dir(path):
        with honest(path) as folder:
            (folder / path.name).symlink_to("/dev/full")
            yield folder

    monkeypatch.setattr(util, "scratch_dir", scratch_dir)


WRITERS = {
    "torch": lambda p: checkpoint.save(p, "basis", {"W": torch.zeros(1000, 1000)}),
    "npz": lambda p: _savez(p),
    "json": lambda p: util.write_json(p, list(range(10_000))),
}


def _savez(path):
    with util.atomic_path(path) as temporary:
        np.savez(temporary, x=np.zeros(100_000))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, full_disk, kind):
    path = tmp_path / "result.npz"
    path.write_bytes(b"older")
    with pytest.raises(DiskError, match="the disk is full; free some room") as caught:
        WRITERS[kind](path)
    assert str(path) in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"older"
    assert not hidden(tmp_path)


def refuse(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), str(args[-1]))

    return fail


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_is_one_line(tmp_path, monkeypatch, number):
    path = tmp_path / "result.json"
    path.write_text("1")
    monkeypatch.setattr(tempfile, "mkdtemp", refuse(number))
    with pytest.raises(DiskError, match=r"result.json: cannot be written"):
        util.write_json(path, 2)
    assert path.read_text() == "1"


def test_a_failure_to_read_something_else_is_not_taken_for_one_to_write(tmp_path):
    def copy():
        with util.atomic_path(tmp_path / "copy"):
            raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/original")

    with pytest.raises(PermissionError, match="original"):
        copy()


def test_a_read_only_folder(tmp_path, monkeypatch):
    """The real thing, and for root, whom permissions do not stop, what a read-only mount says."""
    locked = tmp_path / "locked"
    locked.mkdir()
    args = ["--data_name=circles", "--duration=0.001", "--batch=100", "--no-plot", "--device=cpu"]
    if os.geteuid() == 0:
        monkeypatch.setattr(tempfile, "mkdtemp", refuse(errno.EROFS))
        wanted = "the disk is read-only"
    else:
        locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
        wanted = "no permission to write"
    for main, more in ((toy_train.main, [f"--outdir={locked}", *args]),
                       (dataset_tool.main, ["--source=digits", f"--dest={locked / 'd.zip'}",
                                            "--max-images=5"])):  # fmt: skip
        result = CliRunner().invoke(main, more)
        assert result.exit_code == 2
        (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
        assert wanted in line or "Read-only file system" in line
        assert str(locked) in line
        assert not list(locked.iterdir())
    locked.chmod(0o700)


def test_what_the_disk_gives_back_is_compared_with_what_was_written(tmp_path, monkeypatch):
    path = tmp_path / "basis.pt"
    checkpoint.save(path, "basis", {"W": torch.zeros(10)})
    before, honest = path.read_bytes(), checkpoint.sync

    def flip(temporary):
        raw = bytearray(temporary.read_bytes())
        raw[raw.index(b"\x00" * 40) + 20] ^= 1
        temporary.write_bytes(raw)
        honest(temporary)

    monkeypatch.setattr(checkpoint, "sync", flip)
    with pytest.raises(DiskError, match="the disk does not work"):
        checkpoint.save(path, "basis", {"W": torch.zeros(10)})
    assert path.read_bytes() == before
    assert not hidden(tmp_path)


def _write_slowly(path, started, go_on):
    with util.atomic_path(path) as temporary:
        temporary.write_text("whole")
        started.set()
        go_on.wait()


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    processes = []
    for name in ("dead", "living"):
        started, go_on = processes_of.Event(), processes_of.Event()
        process = processes_of.Process(target=_write_slowly, args=(tmp_path / name, started, go_on))
        process.start()
        started.wait()
        processes.append((process, go_on))
    (dead, _), (living, go_on) = processes
    os.kill(dead.pid, signal.SIGKILL)
    dead.join()
    for path in tmp_path.iterdir():  # whatever a clock says
        os.utime(path, (0, 0))
    assert len(hidden(tmp_path)) == 2
    util.write_json(tmp_path / "next.json", 0)  # as the next run does
    assert [name.split(".")[1] for name in hidden(tmp_path)] == ["living"]
    go_on.set()
    living.join()
    assert {p.name for p in tmp_path.iterdir()} == {"living", "next.json"}


def _claim(folder, barrier, number, locks, queue):
    if not locks:
        util.fcntl = None
    offset = (-1) ** number * 10.0**number  # clocks from the past and from the future
    honest = time.time
    time.time = lambda: honest() + offset
    barrier.wait()
    for _ in range(3):
        time.sleep(random.uniform(0, 0.005))
        path = util.next_run_dir(folder, f"run{number % 2}", {"options.json": number})
        os.utime(path, (honest() + offset,) * 2)
        queue.put((path.name, (path / "options.json").read_text().strip() == str(number)))


@pytest.mark.parametrize("locks", [True, False])
def test_eight_runs_that_race_get_eight_numbers(tmp_path, locks):
    (tmp_path / ".00000.claim").touch()  # of the past, as older versions left them
    os.utime(tmp_path / ".00000.claim", (0, 0))
    barrier, queue = processes_of.Barrier(8), processes_of.Queue()
    args = [(tmp_path, barrier, k, locks, queue) for k in range(8)]
    processes = [processes_of.Process(target=_claim, args=a) for a in args]
    for process in processes:
        process.start()
    found = [queue.get() for _ in range(24)]
    for process in processes:
        process.join()
    assert all(own for _, own in found)
    numbers = [name[:5] for name, _ in found]
    assert len(set(numbers)) == 24
    assert sorted(name for name, _ in found) == [p.name for p in util.run_dirs(tmp_path)]
    if locks:
        assert sorted(numbers) == [f"{i:05d}" for i in range(24)]
    assert hidden(tmp_path) == [".00000.claim"]
