"""The commands still leave the numbers that are committed, and twice the same bits."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.commands import COMMANDS, QUICK
from tests.golden.digest import differences, of_folders, rounded
from tests.golden.run import needs
from tests.helpers import run_script

REFERENCE = Path(__file__).parent / "reference.json"
AGAIN = "python -m tests.golden run --quick --rounded --out=tests/golden/reference.json"


def golden(*args):
    """What `python -m tests.golden` prints: a process of its own, with a fork server of its own."""
    done = run_script("-m", "tests.golden", *args, timeout=1800)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nif this is meant: {AGAIN}"
    return done.stdout


def test_quick_commands_leave_the_committed_numbers(tmp_path):
    golden("run", "--quick", "--rounded", f"--out={tmp_path / 'now.json'}")
    assert golden("compare", REFERENCE, tmp_path / "now.json").endswith(" 0 differ\n")


@pytest.mark.slow
def test_all_commands_twice_leave_the_same_bits(tmp_path):
    for name in ("1.json", "2.json"):
        golden("run", f"--out={tmp_path / name}")
    assert golden("compare", tmp_path / "1.json", tmp_path / "2.json").endswith(" 0 differ\n")


def test_commands_read_those_before_them():
    names = list(COMMANDS)
    for name in names:
        assert needs(name) <= set(names[: names.index(name)]), name
    assert set(QUICK) <= set(names)


def folder(path, **arrays):
    path.mkdir()
    np.savez(path / "a.npz", **arrays)
    (path / "a.json").write_text(json.dumps({"error": 0.25, "steps": 4, "seconds": path.name}))
    return of_folders({"x": path}, {})


def test_any_bit_is_a_difference_and_rounding_is_not_on_another_machine(tmp_path):
    u = np.sin(np.arange(60.0)).reshape(20, 3)
    a, x = folder(tmp_path / "1", u=u, n=np.arange(3))
    b, y = folder(tmp_path / "2", u=u * (1 + 1e-7), n=np.arange(3))
    c, _ = folder(tmp_path / "3", u=u[::-1], n=np.arange(3))
    assert set(a) == {"x/a.npz:u", "x/a.npz:n", "x/a.json:error", "x/a.json:steps"}
    assert not differences(a, a, x, x)
    (line,) = differences(a, b, x, y)
    assert line == "x/a.npz:u: max abs 1e-07, of the largest 1e-07, in 59 of 60"
    assert not differences(rounded(a), rounded(b), {}, {})
    assert len(differences(rounded(a), rounded(c), {}, {})) == 1  # rows in another order
    less = {k: v for k, v in a.items() if k != "x/a.json:steps"} | {"x/a.json:error": 0.26}
    assert differences(a, less, x, x) == [
        "x/a.json:error: 0.25 and 0.26",
        "x/a.json:steps: only in the first",
    ]
