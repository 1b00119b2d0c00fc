"""dataset_tool.py: every source comes back pixel by pixel."""

import importlib.util
import json
import pickle
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.helpers import run_script
from tests.image_fixtures import (
    bad,
    call,
    good,
    pixels,
    png,
    read_set,
    write_cifar,
    write_folder,
    write_mnist,
    write_zip,
)
from training.data.image_decode import decode

# Round trips -----------------------------------------------------------------------------------

X = pixels(10)
CLASSES = ["dog", "ant", "cat"]


def _folder(tmp):
    files = {f"{CLASSES[i % 3]}/deep/{i}.png": png(x) for i, x in enumerate(X)}
    order = sorted(range(10), key=lambda i: f"{CLASSES[i % 3]}/deep/{i}.png")
    files |= {"notes.txt": b"hello", "cat/.hidden.png": b"junk", "__MACOSX/cat/a.png": b"junk"}
    return write_folder(tmp / "src", files), X[order], [[2, 0, 1][i % 3] for i in order]


def _labelled_zip(tmp):
    files = {f"a/{i}.png": png(x) for i, x in enumerate(X)}
    labels = [[name, 7 * i % 5] for i, name in enumerate(files)][::-1]
    files["dataset.json"] = json.dumps({"labels": labels}).encode()
    return write_zip(tmp / "src.zip", files), X, [7 * i % 5 for i in range(10)]


def _unlabelled_zip(tmp):
    files = {f"{i % 2}/{i}.png": png(X[i]) for i in range(10)}
    files["dataset.json"] = b'{"labels": null}'
    order = sorted(range(10), key=lambda i: f"{i % 2}/{i}.png")
    return write_zip(tmp / "src.zip", files), X[order], None


def _flat_folder(tmp):
    return write_folder(tmp / "src", {f"{i}.bmp": png(x, "BMP") for i, x in enumerate(X)}), X, None


def _cifar(tmp):
    x, y = pixels(20, 32), [i * 3 % 10 for i in range(20)]
    return write_cifar(tmp / "cifar-10-python.tar.gz", x, y), x, y


def _cifar_repacked(tmp):
    x, y = pixels(20, 32), [i * 3 % 10 for i in range(20)]
    dumps = lambda value: pickle.dumps(value, 2)  # noqa: E731
    return write_cifar(tmp / "mine.tgz", x, y, dumps), x, y


def _mnist(tmp):
    x, y = pixels(10, 28, 1), [i * 3 % 10 for i in range(10)]
    return write_mnist(tmp, x, y), np.pad(x, ((0, 0), (2, 2), (2, 2))), y


def _digits(_):
    digits = load_digits()
    return "digits", np.rint(digits.images / 16 * 255), digits.target.tolist()


SOURCES = [_folder, _labelled_zip, _unlabelled_zip, _flat_folder, _cifar, _cifar_repacked, _mnist,
           _digits]  # fmt: skip


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_every_source_comes_back_pixel_by_pixel(tmp_path, make, dest):
    source, images, labels = make(tmp_path)
    good(source, tmp_path / dest)
    names, found, pairs = read_set(tmp_path / dest)
    assert names == [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(images))]
    np.testing.assert_array_equal(np.stack(found), images)
    assert pairs == (labels and [list(p) for p in zip(names, labels, strict=True)])


def test_result_is_stored_deterministic_and_converts_to_itself(tmp_path):
    source, _, _ = _folder(tmp_path)
    for dest in ("a.zip", "b.zip"):
        good(source, tmp_path / dest)
    first = (tmp_path / "a.zip").read_bytes()
    assert first == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
    good(tmp_path / "a.zip", tmp_path / "folder")
    good(tmp_path / "folder", tmp_path / "c.zip")
    assert first == (tmp_path / "c.zip").read_bytes()


def _labels_of(tmp_path, names):
    """Label of each name, and what the tool says about labels."""
    files = {name: png(pixels(1, 8, seed=i)[0]) for i, name in enumerate(names)}
    output = good(write_zip(tmp_path / "src.zip", files), tmp_path / "out.zip").output
    labels = read_set(tmp_path / "out.zip")[2]
    (said,) = [x for x in output.splitlines() if x.startswith("Labels:")]
    return labels and dict(zip(sorted(names), [k for _, k in labels], strict=True)), said


def test_train_and_test_are_not_classes(tmp_path):
    """The published layout of AFHQv2."""
    kinds = ["cat", "dog", "wild"]
    names = [
        f"{part}/{kind}/{i}.png" for part in ("train", "test") for kind in kinds for i in (1, 2)
    ]
    labels, said = _labels_of(tmp_path, names)
    assert labels == {name: kinds.index(name.split("/")[1]) for name in names}
    assert said == "Labels: 3 classes from folders in test and train (0 cat, 1 dog, 2 wild)"
    labels, said = _labels_of(tmp_path, ["train/b/1.png", "train/a/deep/2.png"])
    assert labels == {"train/b/1.png": 1, "train/a/deep/2.png": 0}
    assert "from folders in train (0 a, 1 b)" in said


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/cat/1.png", "bus/red/2.png"], [0, 1]),  # vehicles
        (["train/cat/1.png", "test/2.png"], [0, 1]),  # one image has no folder inside
        (["train/cat/1.png", "test/cat/2.png"], None),  # a single class is none
        (["a/1.png", "2.png"], None),
        (["1.png", "2.png"], None),
    ],
)
def test_other_folders_are_classes_at_the_top(tmp_path, names, expected):
    labels, said = _labels_of(tmp_path, names)
    order = {name: i for i, name in enumerate(sorted(names))}
    if expected is None:
        assert labels is None
        stray = " (1 of 2 images in no folder, e.g. 2.png)" if "a/1.png" in names else ""
        assert said == f"Labels: none{stray}"
    else:
        assert labels == order
        assert "2 classes from top-level folders" in said


def test_linked_class_folders_are_followed_and_loops_are_not(tmp_path):
    write_folder(tmp_path / "elsewhere", {"1.png": png(X[1])})
    source = write_folder(tmp_path / "src", {"a/0.png": png(X[0])})
    (source / "b").symlink_to(tmp_path / "elsewhere")
    (source / "a" / "up").symlink_to(source)
    good(source, tmp_path / "out.zip")
    _, found, labels = read_set(tmp_path / "out.zip")
    np.testing.assert_array_equal(np.stack(found), X[:2])
    assert [k for _, k in labels] == [0, 1]


def test_published_commands_run_as_printed(tmp_path):
    x, y = pixels(20, 32), list(range(10)) * 2
    (tmp_path / "downloads" / "cifar10").mkdir(parents=True)
    write_cifar(tmp_path / "downloads/cifar10/cifar-10-python.tar.gz", x, y)
    large = {f"{k}/{i}.jpg": png(pixels(1, 48, seed=i)[0], "JPEG") for i, k in enumerate(CLASSES)}
    write_folder(tmp_path / "downloads" / "afhqv2", large)
    commands = [
        "--source=downloads/cifar10/cifar-10-python.tar.gz --dest=datasets/cifar10-32x32.zip",
        "--source=downloads/afhqv2 --dest=datasets/afhqv2-32x32.zip --resolution=32x32",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for command in commands:
            assert call(*command.split()).exit_code == 0
    _, found, labels = read_set(tmp_path / "datasets" / "afhqv2-32x32.zip")
    assert [x.shape for x in found] == [(32, 32, 3)] * 3
    assert [k for _, k in labels] == [0, 1, 2]
    assert len(read_set(tmp_path / "datasets" / "cifar10-32x32.zip")[1]) == 20


def test_as_a_script_without_torch(tmp_path):
    done = run_script("dataset_tool.py", "--source=digits", f"--dest={tmp_path / 'd.zip'}")
    assert done.returncode == 0, done.stderr
    assert "1797 images become 8x8 grey, 64 dimensions" in done.stdout
    options = json.loads((tmp_path / "d-options.json").read_text())
    assert options["options"]["source"] == "digits"
    assert options["result"]["images"] == 1797
    assert Image.open(tmp_path / "d-images.png").size == (512, 512)
    (tmp_path / "probe.py").write_text("import dataset_tool, sys; print('torch' in sys.modules)")
    assert run_script(tmp_path / "probe.py").stdout.strip() == "False"


@pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="lmdb is optional")
def test_lsun(tmp_path):
    lmdb = importlib.import_module("lmdb")
    with lmdb.open(str(tmp_path / "bedroom"), map_size=2**20) as env, env.begin(write=True) as t:
        for i in (3, 1, 2):
            t.put(f"key{i}".encode(), png(X[i]))
        t.put(b"key4", png(pixels(1, 40)[0][:30]))
    assert "key4: not square" in bad(tmp_path, tmp_path / "bedroom", "--resolution=8x8")[1]
    good(tmp_path / "bedroom", tmp_path / "out.zip", "--max-images=3")
    _, found, labels = read_set(tmp_path / "out.zip")
    np.testing.assert_array_equal(np.stack(found), X[[1, 2, 3]])
    assert labels is None


def test_lsun_without_lmdb_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    write_folder(tmp_path / "bedroom", {"data.mdb": b""})
    assert "pip install lmdb" in bad(tmp_path, tmp_path / "bedroom")[0]


# Options ---------------------------------------------------------------------------------------


def test_center_crop_and_resize(tmp_path):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 8:24] = X[0].repeat(2, 0).repeat(2, 1)
    write_folder(tmp_path / "src", {"a.png": png(image), "b.png": png(image.transpose(1, 0, 2))})
    good(tmp_path / "src", tmp_path / "a.zip", "--transform=center-crop")
    _, (a, b), _ = read_set(tmp_path / "a.zip")
    np.testing.assert_array_equal(a, X[0].repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(b, a.transpose(1, 0, 2))
    good(tmp_path / "src", tmp_path / "b.zip", "--transform=center-crop", "--resolution=8x8")
    expected = Image.fromarray(a).resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(read_set(tmp_path / "b.zip")[1][0], np.asarray(expected))


def test_center_crop_wide_is_the_published_one(tmp_path):
    """Written down anew: rows are counted at the width of the result, columns are all kept."""
    wide = pixels(1, 20)[0][:12]  # 20 x 12
    write_folder(tmp_path / "src", {"a.png": png(wide), "b.png": png(X[0].repeat(2, 1))})
    good(tmp_path / "src", tmp_path / "a.zip", "--transform=center-crop-wide", "--resolution=16x6")
    rows = [wide[1:11], X[0].repeat(2, 1)]  # round(16 * 12 / 20) = 10 of 12, and 8 of 8
    for image, kept in zip(read_set(tmp_path / "a.zip")[1], rows, strict=True):
        expected = np.zeros((16, 16, 3), np.uint8)
        expected[5:11] = Image.fromarray(kept).resize((16, 6), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(image, expected)
    args = ["--transform=center_crop_wide", "--resolution=16,8"]  # as older commands have it
    write_folder(tmp_path / "src", {"c.png": png(pixels(1, 40)[0][:16])})  # 40 x 16: 6 rows
    line, output = bad(tmp_path, tmp_path / "src", *args)
    assert "c.png: too small to cut: 40x16 gives 40x6 of 16x8" in output
    assert "give a smaller --resolution" in line


def test_channels_convert(tmp_path):
    write_folder(tmp_path / "src", {"a.png": png(X[0]), "b.png": png(X[1][..., 0])})
    good(tmp_path / "src", tmp_path / "3.zip", "--channels=3")
    _, (a, b), _ = read_set(tmp_path / "3.zip")
    np.testing.assert_array_equal(a, X[0])
    np.testing.assert_array_equal(b, np.repeat(X[1][..., :1], 3, 2))
    good(tmp_path / "src", tmp_path / "1.zip", "--channels=1")
    _, (a, b), _ = read_set(tmp_path / "1.zip")
    assert np.abs(a - X[0] @ [0.299, 0.587, 0.114]).max() < 1
    np.testing.assert_array_equal(b, X[1][..., 0])


def test_max_images_keeps_the_classes_of_the_whole(tmp_path):
    files = {f"{k}/{i}.png": png(X[i]) for k in "abc" for i in range(3)}
    files["c/broken.png"] = b"beyond the limit, never opened"
    good(write_zip(tmp_path / "src.zip", files), tmp_path / "out.zip", "--max-images=4")
    _, found, labels = read_set(tmp_path / "out.zip")
    np.testing.assert_array_equal(np.stack(found), X[[0, 1, 2, 0]])
    assert [k for _, k in labels] == [0, 0, 0, 1]


def test_enlarged_images_are_counted_and_dry_run_writes_nothing(tmp_path):
    write_folder(tmp_path / "src", {"a.png": png(X[0]), "b.png": png(pixels(1, 16)[0])})
    result = good(tmp_path / "src", tmp_path / "o.zip", "--resolution=16x16", "-n")
    assert "Warning: 1 images are smaller" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["src"]


def test_modes_are_normalised():
    grey, colour = X[0][..., 0], X[0]
    palette = Image.fromarray(grey // 4, "L")
    palette.putpalette(list(range(256)) * 3)
    alpha = np.dstack([colour, np.full((8, 8), 255, np.uint8)])
    alpha[0, 0, 3] = 0
    white = colour.copy()
    white[0, 0] = 255
    assert decode(png(grey)).mode == "L"
    np.testing.assert_array_equal(np.asarray(decode(png(alpha))), white)
    np.testing.assert_array_equal(np.asarray(decode(png(colour, "TIFF"))), colour)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    rotated = np.asarray(decode(png(colour, exif=turned)))
    np.testing.assert_array_equal(rotated, np.rot90(colour, -1))
