"""What the table of images takes: networks over kept dimensions and gaps; and their residuals."""

from __future__ import annotations

from pathlib import Path

from experiments.reproduce import presets
from experiments.reproduce.plans import Setting, trained_for
from experiments.reproduce.runner import NETWORK, Step
from experiments.reproduce.table import Row, Table, Value

DIMENSIONS = {"digits": 64, "cifar10": 3072, "afhqv2": 3072}
NAMES = {"digits": "digits 8x8", "cifar10": "CIFAR-10", "afhqv2": "AFHQv2-32"}
ROUND_TRIP_SEED = 42  # the script's default, and the README's
QUALITY = "classifier_frechet_distance"
YARDSTICKS = ("held-out real", "Gaussian noise")  # rows of metrics.digit_quality
MEASURES = {"digits": "Frechet distance in classifier features", "cifar10": "FID", "afhqv2": "FID"}


def image_data(s: Setting, name: str) -> tuple[str, tuple[Step, ...]]:
    """The zip of a set, and the command that makes it, if it is not there yet.

    A .zip that the user names is taken as it is; anything else is converted.
    """
    if name == "digits":
        source, dest, options = "digits", s.where("data/digits/digits-8x8.zip"), ()
    else:
        usual, source, options = presets.IMAGE_SETS[name]  # type: ignore[assignment]
        given = s.data.get(name) or (usual if Path(usual).exists() else source)
        if given.endswith(".zip"):
            return given, ()
        source, dest = given, s.where(f"data/{name}/{name}-32x32.zip")
    step = Step(
        f"data/{name}", "dataset_tool.py", (f"--source={source}", f"--dest={dest}", *options),
        "*.zip", parallel=False, device=False, inputs=() if name == "digits" else (source,),
    )  # fmt: skip
    return dest, (step,)


def image_network(s: Setting, name: str, keep: int, gap: float) -> Step:
    """Training on an image set to `keep` dimensions at an effective inflation gap."""
    data, before = image_data(s, name)
    folder = f"nets/{case_name(name, keep, gap)}"
    schedule = [f"--dims_to_keep={keep}"]
    reducing = keep < DIMENSIONS[name]
    if reducing:
        schedule.append(f"--inflation_gap={gap - 1:.2f}")
    if name == "digits":
        schedule.append(presets.DIGITS_TMAX["PRR" if reducing else "PRP"])
    args = (
        f"--outdir={s.where(folder)}", f"--data={data}", *schedule,
        *presets.IMAGE_TRAINING[s.scale][name], f"--seed={s.seed}", "--resume=latest",
    )  # fmt: skip
    return Step(
        folder, "train.py", args, NETWORK, before, seed=s.seed, pictures="*/*.png",
        inputs=() if before else (data,),
    )  # fmt: skip


def case_name(name: str, keep: int, gap: float) -> str:
    """Part of a folder's name."""
    reducing = keep < DIMENSIONS[name]
    return f"{name}-d{keep}" + (f"-gap{gap:.2f}" if reducing else "")


def images(s: Setting) -> Table:
    """Sample quality and round trips over kept dimensions and inflation gaps."""
    rows: list[Row] = []
    steps: list[Step] = []
    for name, cases in presets.CASES[s.scale].items():
        made, carried = {}, {}
        for keep, gap in cases:
            network = image_network(s, name, keep, gap)
            made[keep, gap] = [generated(s, name, network, i) for i in _seeds(s)]
            carried[keep, gap] = [round_trips(s, name, network, i) for i in _seeds(s)]
            steps += [network, *made[keep, gap], *carried[keep, gap]]
        judges, quality = _judged(s, name, made)
        steps += judges
        for keep, gap in cases:
            rows += _rows(s, name, keep, gap, quality[keep, gap], tuple(carried[keep, gap]))
        if name == "digits":
            rows += [
                Row(f"{NAMES[name]}, {yardstick}: {MEASURES[name]}",
                    Value(tuple(judges), f"rows|{yardstick}|{QUALITY}"), settings="yardstick")
                for yardstick in YARDSTICKS
            ]  # fmt: skip
    notes = presets.NOTES["images"]
    if s.scale == "smoke":
        notes += (
            "Smoke: the networks are small, trained for a minute on 8x8 digits (64 dimensions), "
            "and samples are compared with real digits in the features of a small classifier, which"
            " is not FID: published figures stand beside for context only. Compare with held-out "
            "real digits and with noise of the data's mean and covariance, the last rows.",
        )
    elif s.scale == "small":
        notes += (
            f"Small: FID of {presets.IMAGES_MADE['small']:,} images, which comes out higher than "
            "that of 50,000: not compared.",
        )
    title = "Images: sample quality and round-trip error over kept dimensions and inflation gaps"
    return Table("images", title, tuple(rows), tuple(steps), notes)


def _seeds(s: Setting) -> range:
    return range(presets.IMAGE_SEEDS[s.scale])


def generated(s: Setting, name: str, network: Step, i: int) -> Step:
    """Images of the i-th range of seeds."""
    n, folder = presets.IMAGES_MADE[s.scale], f"images/{Path(network.folder).name}-made{i}"
    first = (s.seed + i) * n
    args = (
        f"--network={s.where(network.folder)}", f"--save_dir={s.where(folder)}/images",
        f"--seeds={first}-{first + n - 1}", *presets.GENERATION[s.scale],
    )  # fmt: skip
    return Step(
        folder, "gen_fid_samples.py", args, "images/gen_fid_samples_options.json", (network,),
        seed=s.seed + i,
    )  # fmt: skip


def round_trips(s: Setting, name: str, network: Step, i: int) -> Step:
    """Round trips of the i-th choice of images."""
    folder = f"images/{Path(network.folder).name}-round-trips{i}"
    seed = ROUND_TRIP_SEED + s.seed + i
    args = (
        f"--network={s.where(network.folder)}", f"--save_dir={s.where(folder)}",
        f"--data_root={image_data(s, name)[0]}", f"--seed={seed}",
        f"--total_samples={presets.IMAGES_CARRIED[s.scale]}", *presets.ROUND_TRIPS[s.scale],
    )  # fmt: skip
    return Step(
        folder, "calc_roundtrip_mse.py", args, "*_Roundtrip_MSE_*.json", (network,), seed=seed
    )


def _judged(
    s: Setting, name: str, made: dict[tuple[int, float], list[Step]]
) -> tuple[list[Step], dict[tuple[int, float], Value]]:
    """Commands that measure sample quality, and where its figures are."""
    data, before = image_data(s, name)
    if name == "digits":
        folders = {case: f"{s.where(steps[0].folder)}/images" for case, steps in made.items()}
        dest = s.where("images/digits-quality")
        args = (f"--data={data}", *(f"--images={f}" for f in folders.values()),
                f"--dest={dest}/quality.json", f"--seed={s.seed}")  # fmt: skip
        needs = (*before, *(x for steps in made.values() for x in steps))
        step = Step(
            "images/digits-quality", "-m metrics.digit_quality", args, "quality.json", needs,
            parallel=False, device=False, seed=s.seed,
        )  # fmt: skip
        found = {case: Value((step,), f"rows|{f}|{QUALITY}") for case, f in folders.items()}
        return [step], found
    ref = f"{s.where(f'data/{name}-reference')}/{name}.npz"
    reference = Step(f"data/{name}-reference", "fid.py ref", (f"--data={data}", f"--dest={ref}"),
                     "*.npz", before)  # fmt: skip
    measured = {
        case: tuple(
            Step(
                f"{step.folder}-fid", "fid.py calc",
                (f"--images={s.where(step.folder)}/images", f"--ref={ref}",
                 f"--dest={s.where(step.folder)}-fid/fid.json"),
                "fid.json", (reference, step), seed=step.seed,
            )
            for step in steps
        )
        for case, steps in made.items()
    }  # fmt: skip
    found = {case: Value(steps, "results|fid") for case, steps in measured.items()}
    return [reference, *(x for steps in measured.values() for x in steps)], found


def _rows(
    s: Setting, name: str, keep: int, gap: float, quality: Value, carried: tuple[Step, ...]
) -> list[Row]:
    """The two rows of a case."""
    fid, mse = _published(name, keep, gap)
    if s.scale == "small":
        fid = fid and f"{fid} (50,000 images)"
    label = f"{NAMES[name]}, d={keep}" + (f", gap {gap:.2f}" if keep < DIMENSIONS[name] else "")
    training = trained_for(s, presets.IMAGE_TRAINING[s.scale][name])
    n, m = presets.IMAGES_MADE[s.scale], presets.IMAGES_CARRIED[s.scale]
    how = _how(presets.GENERATION[s.scale]), _how(presets.ROUND_TRIPS[s.scale])
    plain = {"MSE": Value(carried, "mse"), "MSE, not rounded": Value(carried, "mse_unrounded")}
    return [
        Row(f"{label}: {MEASURES[name]}", quality, fid, None,
            f"{n:,} images, {how[0]}; {training}"),
        Row(f"{label}: round-trip MSE, modulo 256", Value(carried, "mse_uint8_wrapped"), mse, None,
            f"{m:,} images, {how[1]}; {training}", plain),
    ]  # fmt: skip


def _how(options: tuple[str, ...]) -> str:
    return "Heun, " + options[0].removeprefix("--") if options else "AB2, 33 evaluations"


def _published(
    name: str, keep: int, gap: float
) -> tuple[presets.Figure | str | None, presets.Figure | str | None]:
    """FID and MSE; for the digits those of the paper's data, as text."""
    if name == "digits":
        known = {1: 1, 2: 2, 64: 3072}  # smallest, and PR-preserving
        if gap != 1.02:
            words = f" (AFHQv2, d=2, gap {gap:.2f})"
            return f"{presets.GAP_FID[gap]}{words}", f"{presets.GAP_MSE[gap]}{words}"
        if keep not in known:
            return None, None
        d = known[keep]
        return f"{presets.FID['cifar10'][d]} (FID of CIFAR-10, d={d})", (
            f"{presets.MSE['cifar10'][d]} (CIFAR-10, d={d})"
        )
    if gap != 1.02:
        return presets.Figure(presets.GAP_FID[gap]), presets.Figure(presets.GAP_MSE[gap])
    return presets.FID[name][keep], presets.MSE[name][keep]
