"""The page itself: nothing in it runs or loads, it fits its size, charts are in the right place."""

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.results import KEY
from experiments.report.page import page
from experiments.report.pictures import embed, encode
from experiments.report.sections import Section, collect

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'"


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag):
        return [a for t, a in self.found if t == tag]


def noise(path, width=40, height=30, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def hostile_folder(folder):
    folder.mkdir()
    name = "x<script>alert(1)<_nll.json".replace("/", "")
    content = {"results": {HOSTILE: HOSTILE, "warnings": [HOSTILE]}, KEY: {}}
    (folder / name).write_text(json.dumps(content | {"options": {HOSTILE: [HOSTILE]}}))
    run = folder / "00000-<b>"
    run.mkdir()
    ticks = [{"kimg": k, "loss": 1 / k, "lr": HOSTILE} for k in (1, 2, 3)]
    (run / "stats.jsonl").write_text("\n".join(map(json.dumps, ticks)))
    (run / "log.txt").write_text(HOSTILE)
    (run / "training_options.json").write_text(json.dumps({"data": HOSTILE}))
    envelope = {
        "kind": HOSTILE, "title": HOSTILE, "command": HOSTILE, "machine": [HOSTILE],
        "digests": {HOSTILE: HOSTILE}, "notes": [HOSTILE, 1, {HOSTILE: 1}], "arrays": HOSTILE,
        "values": [{"name": HOSTILE, "value": HOSTILE, "error": HOSTILE, "yardstick": [HOSTILE],
                    "unit": {HOSTILE: 1}}, {"value": 1, "unit": HOSTILE}, 7, {}],
        "tables": [{"columns": [HOSTILE, {}], "rows": [[HOSTILE, 1, 2], [], [[HOSTILE]], 3]},
                   HOSTILE, {"columns": HOSTILE, "rows": HOSTILE}],
        "pictures": [HOSTILE, "../../../etc/passwd.png", 5, {}],
    }  # fmt: skip
    (folder / "e.json").write_text(json.dumps({KEY: envelope}))
    (folder / "f.json").write_text(json.dumps({KEY: dict.fromkeys(envelope, 5)}))
    (folder / "a.png").write_bytes(b"<svg onload=alert(1)>")
    (folder / "b.txt").write_text(f"{HOSTILE}\n2026-01-01; {HOSTILE}\n\n{HOSTILE}")
    noise(folder / "onload=alert(1) <img>.png")
    return folder


def make(folder, title="Title", max_bytes=10_000_000):
    sections, problems = collect([folder])
    return page(sections, title, [folder], problems, max_bytes)


def test_a_hostile_folder_injects_nothing(tmp_path):
    html, _, problems = make(hostile_folder(tmp_path / "run"), title=HOSTILE)
    elements = Elements(html)
    assert len(elements.of("style")) == 1
    assert not elements.of("script")
    assert not [a for _, a in elements.found if any(k.startswith("on") for k in a)]
    assert not elements.of("b")
    kinds = {a["src"].split(";")[0] for a in elements.of("img")}
    assert kinds == {"data:image/png", "data:image/svg+xml"}
    drawings = [a["src"] for a in elements.of("img") if "svg" in a["src"][:20]]
    for drawing in drawings:
        assert b"alert" not in base64.b64decode(drawing.split(",")[1])
    assert any("a.png could not be used" in p for p in problems)


def test_the_policy_allows_what_is_there_and_nothing_else(tmp_path):
    html, _, _ = make(hostile_folder(tmp_path / "run"))
    (policy,) = [a["content"] for a in Elements(html).of("meta") if "http-equiv" in a]
    rules = dict(r.strip().split(" ", 1) for r in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules  # nothing runs
    (content,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert rules["style-src"] == f"'sha256-{digest}'"


def test_nothing_is_loaded(tmp_path):
    noise(tmp_path / "run" / "picture.png")
    html, _, _ = make(tmp_path / "run")
    for _, attributes in Elements(html).found:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
        assert "style" not in attributes  # the policy would refuse it
    assert "@import" not in html
    assert not re.search(r"url\(", html)


def test_the_page_is_the_same_for_the_same_files(tmp_path):
    folder = hostile_folder(tmp_path / "run")
    assert make(folder) == make(folder)


def test_pictures_are_left_out_largest_first(tmp_path):
    folder = tmp_path / "run"
    for k, size in enumerate((20, 200, 400)):
        noise(folder / f"p{size}.png", size, size, k)
    whole, none_left, _ = make(folder)
    assert none_left == 0
    html, left_out, _ = make(folder, max_bytes=300_000)
    assert left_out == 1
    assert len(html.encode()) < 300_000 < len(whole.encode())
    assert "p400.png is left out" in html
    assert html.count('src="data:image/png') == 2
    with pytest.raises(ValueError, match="--max-mb"):
        make(folder, max_bytes=2000)


def test_huge_pictures_are_made_smaller_and_others_kept_byte_for_byte(tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (3200, 100), "red").save(wide)
    data, width, height = encode(wide)
    assert (width, height) == (1600, 50)
    assert Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).size == (1600, 50)
    frames = [Image.new("P", (8, 8), k) for k in range(3)]
    film = tmp_path / "film.gif"
    frames[0].save(film, save_all=True, append_images=frames[1:])
    data, *_ = encode(film)
    assert data.startswith("data:image/gif;base64,")
    assert base64.b64decode(data.split(",")[1]) == film.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "other", "bomb", "empty"])
def test_damaged_pictures_are_named(tmp_path, damage, monkeypatch):
    path = noise(tmp_path / "p.png", 200, 200)
    whole = path.read_bytes()
    if damage == "bomb":
        monkeypatch.setattr("experiments.report.pictures.MAX_PIXELS", 100)
    else:
        path.write_bytes({"cut": whole[:5000], "other": b"%PDF-1.4", "empty": b""}[damage])
    found, (problem,) = embed([path], 10**7)
    assert found == {}
    assert "p.png could not be used" in problem


def test_what_unfolds_is_cut_where_it_is_endless(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.report.page.MAX_DETAIL", 50)
    (tmp_path / "x_nll.json").write_text(json.dumps({"options": {"a": "b" * 500}, KEY: {}}))
    html, _, _ = make(tmp_path)
    assert "b" * 51 not in html
    assert "(cut here)" in html


def test_columns_of_numbers_stand_to_the_right():
    table = {"columns": ["n", "said"], "rows": [[1, "one"], [None, "2nd"], [3, "x"]]}
    section = Section(Path("s"), 0.0, {"tables": [table]})
    html, _, _ = page([section], "T", [Path("x")], [], 10**6)
    heads = re.findall(r'<th( class="num")?>(n|said)</th>', html)
    assert heads == [(' class="num"', "n"), ("", "said")]


def test_figures_stand_beside_their_yardsticks():
    values = [
        {"name": "nll", "value": 1.25, "error": 0.125, "unit": "nats", "yardstick": 1.5,
         "source": "exact"},
        {"name": "draws", "value": 300},
    ]  # fmt: skip
    section = Section(Path("x.json"), 0.0, {"values": values, "title": "T", "commit": "abc"})
    html, _, _ = page([section], "T", [Path("x")], [], 10**6)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html[html.index("<article") :])
    assert cells == ["nll", "1.25", "0.125", "nats", "1.5", "exact", "draws", "300", *[""] * 4]
    assert "<dd>abc</dd>" in html
    assert section.envelope["headline"] == "nll 1.25 nats, draws 300"


@pytest.mark.skipif(not any(os.access(f"/usr/bin/{n}", os.X_OK) for n in ("chromium", "chrome")),
                    reason="no Chromium")  # fmt: skip
@pytest.mark.data
def test_it_opens_clean_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    target = tmp_path / "report.html"
    target.write_text(make(hostile_folder(tmp_path / "run"))[0])
    complaints, requests = [], []
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for width in (1280, 390):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.on("console", lambda m: complaints.append(m.text))
            tab.on("pageerror", lambda e: complaints.append(str(e)))
            tab.on("request", lambda r: requests.append(r.url))
            tab.goto(target.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") == width
        browser.close()
    assert complaints == []
    assert all(r.startswith(("file:", "data:")) for r in requests)
