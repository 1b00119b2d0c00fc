"""Round-trip error of images: data to latent and back, in pixel units."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import dnnlib  # noqa: F401  (before torch)

# isort: split
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.options import COUNT, SEED, RunOptions, option, takes
from dnnlib.util import write_json
from flow.flow import Flow
from flow.images import (
    check_class,
    drawn_classes,
    how_many,
    one_hot,
    open_data,
    open_network,
    pixel_errors,
)
from flow.integration import IMAGE_BLOCK
from flow.method import IMAGE_PILOTS, Method, image_method, pilots_of
from flow.options import BlockOptions, ImageDataOptions, ImageSolverOptions, ZeroLabelOptions
from flow.results import check_results, document, save_results
from torch_utils import distributed
from torch_utils.work import Parts, compute
from training.data.images import ImageSource, to_pixels

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
        run(flow, source, replace(options, data_name=name))


def run(flow: Flow, source: ImageSource, options: MseOptions) -> None:
    """Carry the images there and back, within a session; write the results."""
    seed, total = options.seed, how_many(options.total_samples, source, "--total_samples")
    n = pilots_of(total, IMAGE_PILOTS)
    classes = drawn_classes(source, seed, 0, n)
    here = flow.given(one_hot(flow, classes))

    def pilots() -> torch.Tensor:
        return here.to_whitened(source.samples(seed, 0, n, "drawn"), 0.0, "unscaled")

    method = image_method(here, pilots, options, POINTS, dry_run=options.dry_run)
    distributed.print0(f"{total} images, {method.describe()}; network batches of {IMAGE_BLOCK}")
    if options.dry_run:
        return
    started = time.monotonic()
    name = f"{flow.schedule.name}_Roundtrip_MSE_{seed}seed_{trained_kimg(flow)}kimgs"
    folder = Path(options.save_dir)
    check_results(folder / f"{name}.json", {"network_sha256": flow.digest})
    # Images are drawn from all by the seed: a longer run has the blocks of a shorter one.
    identity = {"network": flow.digest, "data": source.content_hash(), "seed": seed}
    identity |= {"unlabelled": True} if flow.unlabelled else {}
    parts = Parts(folder / f".{name}.parts", identity | {"method": method.how()})
    if parts.count():
        distributed.print0(f"Going on: {parts.count()} blocks of an interrupted run are there")
    table, backs, evaluations = round_trips(flow, method, source, seed, total, parts)
    if table is None or backs is None:
        return
    errors = dict(zip(ERRORS, table.T, strict=True))
    result = {k: float(v.mean()) for k, v in errors.items()} | {
        "images": total,
        "evaluations_one_way": evaluations // 2,
        "largest_mse_of_an_image": float(errors["mse"].max()),
        "network_sha256": flow.digest,
        "data_sha256": source.content_hash(),
        "seconds": time.monotonic() - started,
    }
    indices = source.picks(seed, 0, total, "drawn")
    save_results(folder / f"{name}.npz", {"indices": indices, **errors})
    write_json(folder / f"{name}.json", {**result, **document(flow, options, method)})
    if options.plot:
        before = source.pixels[indices].transpose(0, 2, 3, 1)
        draw(before, backs, errors["mse_unrounded"], folder / name)
    parts.clear()
    print(json.dumps(result, indent=2))
    print(f"Results: {folder}/{name}.json", flush=True)


def trained_kimg(flow: Flow) -> str:
    """Thousands of images that the network was trained on, for a file name; "unknown" is said."""
    kimg = flow.info.get("kimg")
    if kimg is None:
        distributed.print0(
            "Note: the network does not say how long it was trained: the result's name has "
            "unknownkimgs"
        )
    return "unknown" if kimg is None else f"{kimg:.10g}"


def round_trips(
    flow: Flow, method: Method, source: ImageSource, seed: int, total: int, parts: Parts
) -> tuple[np.ndarray | None, np.ndarray | None, int]:
    """Carry drawn images to their latents and back.

    Returns:
        on rank 0 the errors of each image, [total, len(ERRORS)], and the images after the round
        trip, uint8 [total, H, W, C], elsewhere None; and the network evaluations of an image.
    """

    def there_and_back(block: range) -> dict[str, torch.Tensor]:
        x = source.samples(seed, block.start, block.stop, "drawn")
        here = flow.given(one_hot(flow, drawn_classes(source, seed, block.start, block.stop)))
        here.evaluations = 0
        back = here.round_trip(x, **method.how())
        errors = pixel_errors(x, back)
        return {
            "errors": torch.from_numpy(np.stack([errors[k] for k in ERRORS], axis=1)),
            "images": torch.from_numpy(to_pixels(back, source.shape)),
            "evaluations": torch.full((len(block),), here.evaluations),
        }

    found = compute(there_and_back, total, IMAGE_BLOCK, "round trips", parts)
    if found is None:
        return None, None, 0
    return found["errors"].numpy(), found["images"].numpy(), int(found["evaluations"].max())


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
