"""The settings of the papers, and the tables that result files fill."""

import csv
import json

import pytest
import yaml

from dnnlib.results import KEY, enclosed
from experiments.reproduce import papers as papers_module
from experiments.reproduce.papers import SCALES, SETTINGS, TABLES, Papers, figure, load
from experiments.reproduce.tables import folders, write_table

pytest.importorskip("jsonschema")


@pytest.fixture
def small(tmp_path):
    """Settings of which one table has few rows, of all kinds."""
    content = yaml.safe_load(SETTINGS.read_text())
    content["tables"]["toys"] = {
        "title": "Title",
        "notes": ["A note."],
        "rows": [
            {"each": "a", "what": "{name}: mean of two", "folder": "x/{seed}", "file": "r.json",
             "ours": "a|b|0", "published": "{paper}", "settings": "how",
             "more": {"also": "a|b|*", "of one": "x/0/*.json: a|b|-1"}},
            {"each": "a", "what": "exact", "folder": "x/0", "file": "*.json", "ours": "a|b|1",
             "exact": "x/1/r.json: a|b|1", "error": "a|b|2", "settings": ""},
            {"each": "a", "what": "words", "folder": "x/1", "file": "r.json", "ours": "a|b|0",
             "published": "6.0 (of others)", "settings": ""},
            {"each": "a", "what": "missing", "folder": "gone", "file": "r.json", "ours": "a",
             "published": "{paper}", "exact": 1.0, "settings": ""},
            {"each": "a", "what": "no such key", "folder": "x/0", "file": "r.json", "ours": "a|c",
             "exact": 1.0, "settings": ""},
        ],
    }  # fmt: skip
    path = tmp_path / "papers.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_table_has_what_was_found(small, tmp_path, monkeypatch):
    case = {"name": "N", "paper": [6.0, 0.5], "seeds": 2}
    monkeypatch.setattr(Papers, "cases", lambda *_: iter([case]))
    for k, values in enumerate(([2.0, 3.0, 4.0], [4.0, 6.0, 8.0])):
        folder = tmp_path / "out" / "x" / str(k)
        folder.mkdir(parents=True)
        content = enclosed({"a": {"b": values}, "options": {"seed": 7 + k}}, "T")
        content[KEY] |= {"commit": "C", "machine": f"M{k}"}
        (folder / "r.json").write_text(json.dumps(content))
        (folder / "p.png").touch()
        (folder / "done").touch()
    outdir = tmp_path / "out"
    assert folders(Papers(path=str(small)), "toys") == ["x/0", "x/1", "gone"]
    content = write_table(Papers(path=str(small)), "toys", outdir)
    written = json.loads((outdir / "toys/table.json").read_text())
    envelope = written.pop(KEY)
    assert content == written
    assert envelope["tables"][0]["columns"] == content["columns"]
    mean, exact, words, missing, absent = content["rows"]
    assert (mean["what"], mean["ours"], mean["ratio"]) == ("N: mean of two", 3.0, 0.5)
    assert (mean["published"], mean["seed"]) == ("6.00 ± 0.50", "7, 8")
    assert (mean["machine"], mean["commit"]) == ("M0, M1", "C")
    assert mean["error"] == pytest.approx(2 * 2**0.5)  # 2 sd of the seeds
    assert (mean["also"], mean["of one"]) == (pytest.approx(4.5), 4.0)
    assert (exact["ours"], exact["exact"], exact["ratio"], exact["error"]) == (3.0, 6.0, 0.5, 4.0)
    assert (words["published"], words["ratio"]) == ("6.0 (of others)", None)
    assert missing["ours"] is missing["ratio"] is absent["ours"] is absent["ratio"] is None
    assert content["notes"][0] == "A note."
    assert content["notes"][1].startswith("missing: gone; log: ")
    assert content["pictures"] == ["x/0/p.png", "x/1/p.png"]
    assert json.loads((outdir / "results.json").read_text())["tables"] == [written]
    text = (outdir / "toys/table.txt").read_text()
    assert "N: mean of two" in text
    assert "6.00 ± 0.50" in (outdir / "results.txt").read_text()
    with open(outdir / "toys/table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["ours"]) for r in rows[:2]] == [3.0, 3.0]
    latex = (outdir / "toys/table.tex").read_text()
    assert "\\toprule" in latex
    assert "N: mean of two & 6.00 ± 0.50 &" in latex


def test_published_figures_are_those_of_the_paper():
    """A few, typed again from the paper's tables; and as many as there are columns."""
    published = load()["published"]
    fid, mse = published["fid"], published["mse"]
    assert figure(fid["cifar10"][3072]) == "17.01 ± 0.10"
    assert figure(fid["afhqv2"][62]) == "14.05 ± 0.18"
    assert figure(mse["cifar10"][1536]) == "0.16 ± 0.06"
    for table in (*fid.values(), *mse.values()):
        assert tuple(table) == (1, 2, 30, 62, 307, 615, 1536, 3041, 3072)
    assert published["gap_fid"] == {1.10: [13.98], 1.25: [17.84], 1.35: [34.68], 1.50: [107.64]}
    assert published["bits"]["CIFAR-10"] == [2.56]


@pytest.mark.parametrize("scale", SCALES)
def test_rows_have_all_they_name(scale, tmp_path):
    p = Papers(scale)
    for table in TABLES:
        content = write_table(p, table, tmp_path)
        assert content["rows"]
        assert "{" not in json.dumps([r["what"] + r["settings"] for r in content["rows"]])
    rows = {r["what"]: r for r in write_table(p, "images", tmp_path)["rows"]}
    if scale == "smoke":
        assert rows["digits 8x8, d=2, gap 1.10: Frechet distance in classifier features"][
            "published"
        ] == "13.98 (AFHQv2, d=2, gap 1.10)"  # fmt: skip
        assert rows["digits 8x8, d=64: round-trip MSE, modulo 256"]["published"] == (
            "0.22 ± 0.03 (CIFAR-10, d=3072)"
        )
    else:
        fid = rows["CIFAR-10, d=2, gap 1.02: FID"]["published"]
        assert fid == "21.29 ± 0.04" + (" (50,000 images)" if scale == "small" else "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["scales"]["smoke"].update(toy_training="-duration=2"), "toy_training"),
        (lambda c: c["scales"]["smoke"].update(toy_training="--a=$(reboot)"), "toy_training"),
        (lambda c: c["scales"]["smoke"].update(toy_trainng=""), "toy_trainng"),
        (lambda c: c["scales"]["paper"].pop("minutes"), "minutes"),
        (lambda c: c["scales"].pop("small"), "small"),
        (lambda c: c["tables"]["hmc"]["rows"][0].pop("ours"), "ours"),
    ],
)
def test_wrong_settings_are_named(change, says, tmp_path):
    content = yaml.safe_load(SETTINGS.read_text())
    change(content)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=rf"mine.yaml: \$.*{says}"):
        load(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        load(path)


def test_words():
    assert papers_module.words("--a=1 --b") == "a=1, b"
    assert papers_module.words("") == "the defaults of the script"
