"""Posterior of mixture weights seen through a flow, and its calibration."""

from __future__ import annotations

from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import takes
from experiments.posterior.options import TOLERANCE, McmcOptions
from experiments.posterior.posterior import Problem, paper_problem
from experiments.posterior.run import calibration, weights
from flow.flow import Flow, open_flow
from flow.likelihood import EXACT_UP_TO
from flow.method import PILOTS, Method, toy_method
from torch_utils import distributed
from torch_utils.work import NETWORK, begin, finish

EXAMPLE = """
python toy_MCMC_exps.py --outdir=mcmc-tmp --network=out
python toy_MCMC_exps.py --outdir=sbc-tmp --network=out --experiment=sbc
torchrun --nproc_per_node=2 toy_MCMC_exps.py --outdir=mcmc-tmp --network=out --sampler=quadrature
"""
NOT_FACTS = ("outdir", "network", "device", "resume")
IMPROPER = (
    "Warning: --prior=improper, the published one, has no proper posterior: near a weight of zero "
    "it is infinite, and chains end there, at once with few data and in the end with many; "
    "--prior=dirichlet has one"
)
PUBLISHED_TMAX = 7.01  # of the published command's network, which may not tell it


@cli.command(EXAMPLE)
@takes(McmcOptions)
def main(options: McmcOptions) -> None:
    """Sample the posterior of mixture weights whose latents are seen through a flow."""
    options = options.resolved()
    folder = cli.check_writable(options.outdir, "--outdir")
    flow = open_flow(options, PUBLISHED_TMAX)
    check(flow, options)
    with distributed.session(options.device):
        problem, method, options = build(flow, options)
        distributed.print0(describe(problem, method, options))
        if options.dry_run:
            return
        record = options.record()
        facts = {k: v for k, v in record.items() if k not in NOT_FACTS} | {NETWORK: flow.digest}
        if begin(folder, facts, options.resume):
            distributed.print0(f"{folder} holds this run's results: nothing left to do")
            return
        summary = {"options": record, NETWORK: flow.digest, "integration": method.describe()}
        with cli.user_errors():
            experiment = weights if options.experiment == "weights" else calibration
            experiment(problem, options, summary, folder)
        if distributed.is_main():
            finish(folder, facts)
            print(f"Results: {folder}", flush=True)


def check(flow: Flow, options: McmcOptions) -> None:
    """Check options against the network and each other.

    Raises:
        UserError: naming the option, its value and the remedy.
    """
    s = flow.schedule
    keep, dim = s.dims_to_keep, s.data_dim
    if options.tmax is not None and abs(options.tmax - s.tmax) > 1e-6 * s.tmax:
        raise UserError(
            f"--tmax={options.tmax:g} contradicts the network, which has tmax={s.tmax:g}; leave "
            "the option out or name another network"
        )
    eps = options.net_eps_cd
    if eps is not None and keep == dim and eps != s.A0**2:
        raise UserError(
            f"--net_eps_cd={eps:g}: this network ({s.name}) compresses no dimension, its latents "
            f"have variance {s.A0**2:g}; leave the option out"
        )
    if dim > EXACT_UP_TO:
        raise UserError(
            f"--network={options.network} has {dim} dimensions; the experiment needs the exact "
            f"change of volume, which is computed up to {EXACT_UP_TO}"
        )
    other = {"--experiment=sbc": "--experiment=tarp", "--sampler=quadrature": "--sampler=flow"}
    if options.mode in other and dim > 2:
        raise UserError(
            f"{options.mode} tabulates the flow on a grid of at most 2 dimensions, this network "
            f"has {dim}; use {other[options.mode]}"
        )
    if options.experiment == "sbc" and options.prior != "dirichlet":
        raise UserError(
            "--prior=improper: calibration draws weights from their prior, so that must be proper; "
            "use --prior=dirichlet"
        )


def build(flow: Flow, options: McmcOptions) -> tuple[Problem, Method, McmcOptions]:
    """The problem without data, how it is integrated, and the options with --tol filled in.

    Raises:
        UserError: if the paper's grid ends beyond the network's tmax.
    """

    def pilots() -> Tensor:
        return flow.integrate(flow.latents(PILOTS, options.seed), flow.schedule.tmax, 0.0)

    method, options = toy_method(flow, pilots, options, TOLERANCE)
    proper = options.prior == "dirichlet"
    noise, eps = options.gt_eps_mvn, options.net_eps_cd
    return paper_problem(flow, noise, eps, proper, method.how()), method, options


def describe(problem: Problem, method: Method, options: McmcOptions) -> str:
    """What is about to run, in a few lines."""
    s = problem.flow.schedule
    sds = "; ".join(", ".join(f"{v:.3g}" for v in row) for row in problem.mixture.sds.tolist())
    improper = options.prior == "improper"
    prior = "flat in the logits" if improper else "Dirichlet(1)"
    mixture = f"Prior of the weights: {prior}; sds of the components: {sds}\n"
    if options.experiment == "tarp":
        mixture = ""
    what = {
        "weights": f"{options.gt_n} data, {options.chains} chains of {options.burn} + "
        f"{options.mcmc_n} draws by {options.sampler}",
        "sbc": f"{options.sims} data sets of {options.sim_n}",
        "tarp": f"{options.sims} latents, {options.proposals} posterior draws each",
    }[options.experiment]
    return (
        f"Schedule {s.name}, tmax={s.tmax:g}; noise variance {problem.noise_var:g}\n{mixture}"
        f"Integration: {method.describe()}\n"
        f"{options.experiment}: {what}" + (f"\n{IMPROPER}" if improper else "")
    )


if __name__ == "__main__":
    main()
