"""Files appear whole or not at all; run folders are claimed once; downloads are checked."""

import itertools
import json
import stat
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from dnnlib import util


def test_atomic_path_replaces_or_leaves_alone(tmp_path):
    target = tmp_path / "sub" / "file.txt"
    with util.atomic_path(target) as temporary:
        assert temporary.parent.parent == target.parent  # the same disk
        assert temporary.parent.name.startswith(".")
        temporary.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"

    def fail_halfway():
        with util.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert target.read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_atomic_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    util.write_json(tmp_path / "ours.json", {"a": [1, None]})
    assert json.loads((tmp_path / "ours.json").read_text()) == {"a": [1, None]}
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("plain", "ours.json")]
    assert modes[0] == modes[1]


def _claim(folder):
    return str(util.next_run_dir(folder, "run"))


def test_runs_that_start_together_get_two_numbers(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        made = list(pool.map(_claim, [tmp_path] * 12))
    assert len(set(made)) == 12
    assert [p.name[:5] for p in util.run_dirs(tmp_path)] == [f"{i:05d}" for i in range(12)]
    assert len(list(tmp_path.iterdir())) == 12


def test_run_numbers_go_on_after_the_largest(tmp_path):
    (tmp_path / "00007-x").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "00099-file").touch()
    assert util.next_run_dir(tmp_path, "y").name == "00008-y"


def test_logger_copies_what_is_printed(tmp_path, capsys):
    with util.Logger(tmp_path / "log.txt"):
        print("hello")
    print("not this")
    assert (tmp_path / "log.txt").read_text() == "hello\n"
    assert capsys.readouterr().out == "hello\nnot this\n"


def test_times():
    times = [util.format_time(s) for s in (45, 185, 7380, 439200)]
    assert times == ["45s", "3m 05s", "2h 03m", "5d 02h"]


def test_in_order_computes_a_little_ahead():
    started = []

    def double(i):
        started.append(i)
        time.sleep(0.01 * (i % 3))
        return 2 * i

    assert list(util.in_order(double, range(20), workers=3)) == [2 * i for i in range(20)]
    started.clear()
    endless = util.in_order(double, itertools.count(), workers=2, ahead=2)
    assert [next(endless) for _ in range(5)] == [0, 2, 4, 6, 8]
    endless.close()
    assert len(started) <= 10  # 5 given, at most 5 in waiting
    at_three = util.in_order(lambda i: 1 // (3 - i), range(9), workers=2)
    assert [next(at_three) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(at_three)
