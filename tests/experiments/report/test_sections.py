"""What the report says of result folders, against what is in their files."""

import base64
import json

import numpy as np
from PIL import Image

from dnnlib.results import KEY, Measured, enclosed
from experiments.report.sections import collect
from experiments.report.training import loss_chart, loss_lines


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 128, np.uint8)).save(path)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def only(folder):
    (section,), problems = collect([folder])
    assert problems == []
    return section


def values(section):
    return {v["name"]: v["value"] for v in section.envelope["values"]}


def names(section):
    return [p.name for p in section.pictures]


def test_a_training_run(tmp_path):
    run = tmp_path / "00000-circles-PRP"
    dump(run / "training_options.json", {"seed": 3})
    losses = [10 / k for k in range(1, 31)]
    lines = [
        json.dumps({"tick": k, "kimg": 2.0 * k, "loss": v, "sec_per_kimg": 0.1, "sec_total": 61.0})
        for k, v in enumerate(losses, 1)
    ]
    (run / "stats.jsonl").write_text("\n".join([*lines, '{"kimg": 62, "lo']))
    for name in ("loss.png", "samples-000001.png", "samples-000060.png"):
        picture(run / name)
    for name in ("network-snapshot-000001.pkl", "network-snapshot-000060.pkl"):
        (run / name).touch()
    section = only(tmp_path)
    found = values(section)
    assert section.envelope["kind"] == "Training"
    assert section.envelope["headline"] == "loss 0.3333, kimg 60"
    assert found["lowest loss of a tick"] == losses[-1]
    assert found["sec total"] == 61.0
    assert found["latest network"] == "network-snapshot-000060.pkl"
    address, said = section.chart
    assert b"<svg" in base64.b64decode(address.removeprefix("data:image/svg+xml;base64,"))
    assert said == "Training loss, from 10 to 0.3333"
    assert names(section) == ["samples-000060.png"]
    assert section.envelope["notes"] == ["1 lines of stats.jsonl could not be read."]
    assert section.details["Options"] == {"seed": 3}


def test_the_lines_of_a_loss():
    ticks = [{"kimg": 2.0 * k, "loss": 10 / k} for k in range(1, 31)]
    kimg, lines = loss_lines(ticks)
    losses = [t["loss"] for t in ticks]
    np.testing.assert_array_equal(kimg, [t["kimg"] for t in ticks])
    np.testing.assert_array_equal(lines["each tick"], losses)
    assert lines["running median"][10] == np.median(losses[6:15])
    assert loss_chart(ticks) == loss_chart(ticks)
    assert "running median" not in loss_lines(ticks[:18])[1]


def test_long_runs_are_thinned_and_keep_their_end():
    ticks = [{"kimg": k, "loss": 1.0 + k} for k in range(5000)]
    kimg, lines = loss_lines(ticks)
    assert len(kimg) <= 601
    assert (kimg[0], kimg[-1]) == (0.0, 4999.0)
    np.testing.assert_array_equal(lines["each tick"], 1.0 + kimg)


def test_hostile_ticks_are_passed_over(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    ticks = ['{"kimg": "<b>", "loss": 1}', '{"kimg": 1, "loss": NaN}', "[1]", '{"kimg": 2}']
    (run / "stats.jsonl").write_text("\n".join(ticks))
    section = only(tmp_path)
    assert section.chart is None
    assert section.envelope["headline"] == "kimg 2"


def test_an_envelope_says_all(tmp_path):
    content = enclosed(
        {"options": {"seed": 7}, "more": [1, 2]}, "circles PRP: likelihood",
        [Measured("nll", 1.25, "nats", 0.125, 1.5, "exact"), Measured("draws", 300)],
        kind="Likelihood", inputs={"network": "abc"}, arrays=["x.npz"], notes=["take care"],
        tables=[("By radius", ["r", "share"], [[0.5, 0.25]])], pictures=["far/x_b.png"],
    )  # fmt: skip
    dump(tmp_path / "x.json", content)
    for name in ("x_a.png", "far/x_b.png", "x_c.gif"):
        picture(tmp_path / name)
    sections, problems = collect([tmp_path])
    assert problems == []
    section, e = sections[0], sections[0].envelope
    assert (e["kind"], e["title"]) == ("Likelihood", "circles PRP: likelihood")
    assert e["headline"] == "nll 1.25 nats, draws 300"
    assert e["digests"]["network"] == "abc"
    assert e["tables"] == content[KEY]["tables"]
    assert e["notes"] == ["take care"]
    assert section.details == {"Options": {"seed": 7}, "Everything in it": {"more": [1, 2]}}
    assert names(section)[-1] == "x_c.gif"
    shown = [p for s in sections for p in s.pictures]
    assert len(shown) == len(set(shown)) == 3


def test_pictures_go_to_the_result_whose_name_is_nearest(tmp_path):
    for stem in ("a_PRP", "a_PRRto1D"):
        dump(tmp_path / f"{stem}_params.json", {KEY: {}})
        picture(tmp_path / f"{stem}_panels.png")
    dump(tmp_path / "half" / "run.json", {"facts": {"seed": 1}, "finished": False})
    one, two = collect([tmp_path])[0]
    assert (names(one), names(two)) == (["a_PRP_panels.png"], ["a_PRRto1D_panels.png"])


def test_tables_leave_the_pictures_of_runs_to_them(tmp_path):
    picture(tmp_path / "nets" / "run" / "samples-000001.png")
    dump(tmp_path / "nets" / "run" / "training_options.json", {"seed": 1})
    rows = [("", ["a"], [[1]])]
    table = enclosed({}, "Toys", kind="Tables of the papers", tables=rows,
                     pictures=["../nets/run/samples-000001.png"])  # fmt: skip
    dump(tmp_path / "toys" / "table.json", table)
    (toys, run), problems = collect([tmp_path])
    assert problems == []
    assert (len(toys.pictures), len(run.pictures)) == (0, 1)
    assert toys.envelope["headline"] == "1 rows"
    (alone,), problems = collect([tmp_path / "toys"])
    assert alone.pictures == []  # it lies outside the folder named
    assert "not there" in problems[0]


def test_a_folder_of_pictures(tmp_path):
    picture(tmp_path / "a.png")
    dump(tmp_path / "x" / "y.json", {KEY: {}})
    result, gallery = collect([tmp_path])[0]
    assert result.envelope["kind"] == "Results"
    assert gallery.envelope["kind"] == "Other pictures"
    assert names(gallery) == ["a.png"]
