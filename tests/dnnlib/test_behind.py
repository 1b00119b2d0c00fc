"""Files written beside other work: in order, whole, and never failing in silence."""

import errno
import os
import threading
import time

import pytest

from dnnlib import behind
from dnnlib.behind import Behind, blocks_of_files
from dnnlib.cli import DiskError


def test_work_is_done_in_order_beside_the_caller_and_waited_for():
    gate, done = threading.Event(), []
    with Behind(ahead=2) as later:
        later(gate.wait)
        later(done.append, 1)  # neither waits
        assert not done
        gate.set()
        later(done.append, 2)
        later(done.append, 3)
    assert done == [1, 2, 3]


def test_no_more_is_left_than_ahead():
    gate, asked = threading.Event(), []
    with Behind(ahead=1) as later:
        later(gate.wait)
        later(asked.append, 1)
        caller = threading.Thread(target=later, args=(asked.append, 2))
        caller.start()
        caller.join(0.1)
        assert caller.is_alive()  # it waits for the first
        gate.set()
        caller.join()


def fail(number):
    raise OSError(number, os.strerror(number))


def test_a_failure_is_that_of_the_next_call_or_of_the_end(capsys):
    with pytest.raises(OSError, match="No space"), Behind() as later:
        later(fail, errno.ENOSPC)
    with Behind(ahead=5) as later:
        later(fail, errno.ENOSPC)
        while not later._left[0].done():
            time.sleep(0.01)
        with pytest.raises(OSError, match="No space"):
            later(print, "never")

    def two_errors():
        with Behind() as later:
            later(fail, errno.ENOSPC)
            raise KeyError

    with pytest.raises(KeyError):  # and the other is still said
        two_errors()
    assert "Also: [Errno 28] No space" in capsys.readouterr().err


def put(text, path):
    path.write_text(text)


def test_blocks_of_files_appear_whole_and_leave_nothing_hidden(tmp_path):
    with blocks_of_files(tmp_path) as write:
        for k in range(5):
            paths = [tmp_path / str(k) / f"{i}.txt" for i in range(7)]
            write({path: lambda p, i=i: put(str(i), p) for i, path in enumerate(paths)})
    found = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*.txt")}
    assert found == {f"{k}/{i}.txt": str(i) for k in range(5) for i in range(7)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("one_call", [True, False])
def test_files_get_their_names_once_they_are_on_the_disk(tmp_path, monkeypatch, one_call):
    honest, synced = behind._sync_all, []
    if not one_call:
        monkeypatch.setattr(behind.ctypes, "CDLL", lambda *args, **kwargs: object())

    def sync_all(folder, files, pool):
        synced.append((len(files), all(f.exists() for f in files), list(tmp_path.glob("*.txt"))))
        honest(folder, files, pool)

    monkeypatch.setattr(behind, "_sync_all", sync_all)
    with blocks_of_files(tmp_path) as write:
        write({tmp_path / f"{i}.txt": lambda p: put("x", p) for i in range(9)})
    assert synced == [(9, True, [])]
    assert len(list(tmp_path.glob("*.txt"))) == 9


def test_a_full_disk_names_the_file_and_leaves_older_ones(tmp_path):
    (tmp_path / "b.txt").write_text("older")
    with (
        pytest.raises(DiskError, match=r"b\.txt: cannot be written, the disk is full"),
        blocks_of_files(tmp_path) as write,
    ):
        write({tmp_path / "a.txt": lambda p: put("x", p), tmp_path / "b.txt": lambda _: fail(28)})
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]
    assert (tmp_path / "b.txt").read_text() == "older"
