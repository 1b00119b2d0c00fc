"""NumPy files: what numpy reads, without pickles and without more memory than they have bytes."""

import io
import zipfile

import numpy as np
import pytest

from dnnlib.arrays import load_npy, load_npz
from tests.security.bounds import MIB, about_memory, memory_bound


def npy(shape, data=b"", descr="<f8"):
    """A .npy file that says that it has a shape."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def npz(path, method=zipfile.ZIP_STORED, **entries):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_reads_what_numpy_writes(tmp_path):
    x, y = np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3, dtype=np.uint8))
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(load_npy(tmp_path / "x.npy"), x)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "xy.npz", x=x, y=y, text=np.array("words"), none=np.empty((0, 4)))
        found = load_npz(tmp_path / "xy.npz")
        np.testing.assert_array_equal(found["x"], x)
        np.testing.assert_array_equal(found["y"], y)
        assert str(found["text"]) == "words"
        assert found["none"].shape == (0, 4)
        assert list(load_npz(tmp_path / "xy.npz", ("y", "z"))) == ["y"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy((2**40,)), "0 bytes for an array"),
        (npy((2**40,), b"\0" * 64), "64 bytes for an array"),
        (npy((-1,), b"\0" * 8), "damaged|negative"),
        (npy((1,), b"\0" * 8, "|O"), "Python objects"),
        (npy((2,), b"\0" * 16)[:-3], "13 bytes"),
        (b"\x93NUMPY\x09\x00", "layout"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "."),
        (b"", "."),
        (b"\x80\x04N.", "."),
    ],
)
def test_damaged_arrays(tmp_path, data, message):
    (tmp_path / "x.npy").write_bytes(data)
    npz(tmp_path / "x.npz", x=data)
    for load, name in ((load_npy, "x.npy"), (load_npz, "x.npz")):
        with memory_bound(128 * MIB), pytest.raises(ValueError, match=message) as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)
        assert not about_memory(error.value)


def test_archives_that_unpack_to_much_more_than_they_are(tmp_path):
    size = 2**28
    path = npz(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, x=npy((size // 8,), b"\0" * size))
    assert path.stat().st_size < MIB
    with memory_bound(128 * MIB), pytest.raises(ValueError, match="too many for its size"):
        load_npz(path)
    npz(tmp_path / "two.npz", x=npy((1,), b"\0" * 8))
    again = zipfile.ZipFile(tmp_path / "two.npz", "a")
    with again as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.npy", npy((1,), b"\1" * 8))
    with pytest.raises(ValueError, match="two arrays of one name"):
        load_npz(tmp_path / "two.npz")


def test_missing_files_are_told_apart(tmp_path):
    for load in (load_npy, load_npz):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "none")
