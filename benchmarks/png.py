"""Numbered PNGs of 32x32, written a block at a time beside the loop, and each on its own as before.

python -m benchmarks.png [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.common import NETWORKS, Line, quick_option, report
from dnnlib.behind import blocks_of_files
from dnnlib.util import aligned, atomic_path
from flow.integration import IMAGE_BLOCK
from flow.numbered_images import file_of, save_png

SIZES, QUICK = (5000, 50_000), (1000, 2000)
TURN = 5000  # images that each way writes before it is the other's turn: seconds of one wait each
ALL, TARGET = 50_000, 5.0


def one_by_one(folder: Path, images: np.ndarray, start: int) -> None:
    """Each with a scratch folder and two waits for the disk: how it was."""
    for k, image in enumerate(images, start):
        with atomic_path(file_of(folder, k, True)) as temporary:
            save_png(image, temporary)


def in_blocks(folder: Path, images: np.ndarray, start: int) -> None:
    """As gen_fid_samples.py writes them."""
    with blocks_of_files(folder) as write:
        for first in range(0, len(images), IMAGE_BLOCK):
            block = enumerate(images[first : first + IMAGE_BLOCK], start + first)
            write({file_of(folder, k, True): partial(save_png, image) for k, image in block})


Way = Callable[[Path, np.ndarray, int], None]


def seconds(ways: Sequence[Way], images: np.ndarray) -> list[float]:
    """Wall time of images in a folder for each way, in turns: a busy disk slows all alike."""
    NETWORKS.mkdir(parents=True, exist_ok=True)
    taken = [0.0 for _ in ways]
    with TemporaryDirectory(dir=NETWORKS) as place:
        for first in range(0, len(images), TURN):
            for k, write in enumerate(ways):
                started = time.perf_counter()
                write(Path(place, str(k)), images[first : first + TURN], first)
                taken[k] += time.perf_counter() - started
        for k in range(len(ways)):
            assert len(list(Path(place, str(k)).rglob("*.png"))) == len(images)
    return taken


@click.command()
@quick_option
def main(quick: bool) -> None:
    """Measure and write the table."""
    rows, lines = [], []
    for count in QUICK if quick else SIZES:
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        before, now = seconds((one_by_one, in_blocks), images)
        each = [1000 * s / count for s in (before, now)]
        rows.append((count, f"{before:.1f} s", f"{now:.1f} s", *[f"{ms:.2f} ms" for ms in each],
                     f"{before / now:.1f}"))  # fmt: skip
        all_of_them = [f"{ALL * ms / 1000:.0f} s for {ALL}" for ms in each]
        lines.append(Line(f"PNGs, {count}", all_of_them[1], f"one by one: {all_of_them[0]}",
                          before / now, TARGET))  # fmt: skip
    header = ("images", "one by one", "in blocks", "a file", "a file", "ratio")
    report("png", "Numbered PNGs of 32x32x3", [aligned(header, rows)], lines, quick)


if __name__ == "__main__":
    main()
