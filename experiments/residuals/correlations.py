"""Correlating what was extracted: finding and checking the files, reading them, writing results."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from dnnlib import cli, plot
from dnnlib.cli import UserError
from dnnlib.options import COUNT, PATH, RunOptions, option
from dnnlib.results import enclosed
from dnnlib.util import write_json
from experiments.residuals import files
from experiments.residuals.autocorrelation import (
    NORMALIZATIONS,
    Correlation,
    cross_correlation,
)
from experiments.residuals.extract import WritingOptions, files_to_make, make_files, refuse
from experiments.residuals.files import CORRELATIONS, ERRORS, OUTPUTS, RESIDUALS, ArrayFile
from flow.results import check_results
from torch_utils import distributed
from torch_utils.peers import agree
from torch_utils.work import compute

LEGENDS = {RESIDUALS: "residuals", OUTPUTS: "network outputs", ERRORS: "network errors"}
# The released code leaves the D of PRRto30D out.
NAMES = re.compile(r"(?P<data>.+)_(?P<schedule>PRP|PRRto\d+D?)_(?:toy_)?net_outputs_residuals")


@dataclass(frozen=True, kw_only=True)
class CalcOptions(WritingOptions, RunOptions):
    """Options of both commands that correlate."""

    res_root: str = option(type=PATH, help="what was extracted: the folder; of a toy, the file")
    data_name: str | None = option(None, help="[that of the files]")
    n_time_pts: int | None = option(None, type=COUNT, help="the first so many [all]")
    data_dim: int | None = option(None, help="[read from the files]")
    dims_to_keep: int | None = option(None, help="[read from the files]")
    n_samples: int | None = option(None, type=click.IntRange(min=2), help="the first so many [all]")
    bs: int = option(500, type=COUNT, help="samples read at a time")
    normalization: str = option(
        "pearson", type=click.Choice(NORMALIZATIONS),
        help="what entry (i, j) is divided by: sd0(i) sd(j), for correlation coefficients, or "
        "sd0(j) sd(j) as published; the diagonals are the same",
    )  # fmt: skip


@dataclass
class Extracted:
    """Residuals that were extracted: of all times in one file, or a file for each.

    Attributes:
        data, schedule: names in the files' names.
        opened: the file of each time; the same one for all times of a toy.
        starts: row of each time's first sample in its file.
        count: samples to use.
        keys: which of OUTPUTS, RESIDUALS and ERRORS there are.
        dim: dimensions, d.
        times: of the time points; NaN where the files do not say.
    """

    data: str
    schedule: str
    opened: list[ArrayFile]
    starts: list[int]
    count: int
    keys: list[str]
    dim: int
    times: np.ndarray

    def correlation(self, k: int, chunk: int, normalization: str) -> dict[str, Correlation]:
        """Correlations of the first time with time k, reading `chunk` samples at a time."""
        device = distributed.device()

        def rows(j: int, key: str) -> Any:
            start = self.starts[j]
            blocks = self.opened[j].rows(key, start, start + self.count, chunk)
            return (torch.from_numpy(x).to(device) for x in blocks)

        return {
            key: cross_correlation(zip(rows(0, key), rows(k, key), strict=True), normalization)
            for key in self.keys
        }


def open_times(options: CalcOptions) -> Extracted | None:
    """The files of an image network, one a time.

    Returns:
        what was found; None in a dry run that comes before the files.

    Raises:
        UserError: naming what is missing or does not agree.
    """
    folder, name = Path(options.res_root), options.data_name or "*"
    found = sorted(folder.glob(f"{name}_PR*_net_outputs_residuals_time0.npz"))
    matches = [m for m in (NAMES.match(p.name) for p in found) if m]
    keep = options.dims_to_keep
    if len(matches) > 1 and keep is not None:
        exact = [m for m in matches if m["schedule"].removesuffix("D") == f"PRRto{keep}"]
        matches = exact or [m for m in matches if m["schedule"] == "PRP"]
    if not matches:
        line = f"{name}_{{schedule}}_net_outputs_residuals_time0.npz is missing"
        refuse(options, f"--res_root={folder}: {line}; run `extract` first")
        return None
    if len(matches) > 1:
        listed = ", ".join(m[0] for m in matches)
        raise UserError(f"--res_root={folder} has {listed}: say --data_name and --dims_to_keep")
    data, schedule = matches[0]["data"], matches[0]["schedule"]
    with cli.user_errors():
        first = ArrayFile(files.time_file(folder, data, schedule, 0))
    n = options.n_time_pts or first.run.get("n_time_pts") or len(
        list(folder.glob(f"{data}_{schedule}_net_outputs_residuals_time*.npz"))
    )  # fmt: skip
    paths = [files.time_file(folder, data, schedule, k) for k in range(n)]
    missing = files.missing_files(paths)
    if missing:
        refuse(options, f"--res_root={folder}: {missing}; run `extract` again, or say --n_time_pts")
        return None
    with cli.user_errors():
        opened = [first, *map(ArrayFile, paths[1:])]
    keys, shape = _keys_and_shape(first, 2)
    for file in opened[1:]:
        if any(file.shapes.get(k) != shape for k in keys):
            raise UserError(f"{file.path} does not hold what time0 does; run `extract` again")
        differing = [k for k, v in first.run.items() if k != "t" and file.run.get(k) != v]
        if differing:
            raise UserError(f"{file.path} and time0 differ in {differing[0]}; extract them alike")
    _check(options, data, schedule, shape[1])
    agree({f"--res_root={folder} of {f.path.name}": json.dumps(f.run) for f in opened})
    times = np.array([np.nan if f.small("t") is None else float(f.small("t")) for f in opened])  # type: ignore[arg-type]  # the arrays were found when opened
    count = _count(options, shape[0])
    return Extracted(data, _named(schedule), opened, [0] * n, count, keys, shape[1], times)


def open_toy(options: CalcOptions) -> Extracted | None:
    """The file of a toy network; see `open_times`."""
    path = Path(options.res_root)
    if not path.is_file():
        refuse(options, f"--res_root={path}: no such file; run `extracttoys` first")
        return None
    with cli.user_errors("--res_root"):
        file = ArrayFile(path)
    keys, shape = _keys_and_shape(file, 3)
    match, keep = NAMES.match(path.name), options.dims_to_keep
    data, schedule = (match["data"], match["schedule"]) if match else (options.data_name, None)
    schedule = file.run.get("schedule", schedule and _named(schedule))
    if schedule is None and keep is not None:
        schedule = "PRP" if keep == shape[2] else f"PRRto{keep}D"
    if data is None or schedule is None:
        raise UserError(
            f"--res_root={path} does not say what it is: say --data_name, --dims_to_keep"
        )
    _check(options, data, schedule, shape[2])
    agree({f"--res_root={path}": json.dumps([file.run, shape])})
    n = options.n_time_pts or shape[0]
    if n > shape[0]:
        raise UserError(f"--n_time_pts={n}, but {path} has {shape[0]} times; ask for no more")
    t = file.small("t")
    times = np.full(n, np.nan) if t is None else t[:n]
    starts = [k * shape[1] for k in range(n)]
    count = _count(options, shape[1])
    return Extracted(data, schedule, [file] * n, starts, count, keys, shape[2], times)


def correlate_times(found: Extracted, options: CalcOptions) -> None:
    """Write the correlations of each time, those that are not there yet, in a session."""
    started, n = time.monotonic(), len(found.opened)
    paths = [files.lag_file(options.save_dir, found.data, found.schedule, k) for k in range(n)]
    shapes: dict[str, tuple[int, ...]] = {
        CORRELATIONS[k]: (found.dim, found.dim) for k in found.keys
    }
    how = {"n_samples": found.count, "normalization": options.normalization}
    runs = [how | {"source": f.run} for f in found.opened]

    def lag(k: int) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {"t": found.times[k]}
        for key, c in found.correlation(k, options.bs, options.normalization).items():
            arrays[CORRELATIONS[key]] = c.matrix.float().cpu().numpy()
            arrays[f"{key}_sd0"], arrays[f"{key}_sd"] = c.sd_a.cpu().numpy(), c.sd_b.cpu().numpy()
            arrays[_mean(key)] = np.array(c.mean_diagonal)
        return arrays

    make_files(files_to_make(paths, runs, shapes), paths, runs, lag, options.save_dir, "lags")
    if distributed.is_main():
        results = [ArrayFile(p) for p in paths]
        means = {k: np.array([float(r.small(_mean(k))) for r in results]) for k in found.keys}  # type: ignore[arg-type]  # the arrays were written above
        stem = Path(options.save_dir) / f"{found.data}_{found.schedule}_autocorrelations"
        _summarise(stem, found, means, options, started)


def correlate_toy(found: Extracted, options: CalcOptions) -> None:
    """Write the correlations of all times to one file, in a session."""
    started, n = time.monotonic(), len(found.opened)
    path = files.toy_correlation_file(options.save_dir, found.data, found.schedule)
    source = found.opened[0].run
    check_results(path.with_suffix(".json"), {"network_sha256": source.get("network_sha256")})

    def work(one: range) -> dict[str, torch.Tensor]:
        c = found.correlation(one.start, options.bs, options.normalization)
        rows = [torch.cat([v.matrix, v.sd_b[None]]).cpu() for v in c.values()]
        return {"rows": torch.stack(rows)[None]}

    lags = compute(work, n, 1, "lags")
    if lags is None:
        return
    table = lags["rows"]  # [times, keys, d + 1, d]
    matrices, sds = table[:, :, :-1], table[:, :, -1]
    means = matrices.diagonal(dim1=2, dim2=3).nanmean(2).numpy()
    arrays = {"t": found.times}
    for i, key in enumerate(found.keys):
        arrays[CORRELATIONS[key]] = matrices[:, i].float().numpy()
        arrays[f"{key}_sd"] = sds[:, i].numpy()
    how = {"n_samples": found.count, "normalization": options.normalization}
    files.save_with_run(path, arrays, how | {"source": source})
    of = {key: means[:, i] for i, key in enumerate(found.keys)}
    _summarise(path.with_suffix(""), found, of, options, started)


def _named(schedule: str) -> str:
    """A schedule as our files name it."""
    return f"{schedule}D" if schedule[-1].isdigit() else schedule


def _mean(key: str) -> str:
    return f"{CORRELATIONS[key]}_mean_diagonal"


def _summarise(
    stem: Path,
    found: Extracted,
    means: dict[str, np.ndarray],
    options: CalcOptions,
    started: float,
) -> None:
    """The .json with the mean diagonals, and their picture."""
    known = bool(np.isfinite(found.times).all())
    x = found.times if known else np.arange(len(found.opened))
    content = {
        "options": options.record(),
        "n_samples": found.count,
        "dim": found.dim,
        "t": x.tolist(),
        **{_mean(k): [None if np.isnan(v) else v for v in m.tolist()] for k, m in means.items()},
        "source": found.opened[0].run,
        "seconds": time.monotonic() - started,
    }
    write_json(f"{stem}.json", enclosed(content, stem.name, kind="Residual correlations"))
    if options.plot:
        lines = {LEGENDS[k]: means[k] for k in LEGENDS if k in means}
        low = min(0.0, *(float(np.nanmin(m, initial=0.0)) for m in lines.values()))
        labels = ("t" if known else "number of the time point", "mean of the diagonal")
        title = f"{found.data}_{found.schedule}: correlation with t = {x[0]:.3g}"
        plot.curve(f"{stem}.png", x, lines, labels, title, (1.05 * low - 0.03, 1.05))
    print(f"Results: {stem}*", flush=True)


def _keys_and_shape(file: ArrayFile, ndim: int) -> tuple[list[str], tuple[int, ...]]:
    keys = [k for k in CORRELATIONS if k in file.shapes]
    shapes = {file.shapes[k] for k in keys}
    if len(shapes) != 1 or len(next(iter(shapes))) != ndim:
        layout = "[times, samples, dims]" if ndim == 3 else "[samples, dims]"
        raise UserError(f"{file.path} has no arrays {OUTPUTS} or {RESIDUALS} of shape {layout}")
    return keys, next(iter(shapes))


def _count(options: CalcOptions, there: int) -> int:
    wanted = options.n_samples or there
    if wanted > there:
        raise UserError(
            f"--n_samples={wanted}, but {there} were extracted to {options.res_root}; ask for "
            "no more, or extract more"
        )
    return wanted


def _check(options: CalcOptions, data: str, schedule: str, d: int) -> None:
    """Check what the options say of the files.

    Raises:
        UserError: naming the option and both values.
    """
    keep = d if schedule == "PRP" else int(schedule.removeprefix("PRRto").removesuffix("D"))
    for name, value in {"data_name": data, "data_dim": d, "dims_to_keep": keep}.items():
        said = getattr(options, name)
        if said not in (None, value):
            raise UserError(
                f"--{name}={said} contradicts the files of --res_root, which have {name}={value}; "
                "leave the option out or name other files"
            )
