"""Extracting residuals: what is drawn, what is stored, where, and whether there is room."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import SEED, DryRunOptions, option
from dnnlib.results import enclosed
from dnnlib.util import Json, write_json
from experiments.residuals.autocorrelation import NOISES, denoised, noise_rows, space_of
from experiments.residuals.files import ERRORS, OUTPUTS, RESIDUALS, is_done, save_with_run
from flow.flow import Flow
from flow.options import SaveOptions
from flow.results import document
from torch_utils import distributed, seeding
from torch_utils.peers import of_rank0
from torch_utils.work import NOTHING_KEPT, Parts, blocks, compute
from training.precond import FieldModel


@dataclass(frozen=True, kw_only=True)
class WritingOptions(SaveOptions, DryRunOptions):
    """What all commands on residuals share."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(WritingOptions):
    """What both commands that extract share."""

    seed: int = option(0, type=SEED, help="of samples and noise")
    noise: str = option(
        "fresh", type=click.Choice(NOISES),
        help="other noise at every time, or each sample's own at all times",
    )  # fmt: skip


@dataclass
class Extraction:
    """What to extract.

    Attributes:
        flow: the flow.
        times: time points, ascending.
        samples: rows -> data in its own units, [n, d].
        count: samples, the same at every time.
        seed: of the noise.
        noise: see `noise_rows`.
        labels: rows -> one-hot classes, or None.
        exact: the exact field of the data, where it is known; see `denoised`.
    """

    flow: Flow
    times: list[float]
    samples: Callable[[range], Tensor]
    count: int
    seed: int
    noise: str
    labels: Callable[[range], Tensor | None] = lambda _: None
    exact: FieldModel | None = None

    @property
    def keys(self) -> list[str]:
        """Names of what is extracted."""
        return [OUTPUTS, RESIDUALS] if self.exact is None else [OUTPUTS, RESIDUALS, ERRORS]

    def run(self) -> Json:
        """What goes into the files as their origin, plain values."""
        return {
            "schedule": self.flow.schedule.name,
            "data_dim": self.flow.schedule.data_dim,
            "space": space_of(self.flow),
            "n_time_pts": len(self.times),
            "times": [self.times[0], self.times[-1]],
            "n_samples": self.count,
            "seed": self.seed,
            "noise": self.noise,
            **({} if self.exact is None else {"exact_field": True}),
        }

    def at(self, k: int) -> dict[str, np.ndarray]:
        """What is extracted at time point k, float32 [count, d] each."""
        d = self.flow.schedule.data_dim
        found = {key: np.empty((self.count, d), np.float32) for key in self.keys}
        for start in range(0, self.count, seeding.BLOCK):
            rows = range(start, min(start + seeding.BLOCK, self.count))
            x = self.samples(rows)
            noise = noise_rows(self.seed, self.noise, k, rows.start, rows.stop, d)
            for first in range(0, len(rows), self.flow.block):
                part = slice(first, first + self.flow.block)
                here = self.flow.given(self.labels(rows[part]))
                values = denoised(here, x[part], noise[part], self.times[k], self.exact)
                for key, value in zip(self.keys, values, strict=True):
                    found[key][rows[part].start : rows[part].stop] = value.float().cpu().numpy()
        return found


def extract_here(
    extraction: Extraction, label: str = "times", parts: Parts = NOTHING_KEPT
) -> dict[str, np.ndarray] | None:
    """What is extracted at all times, which are shared among ranks.

    Args:
        extraction: what to extract.
        label: of the progress bar.
        parts: keeps what is done of them.

    Returns:
        on rank 0 float32 [times, count, d] each; elsewhere None.
    """

    def work(one: range) -> dict[str, Tensor]:
        found = extraction.at(one.start)
        return {"rows": torch.from_numpy(np.stack(list(found.values()))[None])}

    table = compute(work, len(extraction.times), 1, label, parts)
    if table is None:
        return None
    return {key: table["rows"][:, i].numpy() for i, key in enumerate(extraction.keys)}


def extract_files(
    extraction: Extraction, paths: list[Path], origin: Json, options: ExtractOptions
) -> Json | None:
    """Write a file for each time, those that are not there yet, times shared among ranks.

    Args:
        extraction: what to extract.
        paths: a file for each time.
        origin: what network and data these are, plain values that go into the files.
        options: of the script.

    Returns:
        what the files were made from; None after a dry run.

    Raises:
        UserError: if a file was made from something else, or there is no room.
    """
    run, times = {**extraction.run(), **origin}, extraction.times
    shape = (extraction.count, extraction.flow.schedule.data_dim)
    runs = [run | {"t": t} for t in times]
    todo = files_to_make(paths, runs, dict.fromkeys(extraction.keys, shape))
    check_room(options, 4 * len(extraction.keys) * shape[0] * shape[1], len(paths), len(todo))
    if options.dry_run:
        return None
    make_files(
        todo, paths, runs, lambda k: extraction.at(k) | {"t": np.array(times[k])},
        options.save_dir, "times",
    )  # fmt: skip
    return run


def files_to_make(
    paths: list[Path], runs: list[Json], shapes: Mapping[str, tuple[int, ...]]
) -> list[int]:
    """Which of the files are not there yet, as rank 0 sees them; see `files.is_done`.

    Raises:
        UserError: if one was made from something else.
    """
    pairs = list(zip(paths, runs, strict=True))
    with cli.user_errors():
        done = of_rank0(lambda: [is_done(path, run, shapes) for path, run in pairs])
    return [k for k, there in enumerate(done) if not there]


def make_files(
    todo: list[int],
    paths: list[Path],
    runs: list[Json],
    make: Callable[[int], dict[str, np.ndarray]],
    folder: str,
    label: str,
) -> None:
    """Write the files `todo` with what `make` gives of each, shared among ranks."""
    distributed.check_shared(folder, "--save_dir")
    for (i,) in blocks(len(todo), 1, label):
        save_with_run(paths[todo[i]], make(todo[i]), runs[todo[i]])
    distributed.barrier()


def check_room(options: WritingOptions, size: int, count: int, needed: int) -> None:
    """Say how large the files will be, and refuse where the disk has no room for them.

    Args:
        options: of the script.
        size: bytes of a file.
        count: files in all.
        needed: files that are not there yet.

    Raises:
        UserError: saying how much is needed and how much there is.
    """
    distributed.print0(
        f"{count} file{'s' if count > 1 else ''} of {_readable(size)}, "
        f"{_readable(size * count)} in all; {needed} to be made"
    )
    folder = Path(options.save_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size * needed > free:
        refuse(
            options,
            f"--save_dir={options.save_dir}: {_readable(size * needed)} are needed and "
            f"{_readable(free)} free; name another disk, fewer --n_time_pts or --n_samples",
        )


def refuse(options: DryRunOptions, line: str) -> None:
    """Stop with an error; a dry run, which may come before its data is there, only says it.

    Raises:
        UserError: unless it is a dry run.
    """
    if not options.dry_run:
        raise UserError(line)
    distributed.print0(f"Note: {line}")


def write_record(path: Path, flow: Flow, options: ExtractOptions, facts: Json) -> None:
    """The .json beside what was extracted."""
    content = {**document(flow, options), **facts}
    write_json(path, enclosed(content, path.stem, kind="Residuals"))
    print(f"Results: {path}", flush=True)


def _readable(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
