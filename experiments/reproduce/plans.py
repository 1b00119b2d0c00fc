"""What each table of toys takes: its commands and its rows, from the presets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiments.reproduce import presets
from experiments.reproduce.runner import NETWORK, Step
from experiments.reproduce.table import Row, Table, Value

MCMC_RESUME = ("--resume", "run.json")
DATA_SEED, MCMC_SEED = 0, 123  # the scripts' own defaults
RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)


@dataclass(frozen=True)
class Setting:
    """What the plans depend on.

    Attributes:
        scale: one of `presets.SCALES`.
        outdir: of all results.
        seed: of all steps, added to what the scripts take by default.
        data: image set -> its file, where the user gave one.
    """

    scale: str
    outdir: Path
    seed: int = 0
    data: dict[str, str] = field(default_factory=dict)

    def where(self, folder: str) -> str:
        """The folder of a step, as its command names it."""
        return str(self.outdir / folder)


def toy_network(s: Setting, name: str, keep: int | None = None) -> Step:
    """Training on a toy set, PRP, or PRR to `keep` dimensions."""
    schedule = presets.PRESERVING
    kind = "PRP"
    if keep is not None:
        schedule, kind = (f"--dims_to_keep={keep}", *presets.REDUCING), f"PRRto{keep}D"
    folder = f"nets/{name}-{kind}"
    args = (
        f"--outdir={s.where(folder)}", f"--data_name={name}", *schedule,
        *presets.TOY_TRAINING[s.scale], f"--seed={s.seed}", "--resume=latest",
    )  # fmt: skip
    return Step(folder, "toy_train.py", args, NETWORK, seed=s.seed, pictures="*/*.png")


def both_schedules(s: Setting, name: str) -> Iterator[tuple[str, Step]]:
    """PRP and PRR networks of a set: each with its schedule's name."""
    d = presets.TOYS[name]
    yield "PRP", toy_network(s, name)
    yield f"PRRto{d - 1}D", toy_network(s, name, d - 1)


def euler(s: Setting, kind: str) -> tuple[str, ...]:
    """Options of the paper's integrator, at its scale; else the scripts' own choice."""
    if s.scale != "paper":
        return ()
    options = presets.PRESERVING if kind == "PRP" else presets.REDUCING
    tmax = next(float(o.split("=")[1]) for o in options if o.startswith("--tmax="))
    return (f"--steps={round(tmax / presets.EULER_STEP)}", f"--h={presets.EULER_STEP}")


def trained_for(s: Setting, options: tuple[str, ...]) -> str:
    """A few words on training."""
    words = [o.removeprefix("--") for o in options if o.startswith(("--arch", "--duration"))]
    return "trained with " + (", ".join(words) or "the defaults of the script")


def integrator(s: Setting, kind: str) -> str:
    """A few words on integration."""
    return ", ".join(o.removeprefix("--") for o in euler(s, kind)) or "angle integrator at --tol"


def toys(s: Setting) -> Table:
    """Simulations of five sets: inflation, round trip, generation."""
    rows, steps = [], []
    for name in presets.TOYS:
        for kind, network in both_schedules(s, name):
            folder = f"toys/{name}-{kind}"
            args = (
                f"--network={s.where(network.folder)}", f"--save_dir={s.where(folder)}",
                f"--total_samples={presets.TOY_SAMPLES[s.scale]}", *euler(s, kind),
                f"--seed={DATA_SEED + s.seed}",
            )  # fmt: skip
            sim = Step(
                folder, "toy_pfODE_int.py net", args, "*_sim_params.json", (network,),
                seed=DATA_SEED + s.seed, pictures="*_net_*.png",
            )  # fmt: skip
            steps += [network, sim]
            here = {
                "excess kurtosis": Value((sim,), "results|excess_kurtosis_kept"),
                "round-trip rmse": Value((sim,), "results|round_trip_rmse"),
                "evaluations": Value((sim,), "results|evaluations_one_way"),
            }
            what = f"{name} {kind}: rms of inflated data, kept dimensions"
            words = f"{trained_for(s, presets.TOY_TRAINING[s.scale])}; {integrator(s, kind)}"
            ours = Value((sim,), "results|latent_rms_kept")
            rows.append(Row(what, ours, exact=1.0, settings=words, more=here))
    title = "Toy sets, PR-preserving and PR-reducing: Gaussian latents and round trips"
    return Table("toys", title, tuple(rows), tuple(steps), presets.NOTES["toys"])


def coverage(s: Setting) -> Table:
    """Share of latents within spheres, before and after the flow."""
    rows, steps = [], []
    for name in presets.COVERAGE_SETS[s.scale]:
        for kind, network in both_schedules(s, name):
            folder = f"coverage/{name}-{kind}"
            args = (
                f"--network={s.where(network.folder)}", f"--save_dir={s.where(folder)}",
                *presets.COVERAGE[s.scale], *euler(s, kind), f"--seed={DATA_SEED + s.seed}",
            )  # fmt: skip
            step = Step(
                folder, "run_toy_alphashape_mesh_exps.py", args, "*_coverages_gen.json", (network,),
                seed=DATA_SEED + s.seed,
            )  # fmt: skip
            steps += [network, step]
            words = ", ".join(
                o.removeprefix("--") for o in (*presets.COVERAGE[s.scale], *euler(s, kind))
            )
            for i, r in enumerate(RADII):

                def stage(key: str, path: str, step: Step = step) -> Value:
                    return Value((step,), path, f"*_coverages_{key}.json")

                more = {
                    "in the latent": stage("latent", f"mean|{i}"),
                    "inflated back": stage("roundtrip", f"mean|{i}"),
                    "binomial se": stage("gen", f"binomial_standard_error|{i}"),
                }
                exact = stage("gen", f"chi_square|{i}")
                what = f"{name} {kind}: share within radius {r:.1f}, generated"
                rows.append(Row(what, stage("gen", f"mean|{i}"), None, exact, words, more))
    title = "Coverage of latent spheres carried by the flow"
    return Table("coverage", title, tuple(rows), tuple(steps), presets.NOTES["coverage"])


def hmc(s: Setting) -> Table:
    """Posterior of mixture weights seen through the flow of the circles, beside the exact one."""
    rows, steps = [], []
    for kind, network in both_schedules(s, "circles"):

        def sampled(
            name: str, options: tuple[str, ...], kind: str = kind, network: Step = network
        ) -> Step:
            folder = f"hmc/circles-{kind}-{name}"
            args = (
                f"--network={s.where(network.folder)}", f"--outdir={s.where(folder)}",
                f"--gt_n={presets.HMC_DATA[s.scale]}", *options, f"--seed={MCMC_SEED + s.seed}",
            )  # fmt: skip
            return Step(
                folder, "toy_MCMC_exps.py", args, "summary.json", (network,),
                seed=MCMC_SEED + s.seed, resume=MCMC_RESUME,
            )  # fmt: skip

        options = presets.HMC[s.scale]
        if "--sampler=hamiltorch" in options:
            options += (f"--step_size={presets.HMC_STEP[kind[:3]]}",)
        ours = sampled("posterior", options)
        exact = sampled("exact", ("--sampler=quadrature", *presets.EXACT_POSTERIOR[s.scale]))
        steps += [network, ours, exact]
        words = f"{presets.HMC_DATA[s.scale]} data; " + (
            ", ".join(o.removeprefix("--") for o in options) or "data-space proposals, 4 chains"
        )
        for k, weight in enumerate(presets.WEIGHTS):
            more = {
                name: Value((step,), f"{key}|{k}", "summary.json")
                for name, step, key in (
                    ("sd", ours, "sd"), ("exact sd", exact, "sd"), ("MC error", ours, "mcse_mean"),
                    ("R-hat", ours, "r_hat"), ("bulk ESS", ours, "ess_bulk"),
                )
            }  # fmt: skip
            mean = [Value((step,), f"mean|{k}", "summary.json") for step in (ours, exact)]
            what = f"{kind}: posterior mean of weight {k + 1} (data drawn with {weight:g})"
            rows.append(Row(what, mean[0], None, mean[1], words, more))
        seconds = Value((ours,), "seconds_per_effective_draw", "summary.json")
        published = f"{presets.HMC_SECONDS:g} a draw (its GPU, 2000 data)"
        rows.append(Row(f"{kind}: seconds an effective draw", seconds, published, None, words))
    title = "Posterior of mixture weights seen through the flow"
    return Table("hmc", title, tuple(rows), tuple(steps), presets.NOTES["hmc"])
