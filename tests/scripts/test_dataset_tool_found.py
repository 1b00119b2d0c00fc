"""dataset_tool.py on folders and zips as people have them: nothing is left out without a count."""

import json
import os
import socket

import numpy as np
import pytest

from tests.image_fixtures import (
    AVIF,
    JPEG2000,
    bad,
    good,
    last,
    pixels,
    png,
    read_set,
    write_folder,
    write_zip,
)

X = pixels(8)
G = pixels(8, channels=1)


def labels_line(result):
    (line,) = [x for x in result.output.splitlines() if x.startswith("Labels:")]
    return line


# What is an image ------------------------------------------------------------------------------

KINDS = {
    "a.jfif": "JPEG", "b.jpe": "JPEG", "c": "PNG", "d.PNG": "PNG", "e.tmp": "WEBP", "f.01": "TIFF",
    "g.pnm": "PPM", "h.jpg": "PNG", "i.jp2": "JPEG2000", "j.avif": "AVIF", "k.png!w500": "GIF",
}  # fmt: skip


def test_images_are_known_by_suffix_or_content(tmp_path):
    kinds = {name: kind for name, kind in KINDS.items()
             if (kind != "AVIF" or AVIF) and (kind != "JPEG2000" or JPEG2000)}  # fmt: skip
    files = {name: png(X[0], kind) for name, kind in kinds.items()}
    result = good(write_folder(tmp_path / "src", files), tmp_path / "o.zip", "--channels=3")
    assert last(result) == f"{len(files)} images found, {len(files)} used"
    for image in read_set(tmp_path / "o.zip")[1]:  # the lossy ones are near
        assert np.abs(image.astype(int) - X[0]).mean() < 70
    zipped = write_zip(tmp_path / "src.zip", files)
    assert last(good(zipped, tmp_path / "z.zip", "--channels=3")) == last(result)
    assert (tmp_path / "z.zip").read_bytes() == (tmp_path / "o.zip").read_bytes()


def test_other_files_are_counted_and_named(tmp_path):
    others = {
        "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(500),
        "notes.txt": b"hello",
        "P1.csv": b"P1,P2\n1,2\n",  # as a portable bitmap begins
        "bmi.csv": b"BMI,age\n22,40\n",  # as a Windows bitmap does
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "empty": b"",
        "old.zip": write_zip(tmp_path / "inner.zip", {"a.png": png(X[0])}).read_bytes(),
    }
    files = {"a/1.png": png(X[0]), "b/2.png": png(X[1]), ".DS_Store": b"x", "a/._1.png": b"junk",
             "a/dataset.json": b"{}", "gen_fid_samples_options.json": b"{}"}  # fmt: skip
    expected = (
        "2 images found, 2 used; left out: 2 hidden (.DS_Store, a/._1.png), "
        "7 not of an image format that is read (P1.csv, Thumbs.db, bmi.csv, ...), "
        "1 not beside all images (a/dataset.json)"
    )
    for make, name in ((write_folder, "src"), (write_zip, "src.zip")):
        result = good(make(tmp_path / name, files | others), tmp_path / "o.zip")
        assert last(result) == expected
        assert "2 classes from top-level folders" in labels_line(result)
    options = json.loads((tmp_path / "o-options.json").read_text())
    assert options["summary"] == expected
    dry = good(tmp_path / "src", tmp_path / "p.zip", "-n")
    assert dry.output.splitlines()[-1] == f"Nothing written: {expected}"


def test_a_damaged_image_is_an_error_and_not_left_out(tmp_path):
    cut = png(X[0], "JPEG")[:300]
    files = {"a.png": png(X[0]), "b.jfif": cut, "c": cut, "d.webp": b"junk"}
    line, output = bad(tmp_path, write_folder(tmp_path / "src", files))
    assert "3 of 4 images cannot be used: 3 unreadable" in line
    assert all(f"  {name}: unreadable" in output for name in ("b.jfif", "c", "d.webp"))


def test_what_is_no_file_is_skipped_and_never_opened(tmp_path):
    source = write_folder(tmp_path / "src", {"a.png": png(X[0])})
    os.mkfifo(source / "b.png")  # opening it would wait for ever
    os.mkfifo(source / "dataset.json")
    (source / "c.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "d"))
        result = good(source, tmp_path / "o.zip")
    named = "4 no regular file (FIFO, socket or device) (b.png, c.png, d, ...)"
    assert last(result) == f"1 images found, 1 used; left out: {named}"
    (source / "e.png").symlink_to(tmp_path / "nowhere")
    assert "  e.png: unreadable: [Errno 2]" in bad(tmp_path, source)[1]


# Folders around, names ---------------------------------------------------------------------------

IN = {"cat/0.png": png(X[0]), "dog/1.png": png(X[1])}
LABELS = {"labels": [["0.png", 1], ["1.png", 0]]}


def around(prefix, files):
    return {prefix + name: data for name, data in files.items()}


def json_of(prefix, separator="/"):
    pairs = [[f"{prefix}{name}".replace("/", separator), k] for name, k in LABELS["labels"]]
    return json.dumps({"labels": pairs}).encode()


FLAT = {"0.png": png(X[0]), "1.png": png(X[1])}
AROUND = {
    "one": (around("mine/", IN), [0, 1]),
    "two": (around("mine/inner/", IN), [0, 1]),
    "with a note": (around("mine/", IN) | {"README": b"x"}, [0, 1]),
    "split": (around("mine/train/", IN), [0, 1]),
    "a mac's": (around("mine/", IN) | around("__MACOSX/mine/", {"cat/._0.png": b"x"}), [0, 1]),
    "dot": (around("./", IN), [0, 1]),
    "backslashes": ({k.replace("/", "\\"): v for k, v in around("mine/", IN).items()}, [0, 1]),
    "folders with backslashes": (
        {"cat\\": b""} | {k.replace("/", "\\"): v for k, v in IN.items()}, [0, 1]
    ),
    "json inside": (around("mine/", FLAT | {"dataset.json": json_of("")}), [1, 0]),
    "json of outside": (around("mine/", FLAT | {"dataset.json": json_of("mine/")}), [1, 0]),
    "json with dots": (FLAT | {"dataset.json": json_of("./")}, [1, 0]),
    "json of Windows": (
        around("mine/", around("00/", FLAT) | {"dataset.json": json_of("00/", "\\")}), [1, 0]
    ),
    "json with a mark": (FLAT | {"dataset.json": b"\xef\xbb\xbf" + json_of("")}, [1, 0]),
    "json one-hot": (
        FLAT | {"dataset.json": b'{"labels": [["0.png", [0, 1.0]], ["1.png", [1.0, 0.0]]]}'}, [1, 0]
    ),
    "parts of a set": (around("mine/", {"test/0.png": png(X[0]), "train/1.png": png(X[1])}), None),
    "a single class": (around("mine/", FLAT), None),
}  # fmt: skip


@pytest.mark.parametrize("case", AROUND)
def test_folders_around_everything_are_no_classes(tmp_path, case):
    files, expected = AROUND[case]
    sources = [write_zip(tmp_path / "src.zip", files)]
    if "\\" not in "".join(files):
        sources.append(write_folder(tmp_path / "src", files))
    for source in sources:
        result = good(source, tmp_path / "o.zip")
        _, found, labels = read_set(tmp_path / "o.zip")
        np.testing.assert_array_equal(np.stack(found), X[:2])
        assert (labels and [k for _, k in labels]) == expected
        assert last(result).startswith("2 images found, 2 used")


def test_names_that_become_one(tmp_path):
    source = write_zip(tmp_path / "s.zip", {"a/0.png": png(X[0]), "a\\0.png": png(X[1])})
    assert "several entries of one name" in bad(tmp_path, source)[0]


# Labels ----------------------------------------------------------------------------------------


def test_labels_keep_their_numbers(tmp_path):
    pairs = [[f"{i}.png", [1, 2, 5, 2][i]] for i in range(4)]
    files = {f"{i}.png": png(X[i]) for i in range(4)}
    files["dataset.json"] = json.dumps({"labels": pairs}).encode()
    source = write_zip(tmp_path / "src.zip", files)
    line = labels_line(good(source, tmp_path / "o.zip"))
    assert line.startswith("Labels: 3 classes from dataset.json (1, 2, 5); networks have one class")
    assert [k for _, k in read_set(tmp_path / "o.zip")[2]] == [1, 2, 5, 2]
    result = good(source, tmp_path / "p.zip", "--max-images=2")
    assert labels_line(result).startswith("Labels: 2 of 3 classes from dataset.json (1, 2)")
    assert last(result).endswith("left out: 2 images beyond --max-images=2")


def test_max_images_says_the_classes_it_kept(tmp_path):
    files = {f"{k}/{i}.png": png(X[i]) for k in "abc" for i in range(3)}
    result = good(write_zip(tmp_path / "src.zip", files), tmp_path / "o.zip", "--max-images=4")
    assert labels_line(result) == "Labels: 2 of 3 classes from top-level folders (0 a, 1 b)"
    assert last(result) == (
        "9 images found, 4 used; left out: 5 images beyond --max-images=4"
    )  # fmt: skip
