"""Options of the schedule and of what the network sees; training and exact flows have them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import click

from dnnlib.cli import UserError
from dnnlib.options import COUNT, NONNEGATIVE, POSITIVE, Options, option
from torch_utils import distributed
from training.data.source import Source
from training.edm_precond import LEVELS, RECIPES
from training.schedule import G_TYPES

SCHEDULE = (
    "dims_to_keep", "g_type", "inflation_gap", "g_rescaling", "rho", "gamma0", "tmax",
)  # fmt: skip


def _published_sampling(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """--t_sampling by our name: times are normal where the logarithm of the noise level is."""
    if value != "normal":
        return value
    if distributed.is_main():
        click.echo("Note: --t_sampling=normal is lognormal here, with EDM's mean and sd", err=True)
    return "lognormal"


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """The schedule and what the network sees."""

    data_dim: int = option(None, type=COUNT, help="dimensions of the data [those of the data]")
    dims_to_keep: int = option(
        None, type=COUNT,
        help="dimensions that inflate fully; fewer than --data_dim compresses [data_dim]",
    )  # fmt: skip
    g_type: str = option(
        "constant_inflation_gap",
        type=click.Choice(G_TYPES),
        help="exponents of compressed dimensions: -inflation_gap, or with orig -kept/compressed",
    )
    inflation_gap: float = option(1.0, type=NONNEGATIVE, help="the paper's effective gap minus 1")
    g_rescaling: float = option(1.0, type=POSITIVE, help="factor on all of g")
    rho: float = option(None, type=POSITIVE, help="growth rate [2 for PRP, 1 for PRR: 2/(1+max g)]")
    gamma0: float = option(
        5e-4, type=POSITIVE,
        help="noise variance at t = 0; unless given, other for --precond=edm, vp, ve",
    )  # fmt: skip
    tmin: float = option(1e-7, type=NONNEGATIVE, help="smallest time")
    tmax: float = option(
        7.01, "--end_time", type=POSITIVE,
        help="end of the flow; unless given, other for --precond=edm, vp, ve",
    )  # fmt: skip
    space: str = option(
        "ES", type=click.Choice(["ES", "IS"]),
        help="the network's coordinates: eigenbasis or the data's own",
    )  # fmt: skip
    precond: str = option(
        "ifs", type=click.Choice(list(RECIPES)),
        help="ifs: the inflationary flow. edm, vp, ve: one noise level for all dimensions, drawn, "
        "weighted and told to the network as by that method. The network predicts F in each; "
        "--gamma0 and --tmax cover the method's levels, sigma .002 to 80, .001 to 152, .02 to 100. "
        "vp_velocity, sp_velocity: the diffusion ODEs of maximum likelihood (i-DODE), log SNR 13.3 "
        "to -5",
    )  # fmt: skip
    t_sampling: str = option(
        None, type=click.Choice(["uniform", "arc", "normal", *LEVELS]),
        callback=_published_sampling,
        help="how training draws times: uniform in t, as the paper does, uniform in the arc that "
        "the flow is integrated in, or such that the noise level is lognormal (edm; published "
        "name: normal), uniform in VP's time (vp) or log-uniform (ve)  [by --precond; ifs: "
        "uniform]",
    )  # fmt: skip
    weighting: str = option(
        None, type=click.Choice(["edm", "noise", "arc", "likelihood"]),
        help="weight of the squared error of the field: edm 1, noise cos(phi)^2, arc that of the "
        "velocity in arc length, likelihood that of maximum likelihood  [by --precond; ifs: edm]",
    )  # fmt: skip
    importance: bool | None = option(
        None,
        help="draw times in proportion to the likelihood weight, for a less noisy gradient; with "
        "--weighting=likelihood  [by --precond; ifs: no]",
    )  # fmt: skip
    second_order: bool = option(
        False,
        help="fine-tune with i-DODE's error-bounded second-order loss; with --transfer, from a "
        "trained network",
    )  # fmt: skip

    def schedule(self) -> dict[str, Any]:
        """Keyword arguments of `Schedule`, all but xi."""
        return {name: getattr(self, name) for name in SCHEDULE}

    def dimensions_of(self, d: int) -> str:
        """What is said of data of d dimensions to who takes them to have another number."""
        raise NotImplementedError

    def with_dimensions(self, source: Source) -> Self:
        """These options with --data_dim and --dims_to_keep, which agree with the data.

        Raises:
            UserError: naming the option, its value and the remedy.
        """
        d = source.dim
        if self.data_dim not in (None, d):
            raise UserError(f"--data_dim={self.data_dim}: {self.dimensions_of(d)}")
        keep = self.dims_to_keep or d
        if keep > d:
            raise UserError(f"--dims_to_keep={keep} is larger than --data_dim={d}; use at most {d}")
        return replace(self, data_dim=d, dims_to_keep=keep)
