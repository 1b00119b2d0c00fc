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

company: Any = None  # torch_utils.peers, once it is imported: the processes beside this one


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
    """Mixin: errors as one line, told to the processes beside this one; flags may take a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; see click."""
        return super().parse_args(ctx, _flags_without_value(ctx, args))  # type: ignore[misc]  # the mixin's super() is click's Command

    def invoke(self, ctx: click.Context) -> Any:
        """Run what the command is for; see click, which ends without a word where nobody reads."""
        try:
            return super().invoke(ctx)  # type: ignore[misc]  # as above
        except BrokenPipeError as error:
            host.drop_stdout()
            raise UserError(UNREAD) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; see click."""
        kwargs["standalone_mode"] = False
        host.standard_streams()
        try:
            if company is not None:
                company.join()
            _check_current_folder()
            result = super().main(*args, **kwargs)  # type: ignore[misc]  # as above
            sys.stdout.flush()
            if company is not None:
                company.leave()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(2)
        except Exception as error:
            if isinstance(error, OSError) and error.filename is None:
                host.drop_stdout()  # perhaps it is what fails, and Python would try it again
            line, code = _one_line(error)
            if company is not None:
                fault = f"{type(error).__name__}: {error} (the traceback is in its log)"
                told = company.tell(line or " ".join(fault.split()), code, error)
                line = line and told
            if line is None:
                raise
            say(line)
            sys.exit(code)
        sys.exit(result if isinstance(result, int) else 0)


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        line = "the folder that this was started in no longer exists; start it in another"
        raise UserError(line) from None


def _one_line(error: Exception) -> tuple[str | None, int]:
    """What to say of an error, and the exit code; None for a fault of the program."""
    if isinstance(error, click.ClickException):
        ctx, hint = getattr(error, "ctx", None), ""
        if isinstance(error, click.UsageError) and ctx is not None:
            hint = f" (see {ctx.command_path} --help)"
        return " ".join(error.format_message().split()) + hint, 2
    if isinstance(error, click.Abort):
        return "interrupted", 130
    if isinstance(error, BrokenPipeError):
        return UNREAD, 2
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return str(DiskError(error.filename or "a file of this run", error.errno)), 2
    return None, 1


class Command(_OneLineErrors, click.Command):
    """A click command with one-line errors."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, if all processes were given the same options; see click."""
        if company is not None:
            company.compare(ctx)
        return super().invoke(ctx)


class Group(_OneLineErrors, click.Group):
    """A click group with one-line errors."""

    command_class = Command


BOOLEANS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}
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


def boolean(*names: str, default: bool | None = False, help: str) -> Callable:
    """A boolean option: --name, --no-name, --name=VALUE and --name VALUE (1, 0, true, false, ...).

    Args:
        names: of the option; the last one gets the --no- form.
        default: its value where it is not given.
        help: for --help.
    """
    *others, name = names
    both = f"{name}/--no-{name.removeprefix('--')}"
    return click.option(*others, both, default=default, help=help)


def without_effect(name: str, why: str) -> Callable:
    """An option of published commands that changes nothing here, which is said where it is given.

    Args:
        name: of the option.
        why: it does not, as the line says it.
    """

    def say(_: click.Context, __: click.Parameter, value: str | None) -> None:
        if value is not None and os.environ.get("RANK", "0") == "0":
            click.echo(f"Note: {name}={value} has no effect: {why}", err=True)

    return click.option(
        name, callback=say, expose_value=False, help=f"accepted, without effect: {why}"
    )


def options(*decorators: Callable) -> Callable:
    """Several click options as one decorator, in the order given."""

    def apply(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


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


def _flags_without_value(ctx: click.Context, args: list[str]) -> list[str]:
    """Command-line words in which each value of a boolean option is said by --name or --no-name."""
    flags: dict[str, tuple[bool, click.Option]] = {}
    for option in ctx.command.params:
        if isinstance(option, click.Option) and option.is_flag and option.secondary_opts:
            flags |= {_plain(o): (True, option) for o in option.opts if o.startswith("--")}
            flags |= {_plain(o): (False, option) for o in option.secondary_opts}
    words: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        name, attached, value = word.partition("=")
        if _plain(name) in flags and (attached or (rest and rest[0].lower() in BOOLEANS)):
            yes, option = flags[_plain(name)]
            value = (value if attached else rest.pop(0)).lower()
            if value not in BOOLEANS:
                raise UserError(f"{word}: {value!r} is not a boolean; use 1 or 0, true or false")
            word = (option.opts if BOOLEANS[value] == yes else option.secondary_opts)[-1]
        words.append(word)
    return words


def _plain(name: str) -> str:
    """An option's name with its dashes and underscores alike."""
    return "--" + name.removeprefix("--").replace("_", "-")


def _read_only(folder: Path) -> bool:
    flags = getattr(os, "statvfs", None)
    return bool(flags and flags(folder).f_flag & os.ST_RDONLY)


def _epilog(example: str) -> str:
    return "\b\nExample:\n" + "\n".join("  " + line for line in example.strip().splitlines())


def say(line: str, kind: str = "Error") -> None:
    """Say what is wrong, in one line on stderr."""
    click.echo(f"{kind}: {line}", err=True)
