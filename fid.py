"""Frechet Inception distance (FID) and kernel distance (KID) of generated images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.host import printable
from dnnlib.options import option, takes
from dnnlib.results import Measured, enclosed
from dnnlib.util import write_json
from metrics.comparison import ENOUGH, DetectorOptions, distances, lines, measure, warnings
from metrics.detectors import Detector
from metrics.image_stream import ImageStream, of_array, open_stream
from metrics.reference import Reference, load_reference, save_reference
from torch_utils import distributed
from torch_utils.peers import agree_on_file, local_rank, local_world_size, world_size
from torch_utils.work import digest
from training.data.images import ImageSource

CALC_EXAMPLE = """
torchrun --nproc_per_node=2 fid.py calc --images=fid-tmp --ref=fid-refs/cifar10-32x32.npz
"""
REF_EXAMPLE = """
python fid.py ref --data=datasets/cifar10-32x32.zip --dest=fid-refs/cifar10-32x32.npz
"""


@dataclass(frozen=True, kw_only=True)
class CalcOptions(DetectorOptions):
    """Which images are compared with what."""

    images: str = option(metavar="DIR|ZIP|NPZ", help="generated images")
    ref: str = option(
        metavar="FILE.npz|URL",
        help="made by fid.py ref; an https:// address may end in #sha256=...",
    )
    num: int | None = option(
        None, type=click.IntRange(min=2), help="use so many images, chosen by --seed  [all]"
    )
    dest: str | None = option(None, metavar="FILE.json", help="where to write  [{images}-fid.json]")


@dataclass(frozen=True, kw_only=True)
class RefOptions(DetectorOptions):
    """Which images become a reference."""

    data: str = option(metavar="ZIP|DIR", help="real images")
    dest: str = option(metavar="FILE.npz", help="reference to write")


@cli.group()
def main() -> None:
    """Distances between generated and real images in the features of a network.

    Both are exact under any number of processes. A figure is comparable only with those of the
    same detector, input rule, and number of images.
    """


@cli.subcommand(main, CALC_EXAMPLE)
@takes(CalcOptions)
def calc(options: CalcOptions) -> None:
    """Compare generated images with a reference."""
    images = Path(options.images)
    stem = images.with_suffix("") if images.is_file() else images
    stem = stem if stem.name else stem.resolve()  # of the folder "."
    dest = Path(options.dest or f"{stem}-fid.json")
    cli.check_writable(dest.parent, "--dest")
    with cli.user_errors("--ref"):
        reference = load_reference(options.ref)
    with cli.user_errors("--images"):
        every = open_stream(images)
    known = reference.statistics
    agree_on_file("--ref", options.ref, digest([known.mu, known.sigma]))
    looks = local_rank() == 0 and local_world_size() < world_size()  # once a machine of several
    with cli.user_errors("--images"):
        agree_on_file("--images", images, every.digest() if looks else None)
    stream = every.chosen(how_many(options, every), options.seed)
    some = f" of {every.count}, chosen by --seed={options.seed}," if stream is not every else ""
    notes = [f"{stream.count} images{some} of {stream.kind}", *warnings(reference, stream)]
    distributed.print0("\n".join(notes))
    if options.dry_run:
        return

    def check(detector: Detector) -> None:
        mismatch = reference.mismatch(detector)
        if mismatch:
            raise UserError(f"--ref={options.ref}: {mismatch}")
        flaw = distributed.broadcast(stream.flaw() if distributed.is_main() else None)
        if flaw:
            raise UserError(f"--images={flaw}")

    measured, detector = measure(stream, options, check)
    if measured is not None:
        result = distances(measured, known, options.seed)
        print("\n".join(lines(result, stream.count)))
        result |= {"images": stream.count, "detector": detector.sha256, "rule": detector.rule}
        about = {"options": options.record(), "results": result, "reference": reference.info}
        figures = [Measured(k.upper(), result[k]) for k in ("fid", "kid") if k in result]
        write_json(dest, enclosed(about, f"{stream.count} images", figures, kind="FID"))
        print(f"Results: {dest}")


@cli.subcommand(main, REF_EXAMPLE)
@takes(RefOptions)
def ref(options: RefOptions) -> None:
    """Make the reference of a data set, from all its images.

    It holds mean and covariance of the features, the features of up to 10,000 images for the KID,
    and what they were made with: some 110 MB for Inception-v3. The options lie beside it.
    """
    dest = Path(options.dest)
    if dest.suffix != ".npz" or dest.is_dir():
        raise UserError(f"--dest={dest}: name a .npz file")
    cli.check_writable(dest.parent, "--dest")
    with cli.user_errors("--data"):
        source = ImageSource(options.data)
    agree_on_file("--data", options.data, source.content_hash())
    stream = of_array(source.path, source.pixels)
    if stream.count < 2:
        raise UserError(f"--data={options.data}: 1 image has no covariance; give 2 at least")
    distributed.print0(f"{stream.count} images of {stream.kind}")
    if options.dry_run:
        return
    measured, detector = measure(stream, options)
    if measured is not None:
        info = {
            "detector": detector.sha256,
            "rule": detector.rule,
            "count": stream.count,
            "kind": stream.kind,
            "data": {"name": printable(source.path.stem), "sha256": source.content_hash()},
            "seed": options.seed,
        }
        save_reference(dest, Reference(measured, info))
        about = {"options": options.record(), "reference": info}
        made = enclosed(about, f"Reference of {stream.count} images", kind="FID")
        write_json(f"{dest.with_suffix('')}-options.json", made)
        print(f"Reference: {dest} ({dest.stat().st_size / 2**20:.1f} MiB)")


def how_many(options: CalcOptions, stream: ImageStream) -> int:
    """How many images to use.

    Raises:
        UserError: if there are too few.
    """
    if stream.count < 2:
        raise UserError(
            f"--images={options.images} holds 1 image, which has no covariance; generate at "
            f"least 2, for a published figure {ENOUGH}"
        )
    if options.num is not None and stream.count < options.num:
        raise UserError(
            f"--images={options.images} holds {stream.count} images, --num={options.num} asks for "
            "more; generate the others or lower --num"
        )
    return options.num or stream.count


if __name__ == "__main__":
    main()
