"""Command lines: spelling, one-line errors, checks before work."""

import os

import click
import pytest
from click.testing import CliRunner

from dnnlib import cli
from dnnlib.options import DeviceOptions, asks


@cli.command("python x.py --some_option=3")
@click.option("--some_option", type=int, required=True)
@click.option("--choice", type=click.Choice(["a_b", "c"]))
@asks(DeviceOptions)
@click.pass_context
def script(ctx, **options):
    """Do something."""
    if options["some_option"] == 13:
        raise cli.UserError("--some_option=13 is unlucky; use 12")
    if options["some_option"] == 14:
        with cli.user_errors("--some_option"):
            raise ValueError("deep trouble")
    click.echo(f"{options} {sorted(cli.given(ctx))}")


@pytest.mark.parametrize("args", [["--some_option=3"], ["--some-option", "3"]])
def test_dash_is_underscore(args):
    result = CliRunner().invoke(script, [*args, "--device_name=cpu"])
    assert result.exit_code == 0
    assert "'some_option': 3" in result.output
    assert "'device': 'cpu'" in result.output
    assert "['device', 'some_option']" in result.output


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "Missing option '--some_option'"),
        (["--some_option=x"], "'x' is not a valid integer"),
        (["--nonsense=1"], "--nonsense"),
        (["--some_option=1", "--choice=z"], "'z' is not one of"),
        (["--some_option=13"], "--some_option=13 is unlucky; use 12"),
        (["--some_option=14"], "--some_option: deep trouble"),
    ],
)
def test_errors_are_one_line_and_code_2(args, reason):
    result = CliRunner().invoke(script, args)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert reason in result.output


def test_a_rank_that_a_scheduler_left_silences_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(script, ["--some_option=13"])
    assert result.exit_code == 2
    assert "Error: --some_option=13 is unlucky; use 12" in result.output


def test_folders_are_checked_without_being_made(tmp_path):
    wanted = tmp_path / "a" / "b"
    assert cli.check_writable(wanted, "--outdir") == wanted
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(cli.UserError, match="is a file, not a folder"):
        cli.check_writable(tmp_path / "file" / "x", "--outdir")


def test_unwritable_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(cli.UserError, match=r"--outdir=.* no permission"):
        cli.check_writable(tmp_path / "x", "--outdir")
