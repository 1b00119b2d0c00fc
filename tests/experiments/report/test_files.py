"""Reading folders for a report: bounded, inside what was named, damage as sentences."""

import json
import os

import pytest

from dnnlib.results import KEY
from experiments.report import files as report_files
from experiments.report.files import number, text
from experiments.report.sections import collect


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_values_as_people_read_them():
    assert [text(v) for v in (None, True, 0.123456, 3, [1, 2.0], [], {"a": 1})] == [
        "–", "yes", "0.1235", "3", "1, 2", "none", "a: 1",
    ]  # fmt: skip
    assert text(list(range(20))).endswith("… (8 more)")
    assert text(10**5000) == "a very long number"
    assert len(text("x" * 10_000)) < 3000
    assert [number(v) for v in (1, 2.5, True, "3", float("nan"), 10**400)] == [
        1.0, 2.5, None, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "Expecting"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"options": ' + "9" * 10_000 + "}", "digits"),
        (b"\xff\xfe{}", "decode"),
    ],
)
def test_damage_is_a_sentence_and_nothing_else(tmp_path, content, says):
    folder = write(tmp_path, good__json={KEY: {}, "results": {"value": 2}})
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "circles_nll.json").write_bytes(data)
    sections, problems = collect([tmp_path])
    assert [s.envelope["title"] for s in sections] == ["good"]
    assert len(problems) == 1
    assert "circles_nll.json could not be used" in problems[0]
    assert says in problems[0]


def test_files_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(report_files, "MAX_JSON", 10)
    folder = write(tmp_path, a_nll__json={KEY: {}})
    with pytest.raises(ValueError, match="larger"):
        report_files.read_json(folder / "a_nll.json")
    monkeypatch.setattr(report_files, "MAX_FILES", 0)
    with pytest.raises(ValueError, match="more than 0 files"):
        collect([tmp_path])


def test_links_that_lead_outside_are_not_followed(tmp_path):
    secret = write(tmp_path / "secret", other_nll__json={KEY: {"notes": ["hidden"]}})
    run = write(tmp_path / "run", mine_nll__json={KEY: {}})
    os.symlink(secret / "other_nll.json", run / "other_nll.json")
    os.symlink(secret, run / "below")
    assert [s.envelope["title"] for s in collect([run])[0]] == ["mine nll"]


def test_numbered_images_and_hidden_files_are_left_alone(tmp_path):
    folder = write(tmp_path, x_nll__json={KEY: {}})
    for name in ("000001.png", "img00000001.png", ".x_nll_hidden.png"):
        (folder / name).write_bytes(b"not even a picture")
    (section,), problems = collect([tmp_path])
    assert section.pictures == []
    assert problems == []


def test_a_file_without_an_envelope_is_named(tmp_path):
    write(tmp_path, x__json={KEY: {}}, old_nll__json={"options": {}}, other__json={"a": 1})
    sections, (problem,) = collect([tmp_path])
    assert [s.envelope["title"] for s in sections] == ["x"]
    assert "old_nll.json says nothing of its run (no envelope)" in problem


def test_the_end_of_a_log(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    path.write_text("first\nsecond\nthird\n")
    assert report_files.tail(path) == "first\nsecond\nthird\n"
    monkeypatch.setattr(report_files, "MAX_LOG", 9)
    assert report_files.tail(path) == "…third\n"


def test_a_folder_within_another_is_shown_once(tmp_path):
    write(tmp_path / "in", x_nll__json={KEY: {}})
    sections, _ = collect([tmp_path, tmp_path / "in"])
    assert len(sections) == 1


def test_a_folder_without_results_is_named(tmp_path):
    write(tmp_path, notes__md="hello")
    with pytest.raises(ValueError, match="holds no results"):
        collect([tmp_path])
