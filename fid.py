"""Frechet Inception distance (FID) and kernel distance (KID) of generated images."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.host import printable
from dnnlib.util import write_json
from metrics.detectors import BUNDLE, INCEPTION_SHA256, INPUTS, Detector, load_detector
from metrics.features import (
    FeatureStatistics,
    feature_statistics,
    frechet_distance,
    kernel_distance,
)
from metrics.image_stream import ImageStream, open_stream
from metrics.reference import Reference, load_reference, save_reference
from torch_utils import distributed
from torch_utils.peers import agree_on_file, local_rank, local_world_size, world_size
from torch_utils.shared_work import digest
from training.data.images import ImageSource

CALC_EXAMPLE = """
torchrun --nproc_per_node=2 fid.py calc --images=fid-tmp --ref=fid-refs/cifar10-32x32.npz
"""
REF_EXAMPLE = """
python fid.py ref --data=datasets/cifar10-32x32.zip --dest=fid-refs/cifar10-32x32.npz
"""
ENOUGH = 50_000

detector_options = cli.options(
    click.option("--detector", metavar="PATH|URL",
                 help=f"TorchScript network that gives features  [Inception-v3 of {BUNDLE}]"),
    click.option("--detector-sha256", help="digest that its file must have"),
    click.option("--detector-input", type=click.Choice(list(INPUTS)), default="inception",
                 help="what it sees: images enlarged to 299x299 and scaled, or plain pixels"),
    click.option("--batch", type=click.IntRange(min=1), default=64, help="images at a time"),
    click.option("--seed", type=click.IntRange(min=0), default=0,
                 help="of the choice of --num images, and of the images and subsets of the KID"),
    cli.device_option,
    cli.dry_run_option,
)  # fmt: skip


@cli.group()
def main() -> None:
    """Distances between generated and real images in the features of a network.

    Both are exact under any number of processes. A figure is comparable only with those of the
    same detector, input rule, and number of images.
    """


@cli.subcommand(main, CALC_EXAMPLE)
@click.option("--images", required=True, metavar="DIR|ZIP|NPZ", help="generated images")
@click.option(
    "--ref",
    required=True,
    metavar="FILE.npz|URL",
    help="made by fid.py ref; an https:// address may end in #sha256=...",
)
@click.option(
    "--num", type=click.IntRange(min=2), help="use so many images, chosen by --seed  [all]"
)
@click.option("--dest", metavar="FILE.json", help="where to write  [{images}-fid.json]")
@detector_options
def calc(**options: Any) -> None:
    """Compare generated images with a reference."""
    images = Path(options["images"])
    stem = images.with_suffix("") if images.is_file() else images
    stem = stem if stem.name else stem.resolve()  # of the folder "."
    dest = Path(options["dest"] or f"{stem}-fid.json")
    cli.check_writable(dest.parent, "--dest")
    with cli.user_errors("--ref"):
        reference = load_reference(options["ref"])
    with cli.user_errors("--images"):
        stream = open_stream(images)
    known = reference.statistics
    content = digest([known.mu, known.sigma])
    agree_on_file("--ref", options["ref"], content)
    looks = local_rank() == 0 and local_world_size() < world_size()  # once a machine of several
    with cli.user_errors("--images"):
        agree_on_file("--images", images, stream.digest() if looks else None)
    count = how_many(options, stream)
    some = (
        f" of {stream.count}, chosen by --seed={options['seed']}," if count < stream.count else ""
    )
    notes = [f"{count} images{some} of {stream.kind}"]
    stream = stream.chosen(count, options["seed"])
    notes += warnings(reference, stream, count)
    distributed.print0("\n".join(notes))
    if options["dry_run"]:
        return

    def check(detector: Detector) -> None:
        mismatch = reference.mismatch(detector)
        if mismatch:
            raise UserError(f"--ref={options['ref']}: {mismatch}")
        flaw = distributed.broadcast(stream.flaw() if distributed.is_main() else None)
        if flaw:
            raise UserError(f"--images={flaw}")

    measured, detector = measure(stream, count, options, check)
    if measured is not None:
        result = distances(measured, reference.statistics, options["seed"])
        print("\n".join(lines(result, count)))
        result |= {"images": count, "detector": detector.sha256, "rule": detector.rule}
        given = {k: v for k, v in options.items() if k != "dry_run"}
        write_json(dest, {"options": given, "results": result, "reference": reference.info})
        print(f"Results: {dest}")


@cli.subcommand(main, REF_EXAMPLE)
@click.option("--data", required=True, metavar="ZIP|DIR", help="real images")
@click.option("--dest", required=True, metavar="FILE.npz", help="reference to write")
@detector_options
def ref(**options: Any) -> None:
    """Make the reference of a data set, from all its images.

    It holds mean and covariance of the features, the features of up to 10,000 images for the KID,
    and what they were made with: some 110 MB for Inception-v3. The options lie beside it.
    """
    dest = Path(options["dest"])
    if dest.suffix != ".npz" or dest.is_dir():
        raise UserError(f"--dest={dest}: name a .npz file")
    cli.check_writable(dest.parent, "--dest")
    with cli.user_errors("--data"):
        source = ImageSource(options["data"])
    c, h, w = source.shape
    kind = f"{w}x{h} {'grey' if c == 1 else 'colour'}"

    def read(block: range) -> np.ndarray:
        return source.pixels[block.start : block.stop].copy()

    agree_on_file("--data", options["data"], source.content_hash())
    stream = ImageStream(len(source), kind, read)
    if stream.count < 2:
        raise UserError(f"--data={options['data']}: 1 image has no covariance; give 2 at least")
    distributed.print0(f"{stream.count} images of {kind}")
    if options["dry_run"]:
        return
    measured, detector = measure(stream, stream.count, options, lambda _: None)
    if measured is not None:
        info = {
            "detector": detector.sha256,
            "rule": detector.rule,
            "count": stream.count,
            "kind": kind,
            "data": {"name": printable(source.path.stem), "sha256": source.content_hash()},
            "seed": options["seed"],
        }
        save_reference(dest, Reference(measured, info))
        given = {k: v for k, v in options.items() if k != "dry_run"}
        write_json(f"{dest.with_suffix('')}-options.json", {"options": given, "reference": info})
        print(f"Reference: {dest} ({dest.stat().st_size / 2**20:.1f} MiB)")


def how_many(options: dict[str, Any], stream: ImageStream) -> int:
    """How many images to use.

    Raises:
        UserError: if there are too few.
    """
    wanted = options["num"]
    if stream.count < 2:
        raise UserError(
            f"--images={options['images']} holds 1 image, which has no covariance; generate at "
            f"least 2, for a published figure {ENOUGH}"
        )
    if wanted is not None and stream.count < wanted:
        raise UserError(
            f"--images={options['images']} holds {stream.count} images, --num={wanted} asks for "
            "more; generate the others or lower --num"
        )
    return wanted or stream.count


def warnings(reference: Reference, stream: ImageStream, count: int) -> list[str]:
    """What may make the figure mean less than it seems."""
    found = []
    if count < ENOUGH:
        found.append(
            f"Warning: {count} images, fewer than {ENOUGH}: the FID comes out too high, and cannot "
            "be compared with figures of other numbers of images"
        )
    width = len(reference.statistics.mu)
    if count <= width:
        found.append(
            f"Warning: no more images than features ({width}): their covariance is singular"
        )
    if not reference.info:
        found.append(
            "Warning: the reference was made by another suite: its detector and input rule cannot "
            "be checked, and it has no features for the KID"
        )
    elif reference.info["kind"] != stream.kind:
        found.append(f"Warning: the reference is of images of {reference.info['kind']}")
    return found


def measure(
    stream: ImageStream,
    count: int,
    options: dict[str, Any],
    check: Callable[[Detector], None],
) -> tuple[FeatureStatistics | None, Detector]:
    """Feature statistics of the images of a stream, on rank 0; and the detector.

    Args:
        stream: the images.
        count: how many they are.
        options: of `detector_options`.
        check: called with the detector before the work starts.

    Raises:
        UserError: if the detector cannot be used.
    """
    with cli.user_errors(), distributed.session(options["device"]) as device:
        with distributed.rank0_first():
            detector = load_detector(
                options["detector"], options["detector_sha256"], options["detector_input"], device
            )
        agree_on_file("--detector", options["detector"], detector.sha256)
        if detector.sha256 not in (INCEPTION_SHA256, options["detector_sha256"]):
            distributed.print0(
                f"Warning: --detector={options['detector']} is not a network known here; use only "
                f"files that you trust, and pin this one with --detector-sha256={detector.sha256}"
            )
        check(detector)

        work = (detector.width, count, options["batch"], options["seed"])
        return feature_statistics(stream.read, detector, *work), detector


def distances(x: FeatureStatistics, real: FeatureStatistics, seed: int) -> dict[str, Any]:
    """FID and, if the reference has features, KID with its spread where there are subsets."""
    result: dict[str, Any] = {"fid": frechet_distance(x.mu, x.sigma, real.mu, real.sigma)}
    if x.pool is not None and real.pool is not None:
        result["kid"], sd = kernel_distance(x.pool, real.pool, seed=seed)
        result |= {} if math.isnan(sd) else {"kid_sd": sd}
    return result


def lines(result: dict[str, Any], count: int) -> list[str]:
    """The figures as lines of text, each with the number of images."""
    text = [f"FID: {result['fid']:.4f} ({count} images)"]
    if "kid" in result:
        kid = round(result["kid"], 6) + 0.0  # no -0
        spread = f" +- {result['kid_sd']:.6f} over subsets" if "kid_sd" in result else ""
        text.append(f"KID: {kid:.6f}{spread} ({count} images)")
    return text


if __name__ == "__main__":
    main()
