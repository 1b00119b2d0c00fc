"""The eigenbasis of 50,000 images in 3,072 dimensions, beside scikit-learn's PCA.

Each runs in a process of its own on the same 8-bit images; memory is the peak above what the
process held when the images were loaded. The images are smooth random fields: the cost does not
depend on what they show.

python -m benchmarks.basis
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import psutil
import torch

from benchmarks.common import ROOT, Line, peak_rss, report
from dnnlib.util import aligned
from torch_utils import seeding
from training.basis import eigenbasis

IMAGES, SIDE, BLOCK = 50_000, 32, 2048
D = 3 * SIDE**2
OURS = "streamed covariance (this suite)"
SOLVERS = {  # scikit-learn's
    "PCA full, float32": ("full", np.float32),
    "PCA full, float64": ("full", np.float64),
    "PCA covariance_eigh, float64": ("covariance_eigh", np.float64),
}
YARDSTICK = "PCA covariance_eigh, float64"  # the same algorithm, and the fastest
TARGET_TIME, TARGET_MEMORY = 1.0, 0.5


def images() -> np.ndarray:
    """Random fields with a decaying spectrum, uint8 [IMAGES, D]."""
    k = np.fft.fftfreq(SIDE)
    decay = 1 / (0.02 + np.hypot(k[:, None], k[None, :]))
    pixels = np.empty((IMAGES, D), np.uint8)
    for block, start in enumerate(range(0, IMAGES, BLOCK)):
        n = min(BLOCK, IMAGES - start)
        noise = seeding.generator(0, "basis benchmark", block).standard_normal((n, 3, SIDE, SIDE))
        field = np.fft.ifft2(np.fft.fft2(noise) * decay).real
        field *= 50 / field.std()
        pixels[start : start + n] = (field + 128).clip(0, 255).reshape(n, D)
    return pixels


def ours(pixels: np.ndarray) -> np.ndarray:
    """Eigenvalues by the suite."""

    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, IMAGES, BLOCK):
            yield torch.from_numpy(pixels[start : start + BLOCK])

    return eigenbasis(batches(), D).xi.numpy()


def by_sklearn(pixels: np.ndarray, name: str) -> np.ndarray:
    """Eigenvalues by scikit-learn."""
    from sklearn.decomposition import PCA

    solver, dtype = SOLVERS[name]
    x = pixels.astype(dtype)
    x /= dtype(127.5)
    x -= dtype(1)
    return PCA(svd_solver=solver, copy=False).fit(x).explained_variance_


def measure(name: str) -> None:
    """Run one method and print what it took, as JSON."""
    pixels = images()
    import sklearn.decomposition  # noqa: F401  (not part of what is timed)

    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    xi = ours(pixels) if name == OURS else by_sklearn(pixels, name)
    took = time.perf_counter() - start
    peak = peak_rss() - before
    print(json.dumps({"seconds": took, "bytes": peak, "xi": [float(v) for v in xi]}))


def main() -> None:
    """Measure and write the table."""
    if sys.argv[1:2] == ["--measure"]:
        return measure(sys.argv[2])
    found = {}
    for name in (OURS, *SOLVERS):
        command = [sys.executable, "-m", "benchmarks.basis", "--measure", name]
        run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found[name] = json.loads(run.stdout.splitlines()[-1])
    yard, mine = found[YARDSTICK], found[OURS]
    truth = np.array(mine["xi"])
    rows = []
    for name, f in found.items():
        difference = np.abs(np.array(f["xi"]) * (IMAGES - 1) / IMAGES - truth).max() / truth[0]
        if name == OURS:
            difference = 0.0
        rows.append(
            (
                name,
                f"{f['seconds']:.1f}",
                f"{yard['seconds'] / f['seconds']:.1f}x",
                f"{f['bytes'] / 2**30:.2f}",
                f"{f['bytes'] / yard['bytes']:.2f}",
                f"{difference:.0e}",
            )
        )
    faster = yard["seconds"] / mine["seconds"]
    share = mine["bytes"] / yard["bytes"]
    met = faster >= TARGET_TIME and share <= TARGET_MEMORY
    verdict = (
        f"Beside {YARDSTICK}: {faster:.1f}x faster (target {TARGET_TIME:g}), {share:.2f} of its "
        f"memory (target {TARGET_MEMORY:g}): {'met' if met else 'missed'}."
    )
    header = ("method", "seconds", "faster", "peak GiB", "of its memory", "eigenvalues differ by")
    title = f"Eigenbasis of {IMAGES:,} images in {D:,} dimensions"
    lines = [
        Line("eigenbasis of 50,000 images, s", f"{mine['seconds']:.1f}",
             f"{YARDSTICK} {yard['seconds']:.1f}", faster, TARGET_TIME),
        Line("its memory, GiB", f"{mine['bytes'] / 2**30:.2f}",
             f"{YARDSTICK} {yard['bytes'] / 2**30:.2f}", 1 / share, 1 / TARGET_MEMORY),
    ]  # fmt: skip
    report("basis", title, [aligned(header, rows), verdict], lines)


if __name__ == "__main__":
    main()
