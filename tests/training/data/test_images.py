"""ImageSource: the same samples whatever the batch, the process count or the container."""

import hashlib
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import dataset_tool
from metrics.image_stream import open_stream
from tests.helpers import run_script
from tests.image_fixtures import pixels, png, write_folder, write_zip
from torch_utils import distributed
from training.basis import eigenbasis
from training.data import images as image_data
from training.data.images import ImageSource, to_pixels

N = 23
X = pixels(N, 4)
FLAT = torch.from_numpy(X.transpose(0, 3, 1, 2).reshape(N, -1) / 127.5 - 1).float()


@pytest.fixture
def path(tmp_path):
    """Classes 0 and 1 (folders a and b), images in the order of X."""
    files = {f"{'a' if i < 9 else 'b'}/{i:02d}.png": png(x) for i, x in enumerate(X)}
    return write_zip(tmp_path / "mine.zip", files)


def test_pixels_and_units(path):
    source = ImageSource(path)
    assert (source.shape, source.dim, len(source)) == ((3, 4, 4), 48, N)
    assert torch.equal(source.scale, torch.ones(48).double())
    torch.testing.assert_close(source.samples(0, 0, N), FLAT)
    assert source.samples(0, 5, 5).shape == (0, 48)
    assert source.samples(0, 0, 2).dtype == torch.float32
    assert source.labels(0, 0, N) is None
    with pytest.raises(ValueError, match="holds 23 images, 24 were asked for"):
        source.samples(0, 0, N + 1)
    raw = (source.samples(0, 0, N) + 1) * 127.5
    assert torch.equal(raw.round().byte(), torch.tensor(source.pixels).flatten(1))
    assert float((raw - raw.round()).abs().max()) < 1e-4


def test_training_stream_is_the_same_whatever_the_split(path):
    source = ImageSource(path, use_labels=True)
    whole = source.samples(3, 0, 100, "training")
    for k in range(4):  # an epoch is every image once, in another order each time
        epoch = whole[k * N : (k + 1) * N]
        assert torch.equal(epoch.sort(0).values, source.samples(0, 0, N).sort(0).values)
    assert not torch.equal(whole[:N], whole[N : 2 * N])
    for size in (1, 7, 64):
        pieces = [source.samples(3, i, min(i + size, 100), "training")
                  for i in range(0, 100, size)]  # fmt: skip
        assert torch.equal(torch.cat(pieces), whole)
    resumed = ImageSource(path, use_labels=True)
    assert torch.equal(resumed.samples(3, 45, 100, "training"), whole[45:])
    assert torch.equal(resumed.samples(3, 0, 100, "training"), whole)
    assert not torch.equal(resumed.samples(4, 0, 100, "training"), whole)
    by_pixels = {tuple(x.tolist()): k for x, k in zip(source.samples(0, 0, N),
                 source.labels(0, 0, N).argmax(1).tolist(), strict=True)}  # fmt: skip
    labels = resumed.labels(3, 0, 100, "training").argmax(1)
    assert [by_pixels[tuple(x.tolist())] for x in whole] == labels.tolist()


def test_drawn_without_replacement(path):
    source = ImageSource(path, use_labels=True)
    picks = source.picks(5, 0, N, "drawn")
    assert sorted(picks) == list(range(N))
    assert list(picks) != list(range(N)) != list(source.picks(6, 0, N, "drawn"))
    np.testing.assert_array_equal(source.picks(5, 4, 9, "drawn"), picks[4:9])
    torch.testing.assert_close(source.samples(5, 4, 9, "drawn"), FLAT[picks[4:9]])
    assert source.labels(5, 0, N, "drawn").argmax(1).tolist() == [int(i >= 9) for i in picks]
    assert (to_pixels(FLAT, (3, 4, 4)) == X).all()


def test_labels_are_one_hot(path, tmp_path):
    source = ImageSource(path, use_labels=True)
    labels = source.labels(0, 0, N)
    assert (labels.dtype, source.classes) == (torch.float32, 2)
    np.testing.assert_array_equal(labels, np.eye(2)[[0] * 9 + [1] * 14])
    part = ImageSource(path, use_labels=True, max_size=1)  # knows of the class it has not drawn
    assert part.labels(0, 0, 1).shape == (1, 2)
    files = {"a/1.png": png(X[0]), "b/2.png": png(X[1]), "dataset.json": b'{"labels": null}'}
    write_zip(tmp_path / "null.zip", files)
    assert ImageSource(tmp_path / "null.zip").labels(0, 0, 2) is None
    with pytest.raises(ValueError, match=r"null\.zip: has no labels"):
        ImageSource(tmp_path / "null.zip", use_labels=True)


def test_xflip_doubles_the_set(path):
    source = ImageSource(path, xflip=True, use_labels=True)
    assert len(source) == 2 * N
    x = source.samples(0, 0, 2 * N).reshape(-1, 3, 4, 4)
    assert torch.equal(x[N:], x[:N].flip(3))
    torch.testing.assert_close(x[:N].flatten(1), FLAT)
    assert torch.equal(source.labels(0, N, 2 * N), source.labels(0, 0, N))
    drawn = source.samples(0, 0, 2 * N, "training")
    assert torch.equal(drawn.sort(0).values, x.flatten(1).sort(0).values)
    assert sum(len(b) for b in source.basis_batches()) == 2 * N
    mean = eigenbasis(source.basis_batches(), 48).mean.reshape(3, 4, 4)
    torch.testing.assert_close(mean, mean.flip(2))  # a mirrored set is symmetric


def test_max_size_draws_a_subset_by_seed(path):
    rows = {tuple(x.tolist()): i for i, x in enumerate(ImageSource(path).samples(0, 0, N))}

    def chosen(**options):
        source = ImageSource(path, **options)
        return [rows[tuple(x.tolist())] for x in source.samples(0, 0, len(source))]

    first = chosen(max_size=10)
    assert len(first) == 10
    assert first == sorted(set(first)) != list(range(10))
    assert chosen(max_size=10) == first
    assert chosen(max_size=10, seed=1) != first
    assert set(chosen(max_size=5)) < set(first)
    assert chosen(max_size=99) == list(range(N))
    assert len(ImageSource(path, max_size=10, xflip=True)) == 20
    with pytest.raises(ValueError, match="max_size=0 leaves no images"):
        ImageSource(path, max_size=0)


def test_content_hash_is_of_pixels_and_labels(path, tmp_path):
    ours = ImageSource(path).content_hash()
    files = {f"{'a' if i < 9 else 'b'}/{i:02d}.bmp": png(x, "BMP") for i, x in enumerate(X)}
    assert ImageSource(write_folder(tmp_path / "folder", files)).content_hash() == ours
    assert ImageSource(path, use_labels=True, xflip=True).content_hash() == ours
    labels = np.repeat([0, 1], [9, 14]).astype("<i8")
    planes = np.ascontiguousarray(X.transpose(0, 3, 1, 2))
    expected = hashlib.sha256(b"(23, 3, 4, 4)" + planes.tobytes() + labels.tobytes())
    assert ours == expected.hexdigest()
    files["b/22.bmp"] = png(255 - X[22], "BMP")
    assert ImageSource(write_folder(tmp_path / "other", files)).content_hash() != ours
    assert ImageSource(path, max_size=22).content_hash() != ours
    described = ImageSource(path).description()
    assert (described["sha256"], described["name"]) == (ours, "mine")
    assert described["shape"] == [3, 4, 4]


def test_reads_what_the_tool_writes(tmp_path):
    dest = tmp_path / "digits-8x8.zip"
    done = CliRunner().invoke(dataset_tool.main, ["--source=digits", f"--dest={dest}"])
    assert done.exit_code == 0
    source = ImageSource(dest, use_labels=True)
    assert (len(source), source.shape, source.classes) == (1797, (1, 8, 8), 10)
    assert source.samples(0, 0, 1797).aminmax() == (-1, 1)
    assert source.labels(0, 0, 10).argmax(1).tolist() == list(range(10))


BAD = {
    "size": ({"a.png": png(X[0]), "b.png": png(pixels(1, 8)[0])}, "b.png is 8x8 colour, a.png is"),
    "grey": ({"a.png": png(X[0]), "b.png": png(X[1][..., 0])}, "b.png is 4x4 grey"),
    "broken": ({"a.png": png(X[0])[:60]}, "a.png is unreadable"),
    "none": ({"a.txt": b""}, "holds no images"),
    "labels": ({"a.png": png(X[0]), "dataset.json": b"{}"}, "dataset.json: must be"),
    "deep": (
        {"a.png": png(np.full((4, 4), 999, np.uint16))},
        "a.png is not of 8 bits a channel: 16 bits; see --depth of dataset_tool.py",
    ),
    "frames": (
        {"a.tif": png(X[0], "TIFF", save_all=True, append_images=[Image.fromarray(X[1])])},
        "a.tif is of several frames: 2 frames; see --frames of dataset_tool.py",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sets_are_one_clear_line(tmp_path, case):
    files, reason = BAD[case]
    with pytest.raises(ValueError, match=reason) as error:
        ImageSource(write_zip(tmp_path / "set.zip", files))
    assert "set.zip" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_folder_holds_beside_images_is_said(tmp_path, capsys):
    source = write_folder(tmp_path / "set", {"a": png(X[0]), "b.jfif": png(X[1]), "n.txt": b"x"})
    assert len(ImageSource(source)) == 2
    said = f"Note: {source}: 2 images; left out: 1 not of an image format that is read (n.txt)\n"
    assert capsys.readouterr().out == said
    open_stream(source)
    assert capsys.readouterr().out == said


def test_other_files_are_refused(tmp_path):
    for name, reason in {"a.npz": "neither a folder nor a .zip", "b.zip": "not a readable"}.items():
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(ValueError, match=reason):
            ImageSource(tmp_path / name)
    with pytest.raises(ValueError, match="no such file"):
        ImageSource(tmp_path / "c.zip")


WORKER = """
import json, os, sys
from training.data.images import ImageSource
from torch_utils import distributed

source = ImageSource(sys.argv[1], xflip=True)
with distributed.session("cpu"):
    mine = sum(len(b) for b in source.basis_batches())
    base = source.pixels
    while base.base is not None and type(base).__name__ != "memmap":
        base = base.base
    kind = type(base).__name__
    found = [kind, source.pixels.flags.writeable, source.content_hash(), mine]
    with open(f"{sys.argv[2]}-{distributed.rank()}.json", "w") as file:
        json.dump(found, file)
"""


def test_processes_share_one_copy(path, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(cache))
    (tmp_path / "worker.py").write_text(WORKER)
    expected = ImageSource(path)
    assert not cache.exists()  # one process needs no cache
    for damage in (False, True):
        done = run_script(tmp_path / "worker.py", path, tmp_path / "out", processes=2)
        assert done.returncode == 0, done.stderr
        found = [json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in (0, 1)]
        assert [f[:3] for f in found] == [["memmap", False, expected.content_hash()]] * 2
        assert found[0][3] + found[1][3] == 2 * N
        (cached,) = (cache / "images").iterdir()
        np.testing.assert_array_equal(np.load(cached), expected.pixels)
        if not damage:  # what was cut short is made anew
            cached.write_bytes(cached.read_bytes()[:-100])
            stamp = cached.stat().st_ino
    assert cached.stat().st_ino != stamp


def test_cache_is_keyed_by_content(path, tmp_path, monkeypatch):
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_data, "local_world_size", lambda: 2)
    first = ImageSource(path)
    assert torch.equal(
        first.samples(0, 0, N, "training"), ImageSource(path).samples(0, 0, N, "training")
    )
    assert len(ImageSource(path, max_size=3)) == 3
    write_zip(path, {"a.png": png(X[1]), "b.png": png(X[0])})
    np.testing.assert_array_equal(ImageSource(path).pixels[0], X[1].transpose(2, 0, 1))
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 3
    monkeypatch.setattr(distributed, "local_rank", lambda: 1)  # this one waits, never decodes
    write_zip(path, {"a.png": png(X[2]), "b.png": png(X[0])})
    monkeypatch.setattr("training.data.images.CACHE_WAIT", 0.2)
    with pytest.raises(ValueError, match="was not there after"):
        ImageSource(path)


def test_large_sets_are_decoded_once(path, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(cache))
    expected = ImageSource(path)
    assert not cache.exists()  # small: decoded anew
    monkeypatch.setattr("training.data.images.CACHE_MIN", N * 48)
    ImageSource(path, cache=False)
    assert not cache.exists()
    for _ in range(2):
        source = ImageSource(path)
        np.testing.assert_array_equal(source.pixels, expected.pixels)
        assert source.content_hash() == expected.content_hash()
        with monkeypatch.context() as patch:  # from now on without decoding more than a look
            patch.setattr("training.data.images._fill", None)
            np.testing.assert_array_equal(ImageSource(path).pixels, expected.pixels)


def test_without_room_for_a_cache_pixels_stay_in_memory(path, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("training.data.images.CACHE_MIN", 1)
    np.testing.assert_array_equal(ImageSource(path).pixels, ImageSource(path, cache=False).pixels)


def test_uncached_processes_decode_for_themselves(path, tmp_path, monkeypatch):
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    ImageSource(path, cache=False)
    assert not (tmp_path / "cache").exists()
