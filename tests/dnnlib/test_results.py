"""The envelope of a result file: what ran, on what, and what was measured."""

import hashlib
import json
import subprocess
import sys

from dnnlib import results
from dnnlib.results import KEY, Measured, code, commit, digest, enclosed
from tests.helpers import ROOT


def test_the_content_stays_and_the_envelope_is_plain(tmp_path):
    network = tmp_path / "network.pkl"
    network.write_bytes(b"abc")
    content = {"options": {"seed": 1}, "value": 2}
    made = enclosed(
        content, "Title", [Measured("rmse", 0.5, "px", yardstick=0.25), Measured("draws", 3)],
        inputs={"network": network, "folder": tmp_path, "data": "ab" * 32, "none": None},
        tables=[("Caption", ("a", "b"), [(1, "x")])], pictures=("p.png",),
    )  # fmt: skip
    assert {k: v for k, v in made.items() if k != KEY} == content
    envelope = json.loads(json.dumps(made[KEY]))
    assert envelope["values"] == [
        {"name": "rmse", "value": 0.5, "unit": "px", "yardstick": 0.25},
        {"name": "draws", "value": 3},
    ]
    assert envelope["tables"] == [{"caption": "Caption", "columns": ["a", "b"], "rows": [[1, "x"]]}]
    sha256 = hashlib.sha256(b"abc").hexdigest()
    assert envelope["digests"] == {"code": code(), "network": sha256, "data": "ab" * 32}
    assert envelope["commit"] == commit()
    assert envelope["kind"] == "Results"
    assert "torch" in envelope["machine"]  # which these tests have loaded


def test_without_figures_the_numbers_of_the_results_are_values():
    results = {"round_trip": {"rmse": 0.5, "worst": 2, "of": [1, 2]}, "fine": True, "seconds": 3}
    values = enclosed({"results": results}, "T")[KEY]["values"]
    assert values == [{"name": "round trip rmse", "value": 0.5},
                      {"name": "round trip worst", "value": 2},
                      {"name": "seconds", "value": 3}]  # fmt: skip
    (only,) = enclosed({"results": results}, "T", [Measured("a", 1)])[KEY]["values"]
    assert only == {"name": "a", "value": 1}


def test_digests_that_the_content_names_are_kept():
    content = {"network_sha256": "aa", "results": {"data_sha256": "bb", "reference": {"x": 1}},
               "options": {"sha256": "cc"}}  # fmt: skip
    digests = enclosed(content, "T")[KEY]["digests"]
    assert digests == {"code": code(), "network": "aa", "data": "bb"}


def test_the_digest_of_the_code_is_that_of_its_files(tmp_path, monkeypatch):
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow/a.py").write_text("x = 1\n")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    first = code.__wrapped__()
    (tmp_path / "b.txt").write_text("notes")
    assert code.__wrapped__() == first
    (tmp_path / "flow/a.py").write_text("x = 2\n")
    assert code.__wrapped__() != first


def test_a_command_can_be_named():
    assert enclosed({}, "T", command="x.py --a")[KEY]["command"] == "x.py --a"
    assert enclosed({}, "T")[KEY]["command"]


def test_digests(tmp_path):
    assert digest(None) is None
    assert digest(tmp_path) is None
    assert digest("deadbeef") == "deadbeef"


def test_it_needs_no_torch():
    code = (
        "import sys; from dnnlib import results; print(results.machine()); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stdout
