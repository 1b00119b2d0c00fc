"""Options as dataclasses: what the command line gives, what is recorded, what a base shares."""

from __future__ import annotations

from dataclasses import dataclass, replace

import click
import pytest
from click.testing import CliRunner

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import (
    COUNT,
    POSITIVE,
    Options,
    RunOptions,
    again,
    asks,
    found,
    option,
    takes,
)


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
    taken: list[CountOptions] = []

    @cli.command("x")
    @takes(CountOptions)
    def main(options: CountOptions) -> None:
        taken.append(options)

    result = CliRunner().invoke(main, list(args))
    assert result.exit_code == (0 if taken else 2)
    return taken[0] if taken else result.output


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


@dataclass(frozen=True, kw_only=True)
class RunningOptions(CountOptions):
    """With what a run finds out."""

    digest: str | None = found()
    share: float = found(0.0)
    pace: float = 1.0


def test_what_a_run_finds_out_is_recorded_once_it_is_known():
    options = RunningOptions(network="f", given=frozenset({"network", "plot"}))
    assert options.record() == parse("--network=f").record() | {"share": 0.0}
    known = replace(options, digest="ab", share=0.5)
    assert known.record() == options.record() | {"digest": "ab", "share": 0.5}
    assert known.chosen() == {"network": "f"}


def test_a_record_restores_what_is_not_given():
    record = RunningOptions(network="f", n=7, class_=4, digest="ab").record()
    options = RunningOptions(network="g", n=9, given=frozenset({"n"})).restored(
        record | {"plot": False, "pace": 2.0, "given": ["network"], "of_another_age": 1}
    )
    expected = RunningOptions(network="f", n=9, class_=4, digest="ab", given=frozenset({"n"}))
    assert options == expected


def test_a_command_may_ask_for_options_by_name():
    @cli.command("x")
    @asks(BaseOptions)
    def main(network: str, tmax: float | None, class_: int) -> None:
        click.echo(f"{network} {tmax} {class_}")

    assert CliRunner().invoke(main, ["--network=f", "--class=5"]).output == "f None 5\n"
