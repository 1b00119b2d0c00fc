"""What the table of likelihoods takes: toys beside the truth, images in bits a dimension."""

from __future__ import annotations

from experiments.reproduce import presets
from experiments.reproduce.images import NAMES, image_data
from experiments.reproduce.plans import Setting, toy_network, trained_for
from experiments.reproduce.runner import NETWORK, Step
from experiments.reproduce.table import Row, Table, Value

TOY_SEED, IMAGE_SEED = 1, 42  # the script's defaults


def likelihood(s: Setting) -> Table:
    """Negative log likelihood of toys beside the truth, bits a dimension of images."""
    rows, steps = [], []
    for name in presets.DENSITY_SETS:
        network = toy_network(s, name)
        folder, seed = f"likelihood/{name}", TOY_SEED + s.seed
        n = presets.DENSITY_SAMPLES[s.scale]
        args = (f"--network={s.where(network.folder)}", f"--save_dir={s.where(folder)}",
                f"--total_samples={n}", f"--seed={seed}")  # fmt: skip
        step = Step(folder, "calc_nll.py toys", args, "*_nll.json", (network,), seed=seed)
        steps += [network, step]
        more = {
            "standard error": Value((step,), "results|nll_nats|standard_error"),
            "total variation": Value((step,), "results|total_variation_from_truth"),
        }
        words = f"{n:,} samples; {trained_for(s, presets.TOY_TRAINING[s.scale])}"
        ours, exact = (Value((step,), f"results|{k}") for k in ("nll_nats|mean", "true_nll_nats"))
        rows.append(Row(f"{name} PRP: nats", ours, None, exact, words, more))
    variants: dict[str, presets.Options] = {"CIFAR-10": ()}
    if s.scale == "paper":
        variants["CIFAR-10, augmented"] = presets.AUGMENTED
    for label, options in variants.items():
        row, more_steps = _bits(s, label, options)
        rows.append(row)
        steps += more_steps
    for label in (b for b in presets.BITS if b not in variants):
        words = "not run: " + (
            "no data set of ours has it" if "ImageNet" in label else "at --scale=paper only"
        )
        rows.append(Row(f"{label}: bits a dimension", Value((), ""), f"{presets.BITS[label]}",
                        settings=words))  # fmt: skip
    title = "Likelihood: toys beside the truth, images in bits a dimension"
    return Table("likelihood", title, tuple(rows), tuple(steps), presets.NOTES["likelihood"])


def _bits(s: Setting, label: str, options: tuple[str, ...]) -> tuple[Row, list[Step]]:
    """Bits a dimension of a network trained for likelihood."""
    name = "digits" if s.scale == "smoke" else "cifar10"
    data, before = image_data(s, name)
    tag = name + ("-augmented" if options else "")

    def trained(folder: str, extra: tuple[str, ...], needs: tuple[Step, ...]) -> Step:
        args = (f"--outdir={s.where(folder)}", f"--data={data}", *presets.VELOCITY, *extra,
                f"--seed={s.seed}", "--resume=latest")  # fmt: skip
        return Step(folder, "train.py", args, NETWORK, needs, seed=s.seed, pictures="*/*.png",
                    inputs=() if before else (data,))  # fmt: skip

    replaced = {o.split("=")[0] for o in options}
    base = presets.LIKELIHOOD_TRAINING[s.scale]
    training = (*(o for o in base if o.split("=")[0] not in replaced), *options)
    network = trained(f"nets/{tag}-velocity", training, before)
    steps = [network]
    if s.scale == "paper" and not options:
        fine = (f"--transfer={s.where(network.folder)}", *presets.FINE_TUNING)
        network = trained(f"nets/{tag}-velocity-second-order", fine, (network,))
        steps.append(network)
    args = (f"--network={s.where(network.folder)}", f"--save_dir={s.where(f'likelihood/{tag}')}",
            f"--data_root={data}", *presets.BITS_OF[s.scale],
            f"--seed={IMAGE_SEED + s.seed}")  # fmt: skip
    step = Step(f"likelihood/{tag}", "calc_nll.py net", args, "*_nll.json", (network,),
                seed=IMAGE_SEED + s.seed)  # fmt: skip
    what = NAMES[name] + (", augmented" if options else "")
    more = {"standard error": Value((step,), "results|bits_per_dim|standard_error")}
    words = ", ".join(o.removeprefix("--") for o in presets.BITS_OF[s.scale])
    words += "; " + trained_for(s, training)
    row = Row(f"{what}: bits a dimension", Value((step,), "results|bits_per_dim|mean"),
              f"{presets.BITS[label]} ({label})", None, words, more)  # fmt: skip
    return row, [*steps, step]
