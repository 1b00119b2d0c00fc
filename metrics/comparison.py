"""Images of a stream compared with a reference: features, distances, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import click

from dnnlib import cli
from dnnlib.options import COUNT, SEED, DeviceOptions, Float32Options, RunOptions, again, option
from dnnlib.util import Json
from metrics.detectors import BUNDLE, INCEPTION_SHA256, INPUTS, Detector, load_detector
from metrics.features import (
    FeatureStatistics,
    feature_statistics,
    frechet_distance,
    kernel_distance,
)
from metrics.image_stream import ImageStream
from metrics.reference import Reference
from torch_utils import distributed
from torch_utils.peers import agree_on_file

ENOUGH = 50_000


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(Float32Options, DeviceOptions):
    """The network that gives features, and what it is given."""

    detector: str | None = option(
        None,
        metavar="PATH|URL",
        help=f"TorchScript network that gives features  [Inception-v3 of {BUNDLE}]",
    )
    detector_sha256: str | None = option(
        None, "--detector-sha256", help="digest that its file must have"
    )
    detector_input: str = option(
        "inception",
        "--detector-input",
        type=click.Choice(list(INPUTS)),
        help="what it sees: images enlarged to 299x299 and scaled, or plain pixels",
    )
    batch: int = option(64, type=COUNT, help="images at a time")
    seed: int = option(
        0, type=SEED, help="of the choice of --num images, and of the images and subsets of the KID"
    )
    dry_run: bool = again(RunOptions, "dry_run", False)


def measure(
    stream: ImageStream,
    options: DetectorOptions,
    check: Callable[[Detector], None] = lambda _: None,
) -> tuple[FeatureStatistics | None, Detector]:
    """Feature statistics of the images of a stream, on rank 0; and the detector.

    Args:
        stream: the images.
        options: the detector and how it is used.
        check: called with the detector before the work starts.

    Raises:
        UserError: if the detector cannot be used.
    """
    name, sha256 = options.detector, options.detector_sha256
    with cli.user_errors(), distributed.session(options.device) as device:
        if options.tf32:
            distributed.allow_tf32(device)
        with distributed.rank0_first():
            detector = load_detector(name, sha256, options.detector_input, device)
        agree_on_file("--detector", name, detector.sha256)
        if detector.sha256 not in (INCEPTION_SHA256, sha256):
            distributed.print0(
                f"Warning: --detector={name} is not a network known here; use only files that you "
                f"trust, and pin this one with --detector-sha256={detector.sha256}"
            )
        check(detector)
        work = (detector.width, stream.count, options.batch, options.seed)
        return feature_statistics(stream.read, detector, *work), detector


def warnings(reference: Reference, stream: ImageStream) -> list[str]:
    """What may make the figure mean less than it seems."""
    found = []
    if stream.count < ENOUGH:
        found.append(
            f"Warning: {stream.count} images, fewer than {ENOUGH}: the FID comes out too high, and "
            "cannot be compared with figures of other numbers of images"
        )
    width = len(reference.statistics.mu)
    if stream.count <= width:
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


def distances(x: FeatureStatistics, real: FeatureStatistics, seed: int) -> Json:
    """FID and, if the reference has features, KID with its spread where there are subsets."""
    result: Json = {"fid": frechet_distance(x.mu, x.sigma, real.mu, real.sigma)}
    if x.pool is not None and real.pool is not None:
        result["kid"], sd = kernel_distance(x.pool, real.pool, seed=seed)
        result |= {} if math.isnan(sd) else {"kid_sd": sd}
    return result


def lines(result: Json, count: int) -> list[str]:
    """The figures as lines of text, each with the number of images."""
    text = [f"FID: {result['fid']:.4f} ({count} images)"]
    if "kid" in result:
        kid = round(result["kid"], 6) + 0.0  # no -0
        spread = f" +- {result['kid_sd']:.6f} over subsets" if "kid_sd" in result else ""
        text.append(f"KID: {kid:.6f}{spread} ({count} images)")
    return text
