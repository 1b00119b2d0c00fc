"""dataset_tool.py refuses: one clear line, nothing written, nothing run."""

import gzip
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

import dataset_tool
from tests.image_fixtures import (
    bad,
    cifar_batch,
    idx,
    pixels,
    png,
    python2_pickle,
    write_cifar,
    write_folder,
    write_mnist,
    write_tar,
    write_zip,
)
from training.data.image_decode import MAX_PIXELS

X = pixels(10)


# Bad images ------------------------------------------------------------------------------------

DEEP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
FLAWS = {
    "unreadable": (png(X[0])[:90], "repair or remove"),
    "junk": (b"junk", "repair or remove"),
    "size": (png(pixels(1, 16)[0]), "--resolution="),
    "grey": (png(X[0][..., 0]), "--channels="),
    "deep": (png(DEEP), "give --depth=16"),
}


def test_every_bad_image_is_listed_at_once(tmp_path):
    files = {f"ok/{i}.png": png(x) for i, x in enumerate(X)}
    files |= {f"bad/{flaw}{k}.png": FLAWS[flaw][0] for flaw in FLAWS for k in "ab"}
    line, output = bad(tmp_path, write_folder(tmp_path / "src", files))
    assert "10 of 20 images cannot be used" in line
    assert "nothing was written" in line
    for flaw in FLAWS:
        assert FLAWS[flaw][1] in line
        for k in "ab":
            assert f"  bad/{flaw}{k}.png: " in output
    assert "  ok/" not in output
    assert "16x16 gives 16x16, most give 8x8" in output


def test_shapes_that_networks_cannot_take(tmp_path):
    write_folder(tmp_path / "tall", {"a.png": png(pixels(1, 16)[0][:8]), "b.png": png(X[0])})
    line, output = bad(tmp_path, tmp_path / "tall", "--resolution=8x8")
    assert "a.png: not square: 16x8" in output
    assert "--transform=center-crop" in line
    write_folder(tmp_path / "odd", {f"{i}.png": png(pixels(1, 12)[0]) for i in range(50)})
    line, output = bad(tmp_path, tmp_path / "odd")
    assert "50 not a power of two in size (give --resolution" in line
    assert "all 50 images: not a power of two in size: 12x12" in output


def test_decompression_bombs(tmp_path):
    side = 10 + int(MAX_PIXELS**0.5)
    bomb = png(np.zeros((side, side), bool))  # 8 MB of zeros, a few kB as a file
    huge = bytearray(png(X[0]))
    huge[16:24] = struct.pack(">2I", 60000, 60000)  # only claims its size
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    files = {"a.png": png(X[0]), "bomb.png": bomb, "huge.png": bytes(huge)}
    line, output = bad(tmp_path, write_zip(tmp_path / "src.zip", files))
    assert "2 too large (make them smaller or remove them)" in line
    assert output.count(f"too large: more than {MAX_PIXELS} pixels") == 2
    write_zip(tmp_path / "src.zip", {"a.png": png(X[0]), "b.png": bytes(2**28 + 1)})
    assert "b.png: too large: a file of 256 MiB" in bad(tmp_path, tmp_path / "src.zip")[1]


# Bad sources -----------------------------------------------------------------------------------


def _zip_with(files):
    return lambda tmp: write_zip(tmp / "s.zip", {"a.png": png(X[0])} | files)


def _labels(value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return _zip_with({"b.png": png(X[1]), "dataset.json": text})


def _twice(tmp):
    path = write_zip(tmp / "s.zip", {"a.png": png(X[0]), "b.png": png(X[1])})
    path.write_bytes(path.read_bytes().replace(b"b.png", b"a.png"))
    return path


def _file(name, data):
    return lambda tmp: write_folder(tmp / "s", {name: data}) / name


def _mnist_with(name, data):
    def make(tmp):
        path = write_mnist(tmp / "m", pixels(5, 28, 1), [1] * 5)
        (tmp / "m" / name).unlink() if data is None else (tmp / "m" / name).write_bytes(data)
        return path

    return make


def _cifar_with(name, data):
    files = {f"c/data_batch_{i}": python2_pickle(cifar_batch(pixels(2, 32), [0, 1]))
             for i in range(1, 6)}  # fmt: skip
    files |= {name: data if isinstance(data, bytes) else python2_pickle(data)}
    return lambda tmp: write_tar(tmp / "c.tar.gz", {k: v for k, v in files.items() if v})


IMAGES_FILE, LABELS_FILE = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
WHOLE = idx(pixels(5, 28, 1))
BATCH = cifar_batch(pixels(2, 32), [0, 1])
BAD_SOURCES = {
    "absent": (lambda tmp: tmp / "nowhere", "no such file or folder"),
    "text": (_file("a.txt", b"hi"), "not a folder, .zip, CIFAR-10"),
    "empty": (
        lambda tmp: write_folder(tmp / "s", {"a.txt": b"hi"}),
        "holds no images; left out: 1 not of an image format that is read (a.txt)",
    ),
    "zip dots": (_zip_with({"../../evil.png": b""}), "'../../evil.png' leads out"),
    "zip inner dots": (_zip_with({"a/../../b.txt": b""}), "'a/../../b.txt' leads out"),
    "zip absolute": (_zip_with({"/etc/evil.png": b""}), "'/etc/evil.png' leads out"),
    "zip drive": (_zip_with({"C:\\evil.png": b""}), "leads out of the archive"),
    "zip backslash": (_zip_with({"a\\..\\..\\evil.png": b""}), "leads out of the archive"),
    "zip twice": (_twice, "several entries of one name"),
    "zip junk": (_file("a.zip", b"junk"), "not a readable zip archive"),
    "labels junk": (_labels(b"{"), "dataset.json: not JSON"),
    "labels deep": (_labels(b"[" * 100000), "dataset.json: not JSON"),
    "labels list": (_labels([["a.png", 1]]), "dataset.json: must be {"),
    "labels other": (_labels({"labels": {"a.png": 1}}), "dataset.json: must be {"),
    "labels triple": (_labels({"labels": [["a.png", 1, 2]]}), "dataset.json: holds"),
    "labels word": (_labels({"labels": [["a.png", "cat"]]}), "a.png has the label cat"),
    "labels negative": (_labels({"labels": [["a.png", -1]]}), "a.png has the label -1"),
    "labels true": (_labels({"labels": [["a.png", True]]}), "a.png has the label True"),
    "labels huge": (_labels({"labels": [["a.png", 10**9]]}), "whole numbers from 0 to 99999"),
    "labels soft": (_labels({"labels": [["a.png", [0.5, 0.5]]]}), "only one-hot ones are read"),
    "labels mixed": (
        _labels({"labels": [["a.png", [0, 1]], ["b.png", 1]]}),
        "labels of several forms",
    ),
    "labels twice": (_labels({"labels": [["a.png", 1]] * 2}), "labels a.png twice"),
    "labels few": (_labels({"labels": [["a.png", 1]]}), "1 of 2 images have no label, e.g. b.png"),
    "labels many": (
        _labels({"labels": [[f"{k}.png", 1] for k in "abcd"]}),
        "labels 2 images that are not there, e.g. c.png",
    ),
    "mnist alone": (_mnist_with(LABELS_FILE, None), "its labels are missing; put the labels file"),
    "mnist renamed": (_file("x.gz", WHOLE), "keep the published names"),
    "mnist swapped": (_file(LABELS_FILE, idx(np.zeros(3, np.uint8))), "is it the other file?"),
    "mnist cut": (_mnist_with(IMAGES_FILE, WHOLE[:-900]), "not a whole .gz file"),
    "mnist short": (
        _mnist_with(IMAGES_FILE, gzip.compress(gzip.decompress(WHOLE)[:-9])),
        "ends after 3911 of 3920 bytes",
    ),
    "mnist claims": (
        _mnist_with(IMAGES_FILE, gzip.compress(struct.pack(">4I", 2051, *[2**31] * 3))),
        "claims to hold",
    ),
    "mnist no gz": (_mnist_with(IMAGES_FILE, b"junk"), "not a whole .gz file"),
    "mnist counts": (_mnist_with(LABELS_FILE, idx(np.zeros(3, np.uint8))), "3 labels for 5 images"),
    "cifar junk": (_file("c.tar.gz", b"junk"), "not a whole .tar.gz archive"),
    "cifar other": (lambda tmp: write_tar(tmp / "c.tar.gz", {"train": b""}), "data_batch_1, data"),
    "cifar four": (_cifar_with("c/data_batch_3", b""), "data_batch_3 missing"),
    "cifar text": (_cifar_with("c/data_batch_3", b"junk"), "c/data_batch_3"),
    "cifar list": (_cifar_with("c/data_batch_3", [1, 2]), "c/data_batch_3 does not hold bytes"),
    "cifar rows": (_cifar_with("c/data_batch_3", BATCH | {"labels": [1]}), "does not hold bytes"),
    "cifar label": (_cifar_with("c/data_batch_3", BATCH | {"labels": [1, 10]}), "labels from 0"),
    "cifar floats": (
        _cifar_with("c/data_batch_3", BATCH | {"data": np.zeros((2, 3072))}),
        "does not hold bytes",
    ),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_sources_are_one_clear_line(tmp_path, case):
    make, reason = BAD_SOURCES[case]
    line, _ = bad(tmp_path, make(tmp_path))
    assert reason in line
    assert "--source" in line


def test_truncated_cifar(tmp_path):
    whole = write_cifar(tmp_path / "whole.tar.gz", pixels(20, 32), [1] * 20).read_bytes()
    for length in (len(whole) // 2, len(whole) - 9):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:length])
        assert "cut.tar.gz: " in bad(tmp_path, tmp_path / "cut.tar.gz")[0]


class Hostile:
    """Unpickled in the usual way, this creates a file."""

    def __init__(self, path, how):
        self.path, self.how = str(path), how

    def __reduce__(self):
        if self.how == "exec":
            return exec, (f"open({self.path!r}, 'w').close()",)
        return Path.touch, (Path(self.path),)


def test_hostile_pickles_do_not_run(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Hostile(canary, "exec"), 2))
    assert canary.exists()  # the bait works
    canary.unlink()
    batch = cifar_batch(pixels(2, 32), [0, 1])
    attacks = {
        "exec": pickle.dumps(batch | {"filenames": Hostile(canary, "exec")}, 2),
        "touch": pickle.dumps([Hostile(canary, "touch")], 4),
        "system": b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.",
        "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
        "numpy": b"cnumpy\nsave\n(S'" + str(canary).encode() + b"'\nI1\ntR.",
        "codec": b"c_codecs\nencode\n(Vabc\nVzip\ntR.",
        "setstate": b"c_codecs\nencode\n}(S'__doc__'\nS'x'\nub.",
    }
    reasons = {
        "exec": "asks for __builtin__.exec",
        "touch": "Path.touch, which no image data needs",
        "system": "asks for posix.system",
        "getattr": "asks for builtins.getattr",
        "numpy": "asks for numpy.save",
        "codec": "the pickle operation UNICODE",
        "setstate": "the pickle operation STRING",
    }
    for name, attack in attacks.items():
        source = _cifar_with("c/data_batch_3", attack)(tmp_path)
        line, _ = bad(tmp_path, source)
        assert not canary.exists()
        assert "data_batch_3" in line
        assert reasons[name] in line


# Bad destinations and options ------------------------------------------------------------------

BAD_OPTIONS = {
    "word": (["--resolution=32"], "'32' is not of the form WxH"),
    "zero": (["--resolution=0x0"], "not of the form WxH"),
    "rectangle": (["--resolution=16x8"], "--resolution=16x8: not square"),
    "power": (["--resolution=12x12"], "12 is not a power of two"),
    "wide alone": (["--transform=center-crop-wide"], "needs --resolution"),
    "wide tall": (["--transform=center-crop-wide", "--resolution=8x8"], "width above the height"),
    "transform": (["--transform=zoom"], "'zoom' is not one of"),
    "channels": (["--channels=2"], "'2' is not one of"),
    "max": (["--max-images=0"], "'--max-images'"),
    "frames": (["--frames=all"], "--frames and --depth are for folders and .zip archives"),
    "depth": (["--depth=8"], "'--depth'"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(tmp_path, case):
    args, reason = BAD_OPTIONS[case]
    assert reason in bad(tmp_path, "digits", *args)[0]


def test_bad_destinations(tmp_path):
    source = write_folder(tmp_path / "src", {"a.png": png(X[0])})
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.zip").mkdir()
    cases = {
        tmp_path / "x.tar": "name a .zip file",
        tmp_path / "file": "is a file",
        tmp_path / "file" / "x.zip": "is a file, not a folder",
        tmp_path / "folder.zip": "is a folder",
        source: "not empty",
        source / "inside": "lies in --source",
    }
    for dest, reason in cases.items():
        assert reason in bad(tmp_path, source, dest=dest)[0]
    zipped = write_zip(tmp_path / "s.zip", {"a.png": png(X[0])})
    assert "lies in --source" in bad(tmp_path, zipped, dest=zipped)[0]


@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_a_crash_while_writing_leaves_nothing(tmp_path, monkeypatch, dest):
    source = write_folder(tmp_path / "src", {f"{i}.png": png(x) for i, x in enumerate(X)})

    def full(self, image, count=[]):  # noqa: B006
        count.append(1)
        if len(count) > 5:
            raise OSError(28, "No space left on device")
        return image

    monkeypatch.setattr(dataset_tool.Plan, "apply", full)
    line, _ = bad(tmp_path, source, dest=tmp_path / dest)
    assert "No space left on device" in line
