"""dataset_tool.py on folders and zips as people have them: nothing is left out without a count."""

import io
import json
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from tests.image_fixtures import bad, good, pixels, png, read_set, write_folder, write_zip

X = pixels(8)
G = pixels(8, channels=1)
JPEG2000 = features.check("jpg_2000")
AVIF = features.check("avif")


def last(result):
    """The closing line of a call."""
    return result.output.splitlines()[-1].partition(".zip: ")[2]


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


# Frames ----------------------------------------------------------------------------------------


def animated(arrays, kind, **options):
    first, *others = [Image.fromarray(x) for x in arrays]
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=others, **options)
    return buffer.getvalue()


MOVING = {
    "GIF": animated(G[:3], "GIF"),
    "TIFF": animated(X[:3], "TIFF"),
    "PNG": animated(X[:3], "PNG"),
    "WEBP": animated(X[:3], "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", MOVING)
def test_frames(tmp_path, kind):
    still = G[3] if kind == "GIF" else X[3]
    files = {"a/x": MOVING[kind], "b/y.png": png(still)}
    source = write_zip(tmp_path / "src.zip", files)
    args = ["--channels=1"] if kind == "GIF" else []
    line, output = bad(tmp_path, source, *args)
    assert "1 of several frames (give --frames=all or --frames=first)" in line
    assert "  a/x: of several frames: 3 frames" in output
    result = good(source, tmp_path / "first.zip", "--frames=first", *args)
    assert last(result) == "2 images found, 2 used; left out: 2 further frames of 1 files"
    result = good(source, tmp_path / "all.zip", "--frames=all", *args)
    assert last(result) == "4 images found, 4 used"
    _, found, labels = read_set(tmp_path / "all.zip")
    truth = (G if kind == "GIF" else X)[:4]
    np.testing.assert_array_equal(np.stack(found), truth)
    assert [k for _, k in labels] == [0, 0, 0, 1]
    np.testing.assert_array_equal(read_set(tmp_path / "first.zip")[1], truth[[0, 3]])


# More than 8 bits -------------------------------------------------------------------------------


def png16(values, kind):
    """A PNG of 16 bits a channel, [H, W, channels], by hand: Pillow writes no such colour."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">2I5B", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


RNG = np.random.default_rng(0)
TWELVE = RNG.integers(0, 4096, (8, 8, 3))
SIXTEEN = RNG.integers(0, 65536, (8, 8, 3))
SIXTEEN[0, 0, 0], TWELVE[0, 0, 0] = 65535, 4095
ALPHA = np.full((8, 8, 1), 65535)


def tiff(values):
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "TIFF")
    return buffer.getvalue()


DEEP = {
    "colour 12": (png16(TWELVE, 2), 12, TWELVE * 255 / 4095),
    "colour 16": (png16(SIXTEEN, 2), 16, SIXTEEN * 255 / 65535),
    "grey 12": (png16(TWELVE[..., 0], 0), 12, TWELVE[..., 0] * 255 / 4095),
    "grey 16": (png16(SIXTEEN[..., 0], 0), 16, SIXTEEN[..., 0] * 255 / 65535),
    "alpha 16": (png16(np.dstack([SIXTEEN, ALPHA]), 6), 16, SIXTEEN * 255 / 65535),
    "tiff 12": (tiff(TWELVE[..., 0]), 12, TWELVE[..., 0] * 255 / 4095),
}


@pytest.mark.parametrize("case", DEEP)
def test_sixteen_bits_are_scaled_or_refused(tmp_path, case):
    data, depth, truth = DEEP[case]
    source = write_folder(tmp_path / "src", {"a": data})
    line, output = bad(tmp_path, source)
    assert "not of 8 bits a channel (give --depth=16, or the bits that their values use" in line
    assert "a: not of 8 bits a channel: 16 bits" in output
    result = good(source, tmp_path / "o.zip", f"--depth={depth}")
    assert "1 images of more than 8 bits a channel are scaled to 8" in result.output
    assert np.abs(read_set(tmp_path / "o.zip")[1][0] - truth).max() <= 0.5
    too_few = bad(tmp_path, source, f"--depth={depth - 1}")[1]
    assert f"--depth={depth - 1} ends at {2 ** (depth - 1) - 1}" in too_few


def jp2(values):
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "JPEG2000")
    return buffer.getvalue()


def ppm(values, top):
    return b"P6 8 8 %d\n" % top + values.astype(">u2").tobytes()


def avif():
    """An AVIF image whose headers say 10 bits a channel."""
    data = bytearray(png(pixels(1, 64)[0], "AVIF"))
    at = data.index(b"pixi") + 8
    assert data[at : at + 4] == b"\x03\x08\x08\x08"
    data[at + 1 : at + 4] = bytes([10] * 3)
    data[data.index(b"av1C") + 6] |= 0x40  # high_bitdepth
    return bytes(data)


OTHER_DEEP = {
    "ppm": lambda: (ppm(SIXTEEN, 65535), 16),
    "ppm of 12": lambda: (ppm(TWELVE, 4095), 12),
    "jp2": lambda: (jp2(SIXTEEN[..., 0]), 16),
    "avif": lambda: (avif(), 10),
    "floats": lambda: (png(SIXTEEN[..., 0].astype(np.float32), "TIFF"), 32),
}


@pytest.mark.parametrize("case", OTHER_DEEP)
def test_other_deep_formats_are_refused(tmp_path, case):
    """Pillow would give 8 bits of most of these without a word."""
    if (case == "jp2" and not JPEG2000) or (case == "avif" and not AVIF):
        pytest.skip("this Pillow does not read it")
    data, bits = OTHER_DEEP[case]()
    source = write_folder(tmp_path / "src", {"a": data})
    assert f"a: not of 8 bits a channel: {bits} bits" in bad(tmp_path, source)[1]
    if case != "avif":  # whose bytes were only relabelled
        assert "only PNG, and grey TIFF" in bad(tmp_path, source, "--depth=16")[1]


def test_options_without_effect_are_errors(tmp_path):
    source = write_folder(tmp_path / "src", {"a.png": png(X[0])})
    assert "--depth=12: no image has more than 8 bits" in bad(tmp_path, source, "--depth=12")[0]
    assert "--frames=all: no file has several" in bad(tmp_path, source, "--frames=all")[0]


def test_transparent_images_are_counted(tmp_path):
    clear = np.dstack([X[0], np.full((8, 8), 255, np.uint8)])
    files = {"a.png": png(X[0]), "b.png": png(clear)}
    clear[0, 0, 3] = 0
    files["c.png"] = png(clear)
    result = good(write_folder(tmp_path / "src", files), tmp_path / "o.zip")
    assert "Warning: 1 images have transparent parts, which become white" in result.output
