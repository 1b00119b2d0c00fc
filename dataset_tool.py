"""Convert images to the data set format of this suite: a zip of PNG files with dataset.json."""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import COUNT, Options, RunOptions, again, option, takes
from dnnlib.results import enclosed
from dnnlib.util import write_json
from training.data.convert import TRANSFORMS, Plan, convert, picture
from training.data.image_decode import Reading
from training.data.image_sets import open_source
from training.data.published import SETS, fetched, files, is_name
from training.data.scan import RefusedImagesError, check_reading, report, scan, summary

EXAMPLE = """
python dataset_tool.py --source=digits --dest=datasets/digits-8x8.zip
python dataset_tool.py --source=cifar10 --dest=datasets/cifar10-32x32.zip
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


@dataclass(frozen=True, kw_only=True)
class ConversionOptions(Options):
    """What becomes of which images."""

    source: str = option(
        metavar="PATH|NAME",
        help="folder or .zip of images, CIFAR-10 .tar.gz, MNIST images .gz (labels file beside "
        f"it), LSUN lmdb folder; or digits, or what is downloaded by name: {', '.join(SETS)}",
    )
    dest: str = option(metavar="PATH", help=".zip file, or folder, to write")
    mirror: str | None = option(
        None,
        metavar="URL",
        help="folder to download from, with the published file names  [the official address]",
    )
    resolution: tuple[int, int] | None = option(
        None, type=Resolution(), metavar="WxH", help="size of the result  [that of the images]"
    )
    transform: str | None = option(
        None,
        type=click.Choice(TRANSFORMS),
        metavar="|".join(TRANSFORMS),
        help="cut out the centre: a square, or (wide, as published) all columns and as many rows "
        "as the image has at the width of --resolution, with black bars up to a square",
    )
    max_images: int | None = option(None, "--max-images", type=COUNT, help="only the first so many")
    channels: int | None = option(
        None,
        type=click.Choice(["1", "3"]),
        callback=lambda _, __, value: value and int(value),
        help="convert to grey (1) or colour (3)",
    )
    frames: str | None = option(
        None,
        type=click.Choice(["all", "first"]),
        help="what to take of files of several frames  [such files are refused]",
    )
    depth: int | None = option(
        None,
        type=click.IntRange(9, 16),
        metavar="BITS",
        help="scale values from 0 to 2^BITS - 1 of images of more than 8 bits a channel to 0 to "
        "255  [such images are refused]",
    )
    plot: bool = again(RunOptions, "plot", True)
    dry_run: bool = again(RunOptions, "dry_run", False, help="check every image and stop")


@cli.command(EXAMPLE)
@takes(ConversionOptions)
def main(options: ConversionOptions) -> None:
    """Convert images to a zip of uncompressed PNG files with dataset.json.

    A file is an image by its suffix or its content; what is left out is counted and named. Labels
    come from the source's dataset.json, else from its top-level folders in alphabetical order
    (those below a folder around everything, and below train, test, val where these hold folders),
    else from CIFAR-10, MNIST or digits themselves. Every image is checked before anything is
    written. The same input gives the same file. Transparent parts become white. Beside the result
    lie the options ({dest}-options.json) and a picture of some images ({dest}-images.png).
    """
    target = check_dest(options.source, options.dest)
    how = Reading(options.frames, options.depth)
    with cli.user_errors():
        plan = Plan(options.resolution, options.transform, options.channels)
    source = located(options)
    if source is None:
        return
    with warnings.catch_warnings(), cli.user_errors("--source"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # listed with the others
        with open_source(source, how) as images:
            count = min(len(images.names), options.max_images or len(images.names))
            try:
                found = scan(images, plan, count)
            except RefusedImagesError as error:
                click.echo("\n".join(f"  {line}" for line in error.lines), err=True)
                raise UserError(f"--source={options.source}: {error}") from None
            print("\n".join(report(images, found)), flush=True)
            with cli.user_errors():
                check_reading(images, found, how)
            summed_up = summary(images, found, how)
            if options.dry_run:
                print(f"Nothing written: {summed_up}")
                return
            beside = str(target.with_suffix("") if target.suffix == ".zip" else target)
            about = {"options": options.record(), "result": asdict(found), "summary": summed_up}
            try:
                convert(images, plan, count, target)
                write_json(f"{beside}-options.json", enclosed(about, summed_up, kind="Data sets"))
                if options.plot:
                    picture(images, plan, count, Path(f"{beside}-images.png"))
            except OSError as error:
                raise UserError(f"--dest={options.dest}: {error.strerror or error}") from error
    print(f"Done. Data set: {target}: {summed_up}")


def located(options: ConversionOptions) -> str | None:
    """The path of the source, downloaded if it is a name; None if a dry run only says so.

    Raises:
        UserError: if it cannot be had, or --mirror has no effect.
    """
    name = options.source
    if not is_name(name):
        if options.mirror:
            raise UserError(f"--mirror: only sets with a name are downloaded: {', '.join(SETS)}")
        return name
    wanted = files(name, options.mirror)
    if options.dry_run and not all(file.path.is_file() for file in wanted):
        for file in wanted:
            size = f"{file.bytes / 1e6:.1f} MB" if file.bytes else "size unknown"
            print(f"Would download {file.url} ({size}) to {file.path}")
        return None
    print(f"{name}: {SETS[name]['about']}", flush=True)
    try:
        path, lines = fetched(name, options.mirror)
    except (ValueError, OSError) as error:
        raise UserError(
            f"--source={name}: {error}; run it again to go on, or name another --mirror=URL, or "
            f"fetch {', '.join(file.path.name for file in wanted)} by other means: --source=FILE"
        ) from None
    print("\n".join(lines), flush=True)
    return str(path)


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
    if source != "digits" and not is_name(source) and (target.resolve() == origin or inside):
        raise UserError(f"--dest={dest}: lies in --source={source}; name another place")
    cli.check_writable(target.parent, "--dest")
    return target


if __name__ == "__main__":
    main()
