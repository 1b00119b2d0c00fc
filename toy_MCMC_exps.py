"""Posterior of mixture weights seen through a flow, and its calibration."""

from __future__ import annotations

from typing import Any

import click

from dnnlib import cli
from dnnlib.cli import UserError
from experiments.posterior.calibration import sbc, tarp, weights
from experiments.posterior.mcmc import SAMPLERS
from experiments.posterior.posterior import Problem, paper_problem
from flow.flow import Flow, open_flow
from flow.likelihood import EXACT_UP_TO
from flow.method_options import PILOTS, toy_method
from flow.simulation import Method
from flow.solvers import PAPER_SOLVERS, SOLVER_HELP, SOLVERS
from torch_utils import distributed
from torch_utils.work import NETWORK, begin, finish

EXAMPLE = """
python toy_MCMC_exps.py --outdir=mcmc-tmp --network=out
python toy_MCMC_exps.py --outdir=sbc-tmp --network=out --experiment=sbc
torchrun --nproc_per_node=2 toy_MCMC_exps.py --outdir=mcmc-tmp --network=out --sampler=quadrature
"""
EXPERIMENTS = ("weights", "sbc", "tarp")
PRIORS = ("dirichlet", "improper")
TOLERANCE = 5e-3  # of --tol
NOT_FACTS = ("outdir", "network", "device", "plot", "dry_run", "resume")
# Defaults that depend on the experiment.
DEFAULTS: dict[str, dict[str, Any]] = {
    "weights": {"grid": 400, "proposals": 32, "sims": None},
    "sbc": {"grid": 300, "proposals": 32, "sims": 300},
    "tarp": {"grid": 400, "proposals": 256, "sims": 500},
}
# Options that only some samplers (of the experiment `weights`) or experiments heed.
OF_WEIGHTS = {"sampler", "prior", "gt_n", "net_eps_cd", "chains", "mcmc_n", "burn", "keep_z"}
OF_GRADIENTS = {"step_size", "traj_length", "acpt", "thin"}
HEEDED = {
    "--sampler=flow": OF_WEIGHTS | {"proposals", "refresh"},
    "--sampler=quadrature": OF_WEIGHTS | {"grid"},
    "--sampler=parallel": OF_WEIGHTS | OF_GRADIENTS,
    "--sampler=nuts": OF_WEIGHTS | OF_GRADIENTS,
    "--sampler=hamiltorch": OF_WEIGHTS | OF_GRADIENTS,
    "--experiment=sbc": {"prior", "net_eps_cd", "grid", "sims", "sim_n"},
    "--experiment=tarp": {"proposals", "sims"},
}
IMPROPER = (
    "Warning: --prior=improper, the published one, has no proper posterior: near a weight of zero "
    "it is infinite, and chains end there, at once with few data and in the end with many; "
    "--prior=dirichlet has one"
)
positive = click.FloatRange(min=0, min_open=True)


PUBLISHED_TMAX = 7.01  # of the published command's network, which may not tell it
mcmc_options = cli.options(
    click.option("--outdir", required=True, type=click.Path(), help="where results go"),
    click.option("--network", required=True, help="network file, or folder of runs (its latest)"),
    cli.sha256_option,
    click.option("--experiment", type=click.Choice(EXPERIMENTS), default="weights",
                 help="posterior of the weights; simulation-based calibration of it; expected "
                 "coverage of latent posteriors"),
    click.option("--sampler", type=click.Choice(list(SAMPLERS)), default="flow",
                 help="candidates weighed by the flow's likelihood; exact on a 2-D grid; "
                 "HMC on all latents side by side; pyro's NUTS; hamiltorch's HMC as published"),
    click.option("--gt_n", type=click.IntRange(min=1), default=2000, help="data to simulate"),
    click.option("--gt_eps_mvn", type=positive, default=0.01, help="variance of the data's noise"),
    click.option("--net_eps_cd", type=positive,
                 help="latent variance of compressed dimensions [the network's schedule's]"),
    click.option("--tmax", type=positive, help="[read from the network]"),
    click.option("--prior", type=click.Choice(PRIORS), default="dirichlet",
                 help="on the weights: Dirichlet(1), or flat in the logits, as published, which "
                 "has no proper posterior"),
    click.option("--chains", type=click.IntRange(min=1), default=4, help="independent chains"),
    click.option("--mcmc_n", type=click.IntRange(min=8), default=1500, help="draws of a chain"),
    click.option("--burn", type=click.IntRange(min=0), default=500, help="draws discarded before"),
    click.option("--proposals", type=click.IntRange(min=8),
                 help="candidates a datum (flow) or draws a posterior (tarp) [32; tarp: 256]"),
    click.option("--refresh", type=click.FloatRange(min=0), default=0.5,
                 help="times that a chain of flow renews all candidates in every 1000 draws, after "
                 "once in burn-in; 0: never at all (biased)"),
    click.option("--grid", type=click.IntRange(min=9),
                 help="latents tabulated a dimension (quadrature, sbc) [400; sbc: 300]"),
    click.option("--step_size", type=positive,
                 help="of gradient samplers [hamiltorch: .01, .001 with compressed dimensions; "
                 "others adapt it]"),
    click.option("--traj_length", type=click.IntRange(min=1), default=15,
                 help="leapfrog steps of a gradient trajectory"),
    click.option("--acpt", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.8,
                 help="acceptance rate that step sizes are adapted to"),
    click.option("--thin", type=click.IntRange(min=1), default=5,
                 help="save every so many trajectories of gradient samplers"),
    click.option("--keep_z", type=click.IntRange(min=0), default=20,
                 help="draws of the latents saved of each chain"),
    click.option("--sims", type=click.IntRange(min=10),
                 help="simulated data sets (sbc) or latents (tarp) [300; tarp: 500]"),
    click.option("--sim_n", type=click.IntRange(min=1), default=100, help="data of a set (sbc)"),
    click.option("--solver", type=click.Choice([*SOLVERS, *PAPER_SOLVERS]),
                 help=f"{SOLVER_HELP}  [rk4 at --tol; euler if --steps is given]"),
    click.option("--steps", "--n_iters", type=click.IntRange(min=1), help="steps of the solver"),
    click.option("--tol", type=positive,
                 help="rms error of f allowed on pilots, whitened; the noise's sd is .1 [0.005]"),
    click.option("--seed", type=click.IntRange(min=0), default=123, help="of data and sampling"),
    cli.boolean("--resume", help="go on with the unfinished run in --outdir"),
    cli.device_option,
    cli.plot_option,
    cli.dry_run_option,
)  # fmt: skip


@cli.command(EXAMPLE)
@mcmc_options
def main(**options: Any) -> None:
    """Sample the posterior of mixture weights whose latents are seen through a flow."""
    check_heeded(options, cli.given(click.get_current_context()))
    for name, value in DEFAULTS[options["experiment"]].items():
        options[name] = value if options[name] is None else options[name]
    folder = cli.check_writable(options["outdir"], "--outdir")
    flow = open_flow(options, PUBLISHED_TMAX)
    check(flow, options)
    with distributed.session(options["device"]):
        problem, method = build(flow, options)
        distributed.print0(describe(problem, method, options))
        if options["dry_run"]:
            return
        facts = {k: v for k, v in options.items() if k not in NOT_FACTS} | {NETWORK: flow.digest}
        if begin(folder, facts, options["resume"]):
            distributed.print0(f"{folder} holds this run's results: nothing left to do")
            return
        summary = {"options": options, NETWORK: flow.digest, "integration": method.describe()}
        with cli.user_errors():
            EXPERIMENT_OF[options["experiment"]](problem, options, summary, folder)
        if distributed.is_main():
            finish(folder, facts)
            print(f"Results: {folder}", flush=True)


def check_heeded(options: dict[str, Any], given: set[str]) -> None:
    """Refuse options that would have no effect.

    Raises:
        UserError: naming the option and what heeds it.
    """
    mode = f"--experiment={options['experiment']}"
    mode = mode if mode in HEEDED else f"--sampler={options['sampler']}"
    for name in sorted(set().union(*HEEDED.values()) & given - HEEDED[mode]):
        heeding = ", ".join(m for m, names in HEEDED.items() if name in names)
        value = options[name] if isinstance(options[name], str) else f"{options[name]:g}"
        raise UserError(
            f"--{name}={value} has no effect with {mode}, only with {heeding}; leave it out"
        )


def check(flow: Flow, options: dict[str, Any]) -> None:
    """Check options against the network and each other.

    Raises:
        UserError: naming the option, its value and the remedy.
    """
    s = flow.schedule
    keep, dim = s.dims_to_keep, s.data_dim
    if options["tmax"] is not None and abs(options["tmax"] - s.tmax) > 1e-6 * s.tmax:
        raise UserError(
            f"--tmax={options['tmax']:g} contradicts the network, which has tmax={s.tmax:g}; leave "
            "the option out or name another network"
        )
    eps = options["net_eps_cd"]
    if eps is not None and keep == dim and eps != s.A0**2:
        raise UserError(
            f"--net_eps_cd={eps:g}: this network ({s.name}) compresses no dimension, its latents "
            f"have variance {s.A0**2:g}; leave the option out"
        )
    if dim > EXACT_UP_TO:
        raise UserError(
            f"--network={options['network']} has {dim} dimensions; the experiment needs the exact "
            f"change of volume, which is computed up to {EXACT_UP_TO}"
        )
    tabulated = options["experiment"] == "sbc" or (
        options["experiment"] == "weights" and options["sampler"] == "quadrature"
    )
    if tabulated and dim > 2:
        what = "--experiment=sbc" if options["experiment"] == "sbc" else "--sampler=quadrature"
        raise UserError(
            f"{what} tabulates the flow on a grid of at most 2 dimensions, this network has {dim}; "
            f"use {'--experiment=tarp' if what.endswith('sbc') else '--sampler=flow'}"
        )
    if options["experiment"] == "sbc" and options["prior"] != "dirichlet":
        raise UserError(
            "--prior=improper: calibration draws weights from their prior, so that must be proper; "
            "use --prior=dirichlet"
        )


def build(flow: Flow, options: dict[str, Any]) -> tuple[Problem, Method]:
    """The problem without data, and how it is integrated.

    Raises:
        UserError: if the paper's grid ends beyond the network's tmax.
    """
    pilot = flow.integrate(flow.latents(PILOTS, options["seed"]), flow.schedule.tmax, 0.0)
    method = toy_method(flow, pilot, options, TOLERANCE)
    proper = options["prior"] == "dirichlet"
    noise, eps = options["gt_eps_mvn"], options["net_eps_cd"]
    return paper_problem(flow, noise, eps, proper, method.how()), method


def describe(problem: Problem, method: Method, options: dict[str, Any]) -> str:
    """What is about to run, in a few lines."""
    s = problem.flow.schedule
    sds = "; ".join(", ".join(f"{v:.3g}" for v in row) for row in problem.mixture.sds.tolist())
    improper = options["prior"] == "improper"
    prior = "flat in the logits" if improper else "Dirichlet(1)"
    mixture = f"Prior of the weights: {prior}; sds of the components: {sds}\n"
    if options["experiment"] == "tarp":
        mixture = ""
    what = {
        "weights": f"{options['gt_n']} data, {options['chains']} chains of {options['burn']} + "
        f"{options['mcmc_n']} draws by {options['sampler']}",
        "sbc": f"{options['sims']} data sets of {options['sim_n']}",
        "tarp": f"{options['sims']} latents, {options['proposals']} posterior draws each",
    }[options["experiment"]]
    return (
        f"Schedule {s.name}, tmax={s.tmax:g}; noise variance {problem.noise_var:g}\n{mixture}"
        f"Integration: {method.describe()}\n"
        f"{options['experiment']}: {what}" + (f"\n{IMPROPER}" if improper else "")
    )


EXPERIMENT_OF = {"weights": weights, "sbc": sbc, "tarp": tarp}


if __name__ == "__main__":
    main()
