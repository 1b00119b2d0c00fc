"""Quality of generated images without a download: what a small classifier makes of them.

A classifier is trained on four fifths of a labelled data set. Images are then compared with its
training images in the features of its last layer but one, and by how sure it is of them. Held-out
real images are the yardstick on one side; on the other, noise with the data's mean and covariance,
which is what a model would draw that had learned nothing else. The distances are no FID: that has
another network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import COUNT, SEED, Options, option, takes
from dnnlib.results import enclosed
from dnnlib.util import Json, write_json
from metrics.classifier import Judgement, hold_out, judge, train
from metrics.features import frechet_distance, kernel_distance, statistics_of
from torch_utils import seeding
from training.data.images import ImageSource

EXAMPLE = """
python -m metrics.digit_quality --data=datasets/digits-8x8.zip --images=fid-tmp \\
    --dest=out/quality.json
"""
MIN_ACCURACY = 0.97
HELD_OUT = 0.2
SURE = 0.9
REAL, NOISE = "held-out real", "Gaussian noise"


@dataclass(frozen=True, kw_only=True)
class QualityOptions(Options):
    """Which images are judged by which."""

    data: str = option(metavar="ZIP|DIR", help="real images with labels")
    images: tuple[str, ...] = option(
        (), multiple=True, metavar="ZIP|DIR", help="generated images; may be given several times"
    )
    dest: str | None = option(None, metavar="FILE.json", help="where to write the numbers")
    epochs: int = option(20, type=COUNT, help="of the classifier")
    seed: int = option(0, type=SEED, help="of split and training")


@cli.command(EXAMPLE)
@takes(QualityOptions)
def main(options: QualityOptions) -> None:
    """Compare generated images with real ones in the features of a small classifier."""
    if options.dest:
        cli.check_writable(Path(options.dest).parent, "--dest")
    with cli.user_errors("--data"):
        real = ImageSource(options.data, use_labels=True)
    sets = {}
    for path in options.images:
        with cli.user_errors("--images"):
            source = ImageSource(path)
        check_alike(path, source, options.data, real)
        sets[path] = samples(source)
    report = measure(real, sets, options.epochs, options.seed)
    print("\n".join(table(report)))
    if options.dest:
        content = {"options": options.record(), **report}
        write_json(options.dest, enclosed(content, "Quality of digits", kind="Image quality"))
        print(f"Results: {options.dest}")


def check_alike(path: str, images: ImageSource, data: str, real: ImageSource) -> None:
    """Check that generated images are of the size and colour of the real ones.

    Raises:
        UserError: naming both.
    """
    if images.shape != real.shape:
        raise UserError(
            f"--images={path} holds images of {images.kind}, --data={data} of {real.kind}; "
            "generate them with a network of that data"
        )
    if len(images) < 2:
        raise UserError(f"--images={path} holds 1 image; give at least 2, better 1,000")


def samples(source: ImageSource) -> Tensor:
    """All images of a source in [-1, 1], float32 [n, C, H, W]."""
    return source.samples(0, 0, len(source)).unflatten(1, source.shape)


def measure(real: ImageSource, sets: dict[str, Tensor], epochs: int = 20, seed: int = 0) -> Json:
    """Train the classifier and judge each set of images.

    Frechet distances shrink with the number of images, so all rows use equally many for it.

    Args:
        real: labelled images.
        sets: name -> images in [-1, 1], float32 [n, C, H, W].
        epochs: of the classifier.
        seed: of the split, the classifier and the picks.

    Returns:
        "classifier": its facts; "rows": name -> numbers of the yardsticks and of each set.

    Raises:
        UserError: if the classifier is not good enough to judge.
    """
    x, classes = samples(real), real.classes
    y = real.labels(0, 0, len(real))
    assert y is not None
    labels = y.argmax(1)  # [n]
    known, held = (torch.from_numpy(i) for i in hold_out(labels.numpy(), HELD_OUT, seed))
    model = train(x[known], labels[known], classes, epochs, seed)
    reference = judge(model, x[known])
    on_held = judge(model, x[held])
    accuracy = float((on_held.predicted == labels[held]).float().mean())
    if accuracy < MIN_ACCURACY:
        raise UserError(
            f"the classifier gets {accuracy:.1%} of the held-out images of {real.path} right, "
            f"under {MIN_ACCURACY:.0%}: it cannot judge; give more --epochs, or other data"
        )
    unit = reference.features.square().mean().sqrt()  # makes distances comparable between seeds
    judged = {REAL: on_held, NOISE: judge(model, gaussian_noise(x[known], len(held), seed))}
    judged |= {name: judge(model, images) for name, images in sets.items()}
    count = min(len(j.features) for j in judged.values())
    known_features = reference.features / unit
    rows = {}
    for name, j in judged.items():
        j.features = j.features / unit
        rows[name] = row(j, known_features, count, classes, seed)
    facts = {"training_images": len(known), "held_out_images": len(held), "accuracy": accuracy,
             "images_of_a_distance": count, "minimum_accuracy": MIN_ACCURACY}  # fmt: skip
    return {"classifier": facts, "rows": rows}


def row(judged: Judgement, reference: Tensor, count: int, classes: int, seed: int) -> Json:
    """The numbers of one set of images beside the training images' features [m, f]."""
    n = len(judged.features)
    picks = np.sort(seeding.generator(seed, "distance").permutation(n)[:count])
    own, ref = statistics_of(judged.features[picks]), statistics_of(reference)
    half = max(2, count // 2)  # subsets of all images would vary too little to show a spread
    mean, sd = kernel_distance(judged.features[picks], reference, size=half, seed=seed)
    counts = torch.bincount(judged.predicted, minlength=classes)
    shares = (counts / n).double()
    return {
        "images": n,
        "classifier_frechet_distance": frechet_distance(own.mu, own.sigma, ref.mu, ref.sigma),
        "classifier_kernel_distance": mean,
        "classifier_kernel_distance_sd": sd,
        "mean_confidence": float(judged.confidence.mean()),
        f"share_above_{SURE}": float((judged.confidence > SURE).float().mean()),
        "class_counts": counts.tolist(),
        "effective_classes": float(torch.special.entr(shares).sum().exp()),
    }


def gaussian_noise(x: Tensor, n: int, seed: int) -> Tensor:
    """Images of the mean and covariance of x [m, C, H, W], cut to [-1, 1]."""
    flat = x.flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    z = torch.from_numpy(seeding.normals(seed, "noise images", 0, n, flat.shape[1]))
    drawn = flat.mean(0) + (z * values.clamp_min(0).sqrt()) @ vectors.T
    return drawn.clamp(-1, 1).float().unflatten(1, x.shape[1:])


def table(report: Json) -> list[str]:
    """The report as lines of text."""
    facts, rows = report["classifier"], report["rows"]
    width = max(len(name) for name in rows)
    lines = [
        f"Classifier: {facts['accuracy']:.1%} of {facts['held_out_images']} held-out images right, "
        f"trained on {facts['training_images']}.",
        f"Distances of {facts['images_of_a_distance']} images each from its training images, in "
        "its features (not FID):",
        "",
        f"{'':{width}}  images  Frechet    kernel   +- sd  confidence   > {SURE}  classes",
    ]
    for name, r in rows.items():
        lines.append(
            f"{name:{width}}  {r['images']:6d}  {r['classifier_frechet_distance']:7.3f}  "
            f"{r['classifier_kernel_distance']:8.4f}  {r['classifier_kernel_distance_sd']:6.4f}  "
            f"{r['mean_confidence']:10.3f}  {r[f'share_above_{SURE}']:5.1%}  "
            f"{r['effective_classes']:7.2f}"
        )
    return lines


if __name__ == "__main__":
    main()
