"""Convert images to the data set format of this suite: a zip of PNG files with dataset.json."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import click
from PIL import Image

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.util import atomic_path, write_json
from training.data.convert import TRANSFORMS, Plan, RefusedImagesError, convert, scan
from training.data.image_decode import Reading
from training.data.image_files import ImageSet, phrases
from training.data.image_sets import open_source

EXAMPLE = """
python dataset_tool.py --source=digits --dest=datasets/digits-8x8.zip
python dataset_tool.py --source=downloads/cifar10/cifar-10-python.tar.gz \\
    --dest=datasets/cifar10-32x32.zip
python dataset_tool.py --source=downloads/afhqv2 --dest=datasets/afhqv2-32x32.zip --resolution=32x32
"""


class Resolution(click.ParamType):
    """WIDTHxHEIGHT as two whole numbers."""

    name = "WxH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Parse "32x32", or "32,32" as older commands have it."""
        match = re.fullmatch(r"([1-9]\d{0,4})[x,]([1-9]\d{0,4})", str(value))
        if match is None:
            self.fail(f"{value!r} is not of the form WxH, such as 32x32", param, ctx)
        return int(match[1]), int(match[2])


@cli.command(EXAMPLE)
@click.option(
    "--source",
    required=True,
    metavar="PATH|digits",
    help="folder or .zip of images, CIFAR-10 .tar.gz, MNIST images .gz (labels file "
    "beside it), LSUN lmdb folder, or the word digits",
)
@click.option("--dest", required=True, metavar="PATH", help=".zip file, or folder, to write")
@click.option(
    "--resolution",
    type=Resolution(),
    metavar="WxH",
    help="size of the result  [that of the images]",
)
@click.option(
    "--transform",
    type=click.Choice(TRANSFORMS),
    metavar="|".join(TRANSFORMS),
    help="cut out the centre: a square, or (wide, as published) all columns and as many rows as "
    "the image has at the width of --resolution, with black bars up to a square",
)
@click.option("--max-images", type=click.IntRange(min=1), help="only the first so many")
@click.option("--channels", type=click.Choice(["1", "3"]), help="convert to grey (1) or colour (3)")
@click.option(
    "--frames",
    type=click.Choice(["all", "first"]),
    help="what to take of files of several frames  [such files are refused]",
)
@click.option(
    "--depth",
    type=click.IntRange(9, 16),
    metavar="BITS",
    help="scale values from 0 to 2^BITS - 1 of images of more than 8 bits a channel to 0 to 255  "
    "[such images are refused]",
)
@cli.plot_option
@cli.boolean("-n", "--dry-run", help="check every image and stop")
def main(
    source: str,
    dest: str,
    resolution: tuple[int, int] | None,
    transform: str | None,
    max_images: int | None,
    channels: str | None,
    frames: str | None,
    depth: int | None,
    plot: bool,
    dry_run: bool,
) -> None:
    """Convert images to a zip of uncompressed PNG files with dataset.json.

    A file is an image by its suffix or its content; what is left out is counted and named. Labels
    come from the source's dataset.json, else from its top-level folders in alphabetical order
    (those below a folder around everything, and below train, test, val where these hold folders),
    else from CIFAR-10, MNIST or digits themselves. Every image is checked before anything is
    written. The same input gives the same file. Transparent parts become white. Beside the result
    lie the options ({dest}-options.json) and a picture of some images ({dest}-images.png).
    """
    target = check_dest(source, dest)
    with cli.user_errors():
        plan = Plan(resolution, transform, None if channels is None else int(channels))
    options = {"source": source, "dest": dest, "resolution": resolution, "transform": transform,
               "max_images": max_images, "channels": plan.channels, "frames": frames,
               "depth": depth}  # fmt: skip
    with warnings.catch_warnings(), cli.user_errors("--source"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # listed with the others
        with open_source(source, Reading(frames, depth)) as images:
            count = min(len(images.names), max_images or len(images.names))
            found = check_images(source, images, plan, count)
            check_reading(images, count, found, frames, depth)
            summary = summed_up(images, count, found, frames)
            if dry_run:
                print(f"Nothing written: {summary}")
                return
            try:
                convert(images, plan, count, target)
                beside = str(target.with_suffix("") if target.suffix == ".zip" else target)
                write_json(
                    f"{beside}-options.json",
                    {"options": options, "result": found, "summary": summary},
                )
                if plot:
                    picture(images, plan, count, Path(f"{beside}-images.png"))
            except OSError as error:
                raise UserError(f"--dest={dest}: {error.strerror or error}") from error
    print(f"Done. Data set: {target}: {summary}")


def check_images(source: str, images: ImageSet, plan: Plan, count: int) -> dict[str, int]:
    """Check every image and say what was found; see `scan`.

    Raises:
        UserError: after a line for each image that cannot be used.
    """
    try:
        found = scan(images, plan, count)
    except RefusedImagesError as error:
        for line in error.lines():
            click.echo(f"  {line}", err=True)
        raise UserError(f"--source={source}: {error}") from None
    report(images, count, found)
    return found


def check_dest(source: str, dest: str) -> Path:
    """The path to write to.

    Raises:
        UserError: if it cannot be written, or writing it would change the source.
    """
    target = Path(dest)
    if target.suffix.lower() == ".zip":
        target = target.with_suffix(".zip")
        if target.is_dir():
            raise UserError(f"--dest={dest}: is a folder; name a file")
    elif target.suffix and not target.is_dir():
        raise UserError(
            f"--dest={dest}: ends in {target.suffix}; name a .zip file, or a folder without a dot"
        )
    elif target.is_file():
        raise UserError(f"--dest={dest}: is a file; name a .zip file or a folder")
    elif target.is_dir() and any(target.iterdir()):
        raise UserError(f"--dest={dest}: the folder is not empty; name another or empty it")
    origin = Path(source).resolve()
    inside = target.suffix != ".zip" and origin in target.resolve().parents
    if source != "digits" and (target.resolve() == origin or inside):
        raise UserError(f"--dest={dest}: lies in --source={source}; name another place")
    cli.check_writable(target.parent, "--dest")
    return target


def report(images: ImageSet, count: int, found: dict[str, int]) -> None:
    """Say what was found."""
    size, kind = found["size"], "grey" if found["channels"] == 1 else "colour"
    print(f"{count} images become {size}x{size} {kind}, {found['channels'] * size**2} dimensions")
    if found["enlarged"]:
        print(f"Warning: {found['enlarged']} images are smaller than that and are enlarged")
    if found["transparent"]:
        print(f"Warning: {found['transparent']} images have transparent parts, which become white")
    if found["deep"]:
        print(f"{found['deep']} images of more than 8 bits a channel are scaled to 8")
    if images.labels is None:
        print("Labels: none" + (f" ({images.origin})" if images.origin else ""))
    else:
        print(f"Labels: {label_line(images, images.labels, count)}")
    sys.stdout.flush()


def label_line(images: ImageSet, labels: list[int], count: int) -> str:
    """The classes that the first `count` images have: how many, where from, which."""
    kept, known = sorted(set(labels[:count])), len(images.classes or set(labels))
    names = [f"{k} {images.classes[k]}" if images.classes else str(k) for k in kept[:20]]
    number = f"{len(kept)} of {known}" if len(kept) < known else f"{known}"
    found_in = f" from {images.origin}" if images.origin else ""
    more = ", ..." if len(kept) > 20 else ""
    line = f"{number} classes{found_in} ({', '.join(names)}{more})"
    if kept != list(range(len(kept))):
        line += "; networks have one class for each of these, and --class takes these numbers"
    return line


def check_reading(
    images: ImageSet, count: int, found: dict[str, int], frames: str | None, depth: int | None
) -> None:
    """Check that --frames and --depth change something.

    Raises:
        UserError: if the images have but one frame, or 8 bits a channel.
    """
    if count < len(images.names):
        return
    if frames and not found["several"]:
        raise UserError(f"--frames={frames}: no file has several frames; leave it out")
    if depth and not found["deep"]:
        raise UserError(f"--depth={depth}: no image has more than 8 bits a channel; leave it out")


def summed_up(images: ImageSet, count: int, found: dict[str, int], frames: str | None) -> str:
    """How many images were found and used, and what was left out and why."""
    left = phrases(images.left_out)
    if count < len(images.names):
        left.insert(0, f"{len(images.names) - count} images beyond --max-images={count}")
    if frames == "first":
        left.insert(0, f"{found['further']} further frames of {found['several']} files")
    line = f"{len(images.names)} images found, {count} used"
    return f"{line}; left out: {', '.join(left)}" if left else line


def picture(images: ImageSet, plan: Plan, count: int, path: Path, across: int = 8) -> None:
    """Draw up to across^2 converted images, spread evenly over the set, in a square grid."""
    picks = [i * count // min(count, across**2) for i in range(min(count, across**2))]
    tiles = [plan.apply(images.image(i)) for i in picks]
    size = tiles[0].width * max(1, 64 // tiles[0].width)  # whole pixels, large enough to see
    sheet = Image.new(tiles[0].mode, (across * size, -(-len(tiles) // across) * size))
    for i, tile in enumerate(tiles):
        enlarged = tile.resize((size, size), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (i % across * size, i // across * size))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


if __name__ == "__main__":
    main()
