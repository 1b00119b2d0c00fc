"""Command lines: dash = underscore, one clear line on bad input, exit code 2.

Every script builds its command from `command` or `group`, raises `UserError` for bad input, and
takes the shared options from here.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dnnlib import host


class UserError(click.ClickException):
    """Bad input: one line that names the option, its value and the remedy; exit code 2."""

    exit_code = 2


# What a disk may refuse for, and what to do about it.
REFUSALS = {
    errno.ENOSPC: ("the disk is full", "free some room"),
    errno.EDQUOT: ("your quota of the disk is used up", "free some room"),
    errno.EFBIG: ("it would be larger than files may be here", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the disk is read-only", "mount it writable"),
    errno.EACCES: ("no permission to write there", "allow it"),
    errno.EPERM: ("no permission to write there", "allow it"),
    errno.EIO: ("the disk does not work as it should (input/output error)", "check it"),
}


UNREAD = "stopped, as nobody reads what is printed any more; send it to a file (> FILE)"


class DiskError(UserError, OSError):
    """A file that cannot be written: one line that names it and the remedy; exit code 2."""

    def __init__(self, path: object, number: int):
        reason, remedy = REFUSALS[number]
        super().__init__(
            f"{path}: cannot be written, {reason}; {remedy}, or name another folder, and run the "
            "same command again (files that were whole before still are)"
        )
        self.errno, self.strerror = number, os.strerror(number)


def refusal(error: BaseException | None) -> OSError | None:
    """The disk's refusal to write that an error is, or comes from; None if it is something else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            return error
        error = error.__cause__ or error.__context__
    return None


class _OneLineErrors:
    """Mixin: usage errors as one line instead of a usage block."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run what the command is for; see click, which ends without a word where nobody reads."""
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except BrokenPipeError as error:
            host.drop_stdout()
            raise UserError(UNREAD) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; see click."""
        kwargs["standalone_mode"] = False
        host.standard_streams()
        try:
            os.getcwd()
        except OSError:
            _say("the folder that this was started in no longer exists; start it in another")
            sys.exit(2)
        try:
            result = super().main(*args, **kwargs)  # type: ignore[misc]
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(2)
        except click.ClickException as error:
            hint = ""
            ctx = getattr(error, "ctx", None)
            if isinstance(error, click.UsageError) and ctx is not None:
                hint = f" (see {ctx.command_path} --help)"
            _say(" ".join(error.format_message().split()) + hint)
            sys.exit(2)
        except click.Abort:
            _say("interrupted")
            sys.exit(130)
        except BrokenPipeError:
            host.drop_stdout()
            _say(UNREAD)
            sys.exit(2)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            if error.filename is None:  # perhaps stdout, which Python would try again
                host.drop_stdout()
            _say(str(DiskError(error.filename or "a file of this run", error.errno)))
            sys.exit(2)
        sys.exit(result if isinstance(result, int) else 0)


class Command(_OneLineErrors, click.Command):
    """A click command with one-line errors."""


class Group(_OneLineErrors, click.Group):
    """A click group with one-line errors."""

    command_class = Command


SETTINGS = {
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "show_default": True,
    "max_content_width": 100,
    "help_option_names": ["-h", "--help"],
}


def command(example: str, **kwargs: Any) -> Callable:
    """Decorator: a script of one command; `example` is a runnable line for --help."""
    return click.command(cls=Command, context_settings=SETTINGS, epilog=_epilog(example), **kwargs)


def group(**kwargs: Any) -> Callable:
    """Decorator: a script of several subcommands."""
    return click.group(cls=Group, context_settings=SETTINGS, **kwargs)


def subcommand(parent: click.Group, example: str, **kwargs: Any) -> Callable:
    """Decorator: a subcommand of a group, with an example."""
    return parent.command(context_settings=SETTINGS, epilog=_epilog(example), **kwargs)


def options(*decorators: Callable) -> Callable:
    """Several click options as one decorator, in the order given."""

    def apply(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


device_option = click.option(
    "--device",
    "--device_name",
    default="auto",
    metavar="auto|cpu|cuda|mps",
    help="where to compute",
)
plot_option = click.option("--plot/--no-plot", default=True, help="draw pictures of the results")
sha256_option = click.option(
    "--sha256", metavar="HEX", help="digest that the network file must have"
)
tmax_option = click.option(
    "--tmax",
    type=click.FloatRange(min=0, min_open=True),
    help="end time of the flow [read from the network; older files may lack it]",
)
# Beside --network, in every script.
network_checks = (sha256_option, tmax_option)
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="print the options and stop")


def given(ctx: click.Context) -> set[str]:
    """Names of the parameters that the user gave on the command line."""
    source = click.core.ParameterSource.COMMANDLINE
    return {name for name in ctx.params if ctx.get_parameter_source(name) == source}


def check_writable(path: str | os.PathLike, option: str) -> Path:
    """Check, before long work, that a folder exists or can be made, and can be written to.

    Creates nothing.

    Raises:
        UserError: naming the option.
    """
    path = Path(path)
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{option}={path}: {nearest} is a file, not a folder; name another folder")
    if not os.access(nearest, os.W_OK | os.X_OK) or _read_only(nearest):
        raise UserError(
            f"{option}={path}: no permission to write in {nearest}; name another folder"
        )
    return path


@contextmanager
def user_errors(option: str = "") -> Iterator[None]:
    """Turn a ValueError of the block, which says what is wrong, into a `UserError`."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{option}: {error}" if option else str(error)) from error


def _read_only(folder: Path) -> bool:
    flags = getattr(os, "statvfs", None)
    return bool(flags and flags(folder).f_flag & os.ST_RDONLY)


def _epilog(example: str) -> str:
    return "\b\nExample:\n" + "\n".join("  " + line for line in example.strip().splitlines())


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        click.echo(f"Error: {line}", err=True)
