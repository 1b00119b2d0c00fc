"""Data from anywhere: archives that lie about sizes, names that lead away, labels that are odd."""

import io
import struct
import tarfile
import zipfile
from functools import cache

import pytest

import dataset_tool
import toy_train
from tests.image_fixtures import pixels, png
from tests.image_networks import call, error_line
from tests.security import hostile
from tests.security.bounds import MIB, about_memory, memory_bound
from training.data.image_decode import BadImageError
from training.data.image_files import open_images


@cache
def packed() -> bytes:
    """An archive of less than 1 MiB whose image unpacks to 256 MiB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 2**28)
    return file.getvalue()


def lying_zip(path, size):
    """The same archive, which says that the image has `size` bytes."""
    data = bytearray(packed())
    local, central = data.find(b"PK\x03\x04"), data.find(b"PK\x01\x02")
    struct.pack_into("<L", data, local + 22, size)
    struct.pack_into("<L", data, central + 24, size)
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("size", [100, 2**29])
def test_packed_images_take_no_more_than_they_say(tmp_path, size):
    path = lying_zip(tmp_path / "bomb.zip", size)
    assert path.stat().st_size < MIB
    with memory_bound(128 * MIB), open_images(path) as images:
        with pytest.raises(BadImageError) as error:
            images.image(0)
        assert not about_memory(error.value)
    with memory_bound(256 * MIB):
        line = error_line(dataset_tool.main, f"--source={path}", f"--dest={tmp_path / 'd.zip'}")
    assert "1 of 1 images cannot be used" in line


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "C:a.png", "x/../../a.png", "..\\a.png"])
def test_names_that_lead_out_of_an_archive(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, png(pixels(1, 8)[0]))
    line = error_line(
        dataset_tool.main, f"--source={tmp_path / 'x.zip'}", f"--dest={tmp_path / 'd.zip'}"
    )
    assert "leads out of the archive" in line
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize("name", ["memo bomb", "huge bytes", "huge text", "deep tuple as a key"])
def test_pickles_of_image_sets_take_no_memory(tmp_path, name):
    """CIFAR-10 comes as pickles within a tar."""
    batch = hostile.refused(tmp_path / "canary")[name]
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("c/data_batch_1")
        info.size = len(batch)
        archive.addfile(info, io.BytesIO(batch))
    with memory_bound(256 * MIB):
        line = error_line(dataset_tool.main, f"--source={path}", f"--dest={tmp_path / 'd.zip'}")
    assert "data_batch_1" in line
    assert not about_memory(line)
    assert not (tmp_path / "canary").exists()


def test_tables_hold_numbers_and_nothing_is_evaluated(tmp_path):
    table = tmp_path / "x.csv"
    for cell in ("__import__('os').system('touch x')", "=cmd|'/c calc'!A0", "1e999999", "٣x"):
        table.write_text(f"1,2\n3,{cell}\n4,5\n")
        result = call(toy_train.main, f"--outdir={tmp_path}", f"--data={table}")
        assert result.exit_code == 2, result.output
        assert "x.csv: " in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]
