"""Round-trip error of images: data to latent and back, in pixel units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import dnnlib  # noqa: F401  (before torch)

# isort: split
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.options import COUNT, SEED, RunOptions, option, takes
from flow.flow import Flow
from flow.images import Drawn, check_class, open_data, open_network, pixel_errors
from flow.method import Method
from flow.options import BlockOptions, ImageDataOptions, ImageSolverOptions, ZeroLabelOptions
from flow.results import Record
from torch_utils import distributed
from torch_utils.work import compute
from training.data.images import to_pixels

EXAMPLE = """
python calc_roundtrip_mse.py --save_dir=mse-tmp --network=out --data_root=datasets/digits-8x8.zip
"""
POINTS = 256  # of the Heun grid, the published default; the paper's round trips have 118
WORST = 8
ERRORS = ("mse", "mse_uint8_wrapped", "mse_unrounded")


@dataclass(frozen=True, kw_only=True)
class MseOptions(ImageSolverOptions, ZeroLabelOptions, BlockOptions, ImageDataOptions, RunOptions):
    """Options of the script."""

    total_samples: int = option(10000, type=COUNT, help="images, drawn without replacement")
    seed: int = option(42, type=SEED, help="of the choice of images")


@cli.command(EXAMPLE)
@takes(MseOptions)
@cli.without_effect("--save_freq", "only the ends of a round trip are kept")
def main(options: MseOptions) -> None:
    """Measure the round-trip error of images, in squared pixel units (of 0 to 255).

    Writes {schedule}_Roundtrip_MSE_{seed}seed_{kimg}kimgs.json, kimg being how many thousand images
    the network was trained on: mse, of both images rounded to pixel values; mse_unrounded; and
    mse_uint8_wrapped, the mse with the difference and its square modulo 256, as published numbers
    were computed, for comparison with these alone. The error of each image is in the .npz beside
    it. After an interruption the same command goes on.
    """
    flow, name = open_network(options)
    check_class(flow, options.class_)
    source = open_data(flow, options.data_root)
    cli.check_writable(options.save_dir, "--save_dir")
    with distributed.session(options.device):
        wanted, option = options.total_samples, "--total_samples"
        images = Drawn.most(flow, source, options.seed, wanted, option)
        run(images, replace(options, data_name=name, bs=flow.block))


def run(images: Drawn, options: MseOptions) -> None:
    """Carry the images there and back, within a session; write the results."""
    flow, method = images.flow, images.method(options, POINTS)
    distributed.print0(
        f"{images.total} images, {method.describe()}; network batches of {flow.block}"
    )
    if options.dry_run:
        return
    name = f"{flow.schedule.name}_Roundtrip_MSE_{options.seed}seed_{trained_kimg(flow)}kimgs"
    stem = Path(options.save_dir) / name
    record = Record.begin(f"{stem}.json", flow, options, method)
    parts = images.parts(stem.with_name(f".{name}.parts"), method=method.how())
    found = compute(
        lambda block: round_trip(images, method, block), images.total, flow.block, "round trips",
        parts,
    )  # fmt: skip
    if found is None:
        return
    errors = dict(zip(ERRORS, found["errors"].numpy().T, strict=True))
    result = {k: float(v.mean()) for k, v in errors.items()} | {
        "images": images.total,
        "evaluations_one_way": int(found["evaluations"].max()) // 2,
        "largest_mse_of_an_image": float(errors["mse"].max()),
        "data_sha256": images.source.content_hash(),
    }
    indices = images.indices()
    record.save(f"{stem}.npz", {"indices": indices, **errors})
    if options.plot:
        before = images.source.pixels[indices].transpose(0, 2, 3, 1)
        draw(before, found["images"].numpy(), errors["mse_unrounded"], stem)
    record.finish(result, f"{stem}.json", "Round trips", flat=True)
    parts.clear()


def trained_kimg(flow: Flow) -> str:
    """Thousands of images that the network was trained on, for a file name; "unknown" is said."""
    kimg = flow.info.get("kimg")
    if kimg is None:
        distributed.print0(
            "Note: the network does not say how long it was trained: the result's name has "
            "unknownkimgs"
        )
    return "unknown" if kimg is None else f"{kimg:.10g}"


def round_trip(images: Drawn, method: Method, block: range) -> dict[str, torch.Tensor]:
    """Carry images of a block to their latents and back.

    Returns:
        "errors" of each, [n, len(ERRORS)], "images" after the round trip, uint8 [n, H, W, C], and
        network "evaluations" of each, [n].
    """
    x = images.data(block)
    flow = images.flow.given(images.labels(block))
    back = flow.round_trip(x, **method.how())
    errors = pixel_errors(x, back)
    return {
        "errors": torch.from_numpy(np.stack([errors[k] for k in ERRORS], axis=1)),
        "images": torch.from_numpy(to_pixels(back, images.source.shape)),
        "evaluations": torch.full((len(block),), flow.evaluations),
    }


def draw(before: np.ndarray, after: np.ndarray, errors: np.ndarray, stem: Path) -> None:
    """A histogram of the images' errors, and the worst images above their round trips.

    Args:
        before, after: images, uint8 [n, H, W, C].
        errors: of each image, [n].
        stem: beginning of the files' names.
    """
    plot.histogram(
        f"{stem}_errors.png",
        np.log10(np.maximum(errors, 1e-30)),
        "log10 of squared error before rounding, pixel²",
        "Round-trip error of each image",
    )
    worst = np.argsort(errors)[::-1][:WORST]
    pairs = np.concatenate([before[worst], after[worst]])
    plot.image_grid(f"{stem}_worst.png", pairs, len(worst))


if __name__ == "__main__":
    main()
