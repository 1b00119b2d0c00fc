"""Options as dataclasses: what the command line gives, what is recorded, what a base shares."""

from __future__ import annotations

from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import COUNT, POSITIVE, Options, RunOptions, again, option, takes


@dataclass(frozen=True, kw_only=True)
class BaseOptions(Options):
    """Shared."""

    network: str = option(help="file")
    tmax: float | None = option(None, "--end_time", type=POSITIVE, help="end")
    class_: int = option(3, help="class")


@dataclass(frozen=True, kw_only=True)
class CountOptions(BaseOptions, RunOptions):
    """Of the command."""

    n: int = option(5, "-N", type=COUNT, help="how many")
    tmax: float | None = again(BaseOptions, "tmax", 7.0)
    class_: int = again(BaseOptions, "class_", help="the default stays")
    kind: str = option("a", type=click.Choice(["a", "b"]), help="which")
    animate: bool = option(False, help="moves")

    def __post_init__(self) -> None:
        if self.n > 10 and self.kind == "b":
            raise UserError(f"--n={self.n} is too many for --kind=b; use at most 10")


def parse(*args: str) -> CountOptions | str:
    found: list[CountOptions] = []

    @cli.command("x")
    @takes(CountOptions)
    def main(options: CountOptions) -> None:
        found.append(options)

    result = CliRunner().invoke(main, list(args))
    assert result.exit_code == (0 if found else 2)
    return found[0] if found else result.output


def test_fields_are_options_with_the_types_of_their_annotations():
    options = parse(
        "--network=f", "--end-time=2", "-N", "7", "--class=4", "--kind=b", "--animate=1"
    )
    assert options == CountOptions(
        network="f", tmax=2.0, n=7, class_=4, kind="b", animate=True, given=options.given
    )
    assert options.given == {"network", "tmax", "n", "class_", "kind", "animate"}


def test_defaults_of_base_and_subclass():
    options = parse("--network=f", "--no-plot", "-n")
    assert (options.tmax, options.n, options.class_, options.device) == (7.0, 5, 3, "auto")
    assert (options.plot, options.dry_run) == (False, True)
    assert "tmax" not in options.given


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--n=1"], "--network"),
        (["--network=f", "--n=0"], "--n"),
        (["--network=f", "--tmax=-1"], "--tmax"),
        (["--network=f", "--kind=c"], "--kind"),
        (["--network=f", "--n=11", "--kind=b"], "--n=11 is too many"),
        (["--network=f", "--animate=maybe"], "--animate"),
    ],
)
def test_bad_options_are_one_line(args, named):
    output = parse(*args)
    assert named in output
    assert len(output.strip().splitlines()) == 1


def test_what_results_say_of_options():
    assert parse("--network=f").record() == {
        "network": "f", "tmax": 7.0, "class": 3, "n": 5, "kind": "a", "animate": False,
        "device": "auto",
    }  # fmt: skip
