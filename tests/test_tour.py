"""The notebook of docs/ runs from its first cell to its last, and what it shows is right."""

import json
import math

import pytest
from matplotlib import pyplot as plt

from tests.helpers import ROOT

TOUR = json.loads((ROOT / "docs" / "tour.ipynb").read_text())


def cells(kind):
    return ["".join(c["source"]) for c in TOUR["cells"] if c["cell_type"] == kind]


def test_it_is_a_notebook_without_outputs():
    assert (TOUR["nbformat"], TOUR["nbformat_minor"]) == (4, 5)
    assert all(c.get("outputs", []) == [] for c in TOUR["cells"])
    for code in cells("code"):
        compile(code, "tour.ipynb", "exec")


@pytest.mark.slow
def test_the_tour(tmp_path, monkeypatch):
    for path in (*ROOT.glob("*.py"), *(ROOT / n for n in ("dnnlib", "flow", "torch_utils",
                                                            "training", "metrics"))):  # fmt: skip
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    names = {}
    for code in cells("code"):
        exec(compile(code, "tour.ipynb", "exec"), names)
    for k, number in enumerate(plt.get_fignums()):
        plt.figure(number).savefig(tmp_path / f"{k}.png")
    plt.close("all")
    assert names["round_trip"] < 0.02
    assert names["total"] == pytest.approx(1, abs=0.02)
    drawn, exact = names["draws"].log_evidence, math.log(names["evidence"])
    assert drawn == pytest.approx(exact, abs=0.15)
    assert names["sd_drawn"] == pytest.approx(names["sd_exact"], rel=0.05)
    assert (names["draws"].x[:, 1] > 0).double().mean() == pytest.approx(0.5, abs=0.06)
