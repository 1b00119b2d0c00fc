"""One image a seed: seed k gives the same pixels whatever else is asked for, in files that resume.

The network works on whole blocks of seeds, such as 0..63, 64..127, and so on, however few of a
block are wanted: the rounding of a convolution depends on its batch size, and on nothing else in
the batch. Of another batch size (--bs), a seed's latent is the same, and pixels may differ by one
level where rounding decides.
"""

from __future__ import annotations

import io
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from dnnlib.behind import blocks_of_files
from dnnlib.cli import UserError
from dnnlib.util import Json, write_json
from flow.flow import Flow
from flow.images import shape_of
from flow.latents import Lender, classes_of, drawn_of, one_hot, seed_latents
from flow.method import Method
from torch_utils import seeding
from torch_utils.peers import of_rank0
from torch_utils.work import blocks
from training.data.images import to_pixels

OPTIONS_FILE = "gen_fid_samples_options.json"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
SUBDIR = 1000


def parse_seeds(text: str) -> list[int]:
    """Seeds of "0-9,20,33": sorted, each once.

    Raises:
        ValueError: if the text is something else.
    """
    seeds: set[int] = set()
    for part in text.split(","):
        first, dash, last = (p.strip() for p in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is not a list of seeds and ranges such as 0-9,20,33")
        if dash and int(last) < int(first):
            raise ValueError(f"the range {part.strip()} ends before it starts")
        seeds.update(range(int(first), int(last if dash else first) + 1))
    return sorted(seeds)


class Seeds(click.ParamType):
    """Seeds and ranges of seeds, separated by commas."""

    name = "0-9,20,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Parse "0-3,7" to [0, 1, 2, 3, 7]."""
        if isinstance(value, list):
            return value
        try:
            return parse_seeds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def file_of(folder: Path, seed: int, subdirs: bool) -> Path:
    """Where the image of a seed goes: 000042.png, or 000000/000042.png with subdirs."""
    name = f"{seed:06d}.png"
    return folder / f"{seed - seed % SUBDIR:06d}" / name if subdirs else folder / name


def is_complete(path: Path) -> bool:
    """Whether a PNG file is there and has its end."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:
        return False


def claim(folder: Path, identity: Json, options: Json, found: int, count: int) -> bool:
    """Check that images already there are of the same kind, and say what is made.

    Every rank calls this; rank 0 looks.

    Args:
        folder: of the images.
        identity: what decides the pixels of a seed: network, method, latents.
        options: all options, for the file.
        found: how many of the wanted images are there already.
        count: how many are wanted.

    Returns:
        whether what was measured of them is there too.

    Raises:
        UserError: if the folder holds images made otherwise, naming the difference.
    """
    return of_rank0(lambda: _claim(folder, identity, options, found)) == count


def _claim(folder: Path, identity: Json, options: Json, found: int) -> int:
    """How many images there were when something was measured of them."""
    stored: Json | None = None
    measured = 0
    try:
        content = json.loads((folder / OPTIONS_FILE).read_text())
        stored, measured = content["identity"], content.get("results", {}).get("images_in_all", 0)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--save_dir={folder}: {OPTIONS_FILE} is damaged; name another") from None
    wanted = json.loads(json.dumps(identity))
    if stored is None and found:
        raise UserError(
            f"--save_dir={folder} holds {found} images of these seeds, and no {OPTIONS_FILE} that "
            "says how they were made; name another folder"
        )
    if stored is not None and stored != wanted:
        key = min(k for k in stored.keys() | wanted if stored.get(k) != wanted.get(k))
        raise UserError(
            f"--save_dir={folder} holds images made otherwise ({key}: {_short(stored.get(key))}, "
            f"now {_short(wanted.get(key))}); name another folder"
        )
    if stored is None:
        write_json(folder / OPTIONS_FILE, {"identity": identity, "options": options})
    return measured


def missing_seeds(folder: Path, seeds: list[int], subdirs: bool) -> list[int]:
    """Seeds without a complete file, as rank 0 sees them; the same list on every rank."""
    return of_rank0(lambda: [k for k in seeds if not is_complete(file_of(folder, k, subdirs))])


def make_images(
    flow: Flow,
    method: Method,
    seeds: list[int],
    folder: Path,
    subdirs: bool,
    eps: float | None,
    donors: Lender,
    number: int | None,
) -> int:
    """Generate and write the images of seeds, whole blocks of seeds on each rank.

    Args:
        flow: the flow.
        method: how to integrate.
        seeds: wanted, increasing.
        folder, subdirs: see `file_of`.
        eps: see `Flow.latents`.
        donors: see `latents.lender`; None for the schedule's Gaussian latents.
        number: class to generate; None for one drawn by each seed (or that of its donor).

    Returns:
        network evaluations an image.
    """
    n = flow.block
    needed = sorted({k // n for k in seeds})
    wanted, evaluations = set(seeds), 0
    with blocks_of_files(folder) as write:
        for (i,) in blocks(len(needed), 1, f"blocks of {n} images"):
            whole = range(needed[i] * n, (needed[i] + 1) * n)
            here = flow.given(one_hot(flow, block_classes(flow, whole, donors, number)))
            u = seed_latents(here, whole, eps, donors, method.stop)
            x = here.generate(u, coords="whitened", **method.how())
            evaluations = max(evaluations, here.evaluations)
            made = zip(whole, to_pixels(x, shape_of(flow)), strict=True)
            kept = {file_of(folder, k, subdirs): image for k, image in made if k in wanted}
            write({path: partial(save_png, image) for path, image in kept.items()})
    return evaluations


def block_classes(
    flow: Flow, seeds: range, donors: Lender, number: int | None
) -> np.ndarray | None:
    """The number of each seed's class, [n]; None for a network without classes."""
    if not classes_of(flow):
        return None
    if number is not None:
        return np.full(len(seeds), number)
    if donors is not None and donors.classes is not None:
        return donors.classes[[int(donors.picks(k, 0, 1)[0]) for k in seeds]]
    drawn = drawn_of(flow)
    return drawn[[int(seeding.generator(k, "classes").integers(len(drawn))) for k in seeds]]


def save_png(image: np.ndarray, path: Path) -> None:
    """Write an image, uint8 [H, W, C] with 1 (grey) or 3 channels."""
    content = io.BytesIO()  # written in one piece, which is faster than Pillow's pieces
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "PNG")
    path.write_bytes(content.getbuffer())


def read_png(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The image back, uint8 [H, W, C]."""
    with Image.open(path) as image:
        return np.asarray(image).reshape(shape[1], shape[2], shape[0])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else text[:77] + "..."
