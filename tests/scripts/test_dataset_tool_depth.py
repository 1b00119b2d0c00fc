"""dataset_tool.py on files that are more than one image of 8 bits: --frames and --depth."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

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
