"""FID of CIFAR-10 against evaluations, PR-preserving and reduced to 30 dimensions, in pieces.

One recipe, whose size and budget are stated below, far under the published ones: two DDPM++
networks, and of each 10,000 images at 9, 17, 33 and 65 evaluations and with the paper's Heun-256.
A piece ends after --piece minutes, with everything saved; the same command does the next one. What
a piece leaves is also in {outdir}/state.zip, without what the data give back; with --state=FILE
the next piece runs on another machine, --data and --outdir being the same. Without a GPU the same
runs on 8x8 digits, where a distance in the features of a small classifier stands in for the FID; or
(--size=cpu, 15 minutes on 2 cores) on 1,000 images of CIFAR-10 with the FID's own network, which
shows that all of it works on the real thing: nothing is learned in that time.

    python -m benchmarks.real_data cifar10      # fetch; then dataset_tool.py, as in the README
    pip install '.[fid]'
    python -m benchmarks.cifar10_fid --data=datasets/cifar10-32x32.zip --piece=10
    python dataset_tool.py --source=... --dest=datasets/cifar10-1000.zip --max-images=1000
    python -m benchmarks.cifar10_fid --size=cpu --data=datasets/cifar10-1000.zip --piece=10
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from benchmarks.cifar10_state import pack, prune, unpack
from benchmarks.common import NETWORKS, ROOT, report
from dnnlib import plot
from dnnlib.cli import UserError
from dnnlib.util import aligned, format_time, write_json
from experiments.reproduce.papers import figure, load
from experiments.reproduce.step import OUT_OF_TIME

STATE, MOST_MB = "state.zip", 60.0
KEPT, GAP = 30, "0.02"
ANGLE = {9: 8, 17: 16, 33: 32, 65: 64}  # evaluations -> steps of ab2
METHODS = {
    **{f"ab2-{n}": ("--solver=ab2", f"--steps={k}") for n, k in ANGLE.items()},
    "paper-heun-256": ("--n_iters=256",),
}
PAPERS = load()
FID = PAPERS["published"]["fid"]["cifar10"]
PUBLISHED = {"PRP": figure(FID[3072]), f"PRRto{KEPT}D": figure(FID[KEPT])}
DIGITS = tuple(PAPERS["scales"]["smoke"]["image_training"]["digits"].split())


class Step(NamedTuple):
    """A command: the folder of its results, and its words without Python's name."""

    folder: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """A size of the recipe: "full" has 2.2 million weights, the published network 56."""

    data_dim: int
    options: tuple[str, ...]
    tmax: tuple[str, str]
    images: int
    measure: str


SIZES = {
    "full": Size(
        3072,
        ("--cbase=32", "--cres=2,2,2", "--num_blocks=2", "--batch=256", "--lr=1e-3",
         "--lr_rampup=0.25", "--lr_decay=cosine", "--ema=0.2", "--dropout=0", "--duration=8",
         "--tick=50", "--snap=1000", "--dump=20", "--bf16", "--t_sampling=arc", "--weighting=arc"),
        ("--tmax=15.01", "--tmax=15.01"), 10_000, "FID",
    ),
    "cpu": Size(
        3072,
        ("--cbase=16", "--cres=1,2,2", "--num_blocks=1", "--batch=64", "--lr=2e-3",
         "--lr_rampup=0.001", "--lr_decay=cosine", "--ema=0.002", "--dropout=0", "--augment=0",
         "--duration=0.012", "--tick=2", "--snap=1000", "--dump=1", "--t_sampling=arc",
         "--weighting=arc"),
        ("--tmax=15.01", "--tmax=15.01"), 64, "FID",
    ),
    "smoke": Size(
        64, DIGITS, tuple(PAPERS["digits_tmax"].values()), 359,  # type: ignore[arg-type]  # the table has as many as the field
        "Frechet distance in classifier features",
    ),
}  # fmt: skip


def steps(size: str, outdir: Path, data: str, device: str) -> tuple[list[Step], list[Step]]:
    """Trainings, and measurements after them."""
    s, trainings, measurements = SIZES[size], [], []
    cases = {
        "PRP": (f"--dims_to_keep={s.data_dim}", s.tmax[0]),
        f"PRRto{KEPT}D": (f"--dims_to_keep={KEPT}", f"--inflation_gap={GAP}", s.tmax[1]),
    }
    for case, schedule in cases.items():
        folder = outdir / case
        words = ("train.py", f"--outdir={folder}", f"--data={data}", *schedule, *s.options,
                 "--seed=0", "--resume=latest", f"--device={device}")  # fmt: skip
        trainings.append(Step(case, words))
        for name, how in METHODS.items():
            words = ("-m", "benchmarks.cifar10_fid", "measure", f"--size={size}",
                     f"--network={folder}", f"--data={data}", f"--dest={outdir / case}-{name}",
                     f"--cache={outdir}/cache", f"--device={device}", f"--images={s.images}",
                     *how)  # fmt: skip
            measurements.append(Step(f"{case}-{name}", words))
    return trainings, measurements


def is_done(step: Step, outdir: Path) -> bool:
    """Whether exactly this command has ended well."""
    record = outdir / "steps" / f"{step.folder}.txt"
    done = (outdir / step.folder / "done").exists()
    return done and record.exists() and record.read_text().strip() == shlex.join(step.words)


def run(steps: list[Step], outdir: Path, limit: float | None) -> dict[str, str]:
    """Run the commands that are missing, one after the other.

    Args:
        steps: trainings before what needs them.
        outdir: of all results; logs are in steps/.
        limit: seconds after which no more is done; a training saves its state then.

    Returns:
        folder -> "kept", "done", "failed" or "stopped", of those that were looked at.
    """
    end = time.monotonic() + limit if limit else float("inf")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    states: dict[str, str] = {}
    for k, step in enumerate(steps, 1):
        state = "kept"
        if not is_done(step, outdir):
            left = (end - time.monotonic()) / 60
            if left <= 0:
                break
            command = [sys.executable, "-m", "experiments.reproduce.step",
                       f"--log=steps/{step.folder}.log", f"--threads={os.cpu_count()}"]  # fmt: skip
            command += [f"--minutes={left}"] if limit else []
            (outdir / step.folder / "done").unlink(missing_ok=True)
            code = subprocess.call([*command, "--", *step.words], cwd=outdir, env=environment)
            if code == 0:
                (outdir / step.folder / "done").touch()
            state = {0: "done", OUT_OF_TIME: "stopped"}.get(code, "failed")
        states[step.folder] = state
        click.echo(f"[{step.folder}] {state} ({k} of {len(steps)})")
        if state == "failed":
            click.echo(f"  log: {outdir}/steps/{step.folder}.log", err=True)
        if state == "failed" and step.words[0] == "train.py":
            break
    return states


@click.group(invoke_without_command=True)
@click.option("--size", type=click.Choice(list(SIZES)), help="[full with a GPU, else smoke]")
@click.option("--data", type=click.Path(), help="CIFAR-10 as dataset_tool.py makes it")
@click.option("--outdir", type=click.Path(path_type=Path), help="[out/bench/cifar10-fid-{size}]")
@click.option("--piece", type=click.FloatRange(min=0, min_open=True), help="minutes  [no end]")
@click.option("--state", type=click.Path(exists=True, path_type=Path), help="go on from this file")
@click.option("--device", default="auto", help="auto|cpu|cuda")
@click.pass_context
def main(ctx: click.Context, **options: Any) -> None:
    """Do a piece of the recipe; say what is reached; write the table when all is done."""
    if ctx.invoked_subcommand:
        return
    size = options["size"] or ("full" if torch.cuda.is_available() else "smoke")
    outdir = (options["outdir"] or NETWORKS / f"cifar10-fid-{size}").absolute()
    data = (
        os.path.abspath(options["data"])
        if options["data"]
        else str(outdir / "cache" / "digits-8x8.zip")
    )
    if SIZES[size].measure == "FID" and not (options["data"] and Path(data).exists()):
        raise UserError(f"--size={size} --data={options['data']}: name CIFAR-10's zip, see README")
    if not Path(data).exists():
        _script("dataset_tool.py", "--source=digits", f"--dest={data}", "--no-plot")
    if options["state"]:
        click.echo("\n".join(unpack(options["state"], outdir, Path(data))))
    trainings, measurements = steps(size, outdir, data, options["device"])
    limit = 60 * options["piece"] if options["piece"] else None
    outdir.mkdir(parents=True, exist_ok=True)
    states = run([*trainings, *measurements], outdir, limit)
    for step in trainings:
        for folder in (outdir / step.folder).glob("0*-*"):
            prune(folder, is_done(step, outdir))
    megabytes = pack(outdir, outdir / STATE) / 1e6
    fits = "" if megabytes <= MOST_MB else f", more than {MOST_MB:g}: use a smaller network"
    click.echo(f"State: {outdir / STATE}, {megabytes:.1f} MB{fits}")
    total = len(trainings) + len(measurements)
    done = sum(s in ("done", "kept") for s in states.values())
    click.echo(f"{done} of {total} commands are done")
    conclude(size, outdir, trainings, done == total)
    ctx.exit(1 if "failed" in states.values() else 0)


@main.command()
@click.option("--size", type=click.Choice(list(SIZES)), required=True)
@click.option("--network", required=True)
@click.option("--data", required=True)
@click.option("--dest", type=click.Path(path_type=Path), required=True)
@click.option("--cache", type=click.Path(path_type=Path), required=True)
@click.option("--device", default="auto")
@click.option("--images", "count", type=int, required=True)
@click.option("--solver")
@click.option("--steps")
@click.option("--n_iters")
def measure(size: str, network: str, data: str, dest: Path, cache: Path, device: str,
            count: int, **how: str | None) -> None:  # fmt: skip
    """Generate images and compare them with the data; the images are not kept."""
    given = [f"--{k}={v}" for k, v in how.items() if v]
    images = dest / "images"
    _script(
        "gen_fid_samples.py", f"--network={network}", f"--save_dir={images}", "--no-plot",
        f"--seeds=0-{count - 1}", f"--device={device}", *given,
    )  # fmt: skip
    made = json.loads((images / "gen_fid_samples_options.json").read_text())["results"]
    if SIZES[size].measure == "FID":
        ref = cache / "cifar10.npz"
        if not ref.exists():
            _script("fid.py", "ref", f"--data={data}", f"--dest={ref}", f"--device={device}")
        found = dest / "fid.json"
        _script("fid.py", "calc", f"--images={images}", f"--ref={ref}", f"--dest={found}",
                f"--device={device}")  # fmt: skip
        distance = json.loads(found.read_text())["results"]["fid"]
    else:
        found = dest / "quality.json"
        _script("-m", "metrics.digit_quality", f"--data={data}", f"--images={images}",
                f"--dest={found}")  # fmt: skip
        rows = json.loads(found.read_text())["rows"]
        distance = rows[str(images)]["classifier_frechet_distance"]
    write_json(dest / "distance.json", {
        "distance": distance, "measure": SIZES[size].measure,
        "evaluations": made["evaluations_per_image"], "images": count,
    })  # fmt: skip
    shutil.rmtree(images)


def _script(*args: object) -> None:
    """Run a script of the suite."""
    subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, check=True)


def conclude(size: str, outdir: Path, trainings: list[Step], complete: bool) -> None:
    """Print what is reached, with the curve; write the table once all is there."""
    rows, curves = [], {}
    for step in trainings:
        case = step.folder
        found = {n: outdir / f"{case}-{n}" / "distance.json" for n in METHODS}
        there = {n: json.loads(p.read_text()) for n, p in found.items() if p.exists()}
        rows += [(case, n, r["evaluations"], r["images"], f"{r['distance']:.3f}")
                 for n, r in there.items()]  # fmt: skip
        if len(there) == len(METHODS):
            curves[case] = np.array([there[f"ab2-{n}"]["distance"] for n in ANGLE])
            curves[f"{case}, Heun-256"] = np.full(len(ANGLE), there["paper-heun-256"]["distance"])
    parts = [aligned(("network", "method", "evaluations", "images", SIZES[size].measure), rows)]
    parts += ["\n".join(_budget(outdir / s.folder) for s in trainings)]
    if SIZES[size].measure == "FID":
        parts.append(
            "Published, 50,000 images, 56 million weights, up to 275 Mimg: "
            + ", ".join(f"{case} {figure}" for case, figure in PUBLISHED.items())
        )
        if size == "cpu":
            parts.append(
                f"{SIZES[size].images} images of a network that has hardly begun to learn, beside "
                "1,000 real ones: that it runs, and no more."
            )
    else:
        parts.append("Digits and a small classifier: not the FID, not comparable with published.")
    if curves:
        labels = ("network evaluations", SIZES[size].measure)
        plot.curve(outdir / "distance.png", np.array(list(ANGLE)), curves, labels)
    click.echo("\n" + "\n\n".join(parts))
    if complete:
        name = "cifar10_fid" if size == "full" else f"cifar10_fid_{size}"
        report(name, f"{SIZES[size].measure} against evaluations, size {size}", parts)


def _budget(folder: Path) -> str:
    """What a network was trained on so far, and what the published 275 Mimg would take."""
    records = [
        json.loads(line)
        for path in sorted(folder.glob("*/stats.jsonl"))[-1:]
        for line in path.read_text().splitlines()
    ]
    if not records:
        return f"{folder.name}: not trained yet"
    kimg = max(r["kimg"] for r in records)
    pace = float(np.median([r["sec_per_kimg"] for r in records]))
    return (
        f"{folder.name}: trained on {kimg / 1000:g} Mimg at {1 / pace:.2g} kimg/s; the published "
        f"275 Mimg of this network would take {format_time(275_000 * pace)} on this machine"
    )


if __name__ == "__main__":
    main()
