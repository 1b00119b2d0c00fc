"""Options of toy_MCMC_exps.py, and which of them each sampler and experiment heeds."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import click

from dnnlib.cli import UserError
from dnnlib.options import COUNT, NONNEGATIVE, PATH, POSITIVE, SEED, Options, RunOptions, option
from flow.options import NetworkOptions, ToySolverOptions, tolerance_option

EXPERIMENTS = ("weights", "sbc", "tarp")
PRIORS = ("dirichlet", "improper")
TOLERANCE = 5e-3  # of --tol
DEFAULTS: dict[str, dict[str, int]] = {  # of experiments that have their own
    "weights": {},
    "sbc": {"grid": 300, "sims": 300},
    "tarp": {"proposals": 256, "sims": 500},
}
# Options that only some samplers (of the experiment `weights`) or experiments heed.
OF_WEIGHTS = {"sampler", "prior", "gt_n", "net_eps_cd", "chains", "mcmc_n", "burn", "keep_z"}
OF_GRADIENTS = {"step_size", "traj_length", "acpt", "thin"}
HEEDED = {
    "--sampler=flow": OF_WEIGHTS | {"proposals", "refresh"},
    "--sampler=quadrature": OF_WEIGHTS | {"grid"},
    "--sampler=nuts": OF_WEIGHTS | OF_GRADIENTS,
    "--sampler=hamiltorch": OF_WEIGHTS | OF_GRADIENTS,
    "--experiment=sbc": {"prior", "net_eps_cd", "grid", "sims", "sim_n"},
    "--experiment=tarp": {"proposals", "sims"},
}


SAMPLERS = [mode.split("=")[1] for mode in HEEDED if mode.startswith("--sampler")]
SAID_AS = {"mcmc_n": "draws", "acpt": "accept"}  # in the settings of a result


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(Options):
    """Options of sampling: each sampler takes what concerns it."""

    seed: int = option(123, type=SEED, help="of data and sampling")
    chains: int = option(4, type=COUNT, help="independent chains")
    mcmc_n: int = option(1500, type=click.IntRange(min=8), help="draws of a chain")
    burn: int = option(500, type=SEED, help="draws discarded, or used to adapt, before")
    thin: int = option(5, type=COUNT, help="save every so many trajectories of gradient samplers")
    step_size: float | None = option(
        None, type=POSITIVE,
        help="of gradient samplers [hamiltorch: .01, .001 with compressed dimensions; others adapt "
        "it]",
    )  # fmt: skip
    traj_length: int = option(15, type=COUNT, help="leapfrog steps of a gradient trajectory")
    acpt: float = option(
        0.8, type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="acceptance rate that step sizes are adapted to",
    )  # fmt: skip
    proposals: int = option(
        32, type=click.IntRange(min=8),
        help="candidates a datum (flow) or draws a posterior (tarp, where it is 256)",
    )  # fmt: skip
    grid: int = option(
        400, type=click.IntRange(min=9),
        help="latents tabulated a dimension (quadrature; sbc, where it is 300)",
    )  # fmt: skip
    keep_z: int = option(20, type=SEED, help="draws of the latents saved of each chain")
    refresh: float = option(
        0.5, type=NONNEGATIVE,
        help="times that a chain of flow renews all candidates in every 1000 draws, after once in "
        "burn-in; 0: never at all (biased)",
    )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Plain values of these options alone, for a .json file."""
        own = [f.name for f in fields(SamplerOptions) if f.metadata]
        return {SAID_AS.get(name, name): getattr(self, name) for name in own}


@dataclass(frozen=True, kw_only=True)
class McmcOptions(ToySolverOptions, SamplerOptions, NetworkOptions, RunOptions):
    """Options of the script."""

    outdir: str = option(type=PATH, help="where results go")
    experiment: str = option(
        "weights", type=click.Choice(EXPERIMENTS),
        help="posterior of the weights; self-consistency of it by simulation; the same of latent "
        "posteriors by expected coverage. Truths come from the flow, so these test the code: "
        "whether the flow is that of the data, run_toy_alphashape_mesh_exps.py --experiment=data "
        "tells",
    )  # fmt: skip
    sampler: str = option(
        "flow", type=click.Choice(SAMPLERS),
        help="posteriors of the data one by one, weighed anew; exact on a 2-D grid; pyro's NUTS on "
        "all latents together; hamiltorch's HMC as published",
    )  # fmt: skip
    gt_n: int = option(2000, type=COUNT, help="data to simulate")
    gt_eps_mvn: float = option(0.01, type=POSITIVE, help="variance of the data's noise")
    net_eps_cd: float | None = option(
        None, type=POSITIVE,
        help="latent variance of compressed dimensions [the network's schedule's]",
    )  # fmt: skip
    prior: str = option(
        "dirichlet", type=click.Choice(PRIORS),
        help="on the weights: Dirichlet(1), or flat in the logits, as published, which has no "
        "proper posterior",
    )  # fmt: skip
    sims: int | None = option(
        None, type=click.IntRange(min=10),
        help="simulated data sets (sbc) or latents (tarp) [300; tarp: 500]",
    )  # fmt: skip
    sim_n: int = option(100, type=COUNT, help="data of a set (sbc)")
    resume: bool = option(False, help="go on with the unfinished run in --outdir")
    tol: float | None = tolerance_option(TOLERANCE)

    def __post_init__(self) -> None:
        """Refuse options that would have no effect."""
        mode = self.mode
        for name in sorted(set().union(*HEEDED.values()) & self.given - HEEDED[mode]):
            heeding = ", ".join(m for m, names in HEEDED.items() if name in names)
            said = getattr(self, name)
            value = said if isinstance(said, str) else f"{said:g}"
            raise UserError(
                f"--{name}={value} has no effect with {mode}, only with {heeding}; leave it out"
            )

    @property
    def mode(self) -> str:
        """The option, of `HEEDED`, that says what is done."""
        mode = f"--experiment={self.experiment}"
        return mode if mode in HEEDED else f"--sampler={self.sampler}"

    def resolved(self) -> McmcOptions:
        """The options with those filled in whose default depends on the experiment."""
        own = DEFAULTS[self.experiment].items()
        return replace(self, **{k: v for k, v in own if k not in self.given})  # type: ignore[arg-type]  # own are this class's own fields
