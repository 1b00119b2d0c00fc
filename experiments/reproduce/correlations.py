"""What the table of residual correlations takes, for toys and images."""

from __future__ import annotations

from experiments.reproduce import presets
from experiments.reproduce.images import DIMENSIONS, NAMES, image_data, image_network
from experiments.reproduce.plans import DATA_SEED, Setting, both_schedules
from experiments.reproduce.runner import Step
from experiments.reproduce.table import Row, Table, Value


def correlations(s: Setting) -> Table:
    """Correlations of residuals over time, toys and images."""
    rows, steps = [], []
    options = presets.CORRELATIONS[s.scale]
    script = "calc_net_residuals_autocorrelations.py"
    for kind, network in both_schedules(s, "circles"):
        folder = f"correlations/circles-{kind}"
        args = (
            f"--network={s.where(network.folder)}", f"--save_dir={s.where(folder)}-residuals",
            *options, f"--seed={DATA_SEED + s.seed}",
        )  # fmt: skip
        extract = Step(
            f"{folder}-residuals", f"{script} extracttoys", args, "*_residuals.npz", (network,),
            seed=DATA_SEED + s.seed,
        )  # fmt: skip
        source = f"{s.where(extract.folder)}/circles_{kind}_toy_net_outputs_residuals.npz"
        args = (f"--res_root={source}", f"--save_dir={s.where(folder)}")
        step = Step(
            folder, f"{script} calctoys", args, "*_autocorrelations.npz", (extract,),
            parallel=False, seed=DATA_SEED + s.seed,
        )  # fmt: skip
        steps += [network, extract, step]
        words = ", ".join(o.removeprefix("--") for o in options)
        rows.append(correlation_rows(step, f"circles {kind}", words))
    more_rows, more_steps = image_correlations(s)
    title = "Residual correlations over time"
    return Table(
        "correlations", title, (*rows, *more_rows), (*steps, *more_steps),
        presets.NOTES["correlations"],
    )  # fmt: skip


def image_correlations(s: Setting) -> tuple[list[Row], list[Step]]:
    """Residual correlations of a PR-preserving image network, that of `images`."""
    name = "digits" if s.scale == "smoke" else "cifar10"
    network = image_network(s, name, DIMENSIONS[name], 1.02)
    folder, script = f"correlations/{name}", "calc_net_residuals_autocorrelations.py"
    options = presets.IMAGE_CORRELATIONS[s.scale]
    args = (
        f"--network={s.where(network.folder)}", f"--save_dir={s.where(folder)}-residuals",
        f"--data_root={image_data(s, name)[0]}", *options, f"--seed={s.seed}",
    )  # fmt: skip
    extract = Step(
        f"{folder}-residuals", f"{script} extract", args, "*_residuals_time*.npz", (network,),
        seed=s.seed,
    )  # fmt: skip
    args = (f"--res_root={s.where(extract.folder)}", f"--save_dir={s.where(folder)}")
    step = Step(
        folder, f"{script} calc", args, "*_autocorrelations_*.npz", (extract,), parallel=False,
        seed=s.seed,
    )  # fmt: skip
    words = ", ".join(o.removeprefix("--") for o in options)
    return [correlation_rows(step, f"{NAMES[name]} PRP", words)], [network, extract, step]


def correlation_rows(step: Step, what: str, words: str) -> Row:
    """A row on what `calc` or `calctoys` wrote."""
    key, file = "net_residual_acs_mean_diagonal", "*autocorrelations*.json"
    more = {
        "at the second time": Value((step,), f"{key}|1", file),
        "mean over times": Value((step,), f"{key}|*", file),
    }
    what = f"{what}: residuals at the last time with those at the first"
    return Row(what, Value((step,), f"{key}|-1", file), settings=words, more=more)
