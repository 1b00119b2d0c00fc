"""The user's own files: read exactly, refused clearly."""

import numpy as np
import pytest
import torch

from training.vector_data import VectorSource, read_vectors

X = np.random.default_rng(0).standard_normal((50, 3)) * [1, 10, 0.1] + [0, 100, 5]


@pytest.fixture(params=["npy", "npz", "csv", "header.csv"])
def path(request, tmp_path):
    path = tmp_path / f"mine.{request.param}"
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".npz":
        np.savez(path, data=X, other=1)
    else:
        header = "a,b,c" if "header" in path.name else ""
        np.savetxt(path, X, delimiter=",", header=header, comments="", fmt="%.17g")
    return path


def test_every_format_reads_the_same(path):
    np.testing.assert_array_equal(read_vectors(path), X)


def test_source_standardises_and_reshuffles(path):
    source = VectorSource(path)
    torch.testing.assert_close(source.scale, torch.from_numpy(X.std(0)))
    torch.testing.assert_close(source.samples(0, 10, 20), torch.from_numpy(X[10:20]))
    epochs = source.samples(0, 0, 120, "training")
    for k in (0, 50):
        np.testing.assert_array_equal(np.sort(epochs[k : k + 50], 0), np.sort(X, 0))
    assert not torch.equal(epochs[:50], epochs[50:100])
    assert torch.equal(source.samples(0, 45, 101, "training"), epochs[45:101])
    with pytest.raises(ValueError, match="holds 50 rows, 51 were asked for"):
        source.samples(0, 0, 51)


def test_constant_columns_are_known(tmp_path):
    np.save(tmp_path / "c.npy", np.column_stack([X, np.full(50, 7.7)]))
    source = VectorSource(tmp_path / "c.npy")
    assert source.constant == [3]
    assert float(source.scale[3]) == 1.0


def _npy(path, value):
    np.save(path, value, allow_pickle=True)


BAD = {
    "empty.csv": (lambda p: p.write_text(""), "no rows of numbers"),
    "header.csv": (lambda p: p.write_text("a,b\n"), "no rows of numbers"),
    "ragged.csv": (lambda p: p.write_text("1,2\n3\n"), "row 2 has 1 columns, not 2"),
    "words.csv": (lambda p: p.write_text("1,2\n3,four\n"), "'four', which is no number"),
    "binary.csv": (lambda p: p.write_bytes(b"\xff\xfe\x00\x81"), "not a text table"),
    "nan.npy": (lambda p: _npy(p, np.array([[1.0, np.nan], [2, 3]])), "row 0, column 1"),
    "gap.csv": (lambda p: p.write_text("1,2\n3,\n"), "row 1, column 1"),
    "one.npy": (lambda p: _npy(p, np.ones((1, 2))), "at least 2"),
    "cube.npy": (lambda p: _npy(p, np.ones((2, 2, 2))), "not numbers"),
    "object.npy": (lambda p: _npy(p, np.array([{}, 1])), "not a readable array"),
    "junk.npy": (lambda p: p.write_bytes(b"junk"), "not a readable array"),
    "junk.npz": (lambda p: p.write_bytes(b"junk"), "not a readable"),
    "two.npz": (lambda p: np.savez(p, a=X, b=X), "name one of them"),
    "flat.npy": (lambda p: _npy(p, np.ones((5, 2))), "every column is constant"),
    "x.txt": (lambda p: p.write_text("1 2"), "not a .npy, .npz or .csv"),
    "absent.csv": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_clear_line(tmp_path, name):
    write, reason = BAD[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=reason) as error:
        VectorSource(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
