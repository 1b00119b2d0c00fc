"""Options as frozen dataclasses: one field is one option of the command line.

    @dataclass(frozen=True, kw_only=True)
    class CountOptions(Options):
        seed: int = option(0, type=SEED, help="of the data")

    @cli.command(EXAMPLE)
    @takes(CountOptions)
    def main(options: CountOptions) -> None: ...

What an option may be stands in one place: its name is the field's, its type the annotation's where
`type` names none, and scripts that share options share a base class. `__post_init__` checks what
the options say of each other. Nothing is filled in in place: `dataclasses.replace` makes the
options that a default which depends on others has resolved.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import click

from dnnlib import cli

POSITIVE = click.FloatRange(min=0, min_open=True)
NONNEGATIVE = click.FloatRange(min=0)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0)
PATH = click.Path()

_KEY = "option"
_FOUND = "found"
_REQUIRED: Any = dataclasses.MISSING
_SAME: Any = object()


def option(
    default: Any = _REQUIRED, *names: str, recorded: bool = True, **click_kwargs: Any
) -> Any:
    """A field that is an option.

    Args:
        default: where it is not given; without one the option is required.
        names: further names, published ones or short ones; of a flag "--yes/--no" to have these.
        recorded: whether results say it; what changes no result is not recorded.
        click_kwargs: as of `click.option`: help, type, metavar, callback, ...
    """
    return field(default=default, metadata={_KEY: (names, recorded, click_kwargs)})


def found(default: Any = None) -> Any:
    """A field that no command line gives, but a run finds out; recorded unless it is None."""
    return field(default=default, metadata={_FOUND: True})


def again(cls: type, name: str, default: Any = _SAME, **click_kwargs: Any) -> Any:
    """The option of a base class with another default, or other help."""
    (base,) = (f for f in _fields(cls) if f.name == name)
    names, recorded, kwargs = base.metadata[_KEY]
    default = base.default if default is _SAME else default
    return option(default, *names, recorded=recorded, **{**kwargs, **click_kwargs})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a command.

    Attributes:
        given: names of the fields that the command line itself named.
    """

    given: frozenset[str] = frozenset()

    def record(self) -> dict[str, Any]:
        """What results say of the options: name -> plain value, in the order of --help."""
        told = {k: (f, getattr(self, f.name)) for k, f in _recorded(type(self)).items()}
        return {k: v for k, (f, v) in told.items() if v is not None or _KEY in f.metadata}

    def chosen(self) -> dict[str, Any]:
        """What is recorded and was named on the command line."""
        recorded = _recorded(type(self)).items()
        return {k: getattr(self, f.name) for k, f in recorded if f.name in self.given}

    def restored(self, record: dict[str, Any]) -> Self:
        """These options with the values of an earlier record, but for those that are given."""
        left = {
            f.name: record[k]
            for k, f in _recorded(type(self)).items()
            if k in record and f.name not in self.given
        }
        return dataclasses.replace(self, **left)


@dataclass(frozen=True, kw_only=True)
class NetworkChecks(Options):
    """What a network file must be, or may lack."""

    sha256: str | None = option(None, metavar="HEX", help="digest that the network file must have")
    tmax: float | None = option(
        None, "--end_time", type=POSITIVE,
        help="end time of the flow [read from the network; older files may lack it]",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where to compute."""

    device: str = option(
        "auto", "--device_name", metavar="auto|cpu|cuda|mps", help="where to compute"
    )


@dataclass(frozen=True, kw_only=True)
class Float32Options(Options):
    """How networks compute in float32."""

    tf32: bool = option(
        False, help="let NVIDIA GPUs round products to 10 bits: faster, and coarser"
    )


@dataclass(frozen=True, kw_only=True)
class DryRunOptions(DeviceOptions):
    """What every command that computes has."""

    dry_run: bool = option(
        False, "-n", "--dry-run", recorded=False, help="print the options and stop"
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(DryRunOptions):
    """What every command that computes and draws has."""

    plot: bool = option(True, recorded=False, help="draw pictures of the results")


Taken = TypeVar("Taken", bound=Options)


def asks(cls: type[Options]) -> Callable[[Callable], Callable]:
    """Decorator: a command has the options of `cls`, each a keyword argument of its function."""
    hints = typing.get_type_hints(cls)
    return cli.options(*[_decorator(f, hints[f.name]) for f in _fields(cls)])


def takes(cls: type[Taken]) -> Callable[[Callable[[Taken], Any]], Callable[..., Any]]:
    """Decorator: a command's function gets its options as an instance of `cls`."""

    def decorate(function: Callable[[Taken], Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            names = cli.given(click.get_current_context()) & values.keys()
            return function(cls(**values, given=frozenset(names)))

        return asks(cls)(call)

    return decorate


def _fields(cls: type) -> list[dataclasses.Field]:
    """The fields that are options, in the order of --help: those of every command come last."""
    options = [f for f in dataclasses.fields(cls) if _KEY in f.metadata]
    return sorted(options, key=lambda f: f.name in ("device", "plot", "dry_run"))


def _recorded(cls: type) -> dict[str, dataclasses.Field]:
    """What records say -> the field that holds it: options, then what runs find out."""
    options = [f for f in _fields(cls) if f.metadata[_KEY][1]]
    others = [f for f in dataclasses.fields(cls) if _FOUND in f.metadata]
    return {f.name.rstrip("_"): f for f in [*options, *others]}


def _decorator(of: dataclasses.Field, hint: Any) -> Callable[[Callable], Callable]:
    names, _, told = of.metadata[_KEY]
    kinds = [kind for kind in _members(hint) if kind is not type(None)]
    spelled = [name for name in names if name.strip("-").replace("-", "_") == of.name]
    first = spelled[0] if spelled else "--" + of.name.rstrip("_")
    others = [name for name in names if name != first]
    kwargs: dict[str, Any] = dict(told)
    if of.default is not dataclasses.MISSING:
        kwargs["default"] = of.default
    if kinds == [bool] and any("/" in name for name in names):  # --yes/--no of other names
        return click.option(*names, of.name, **kwargs)
    if kinds == [bool]:
        return cli.boolean(*others, first, **kwargs)
    if kinds in ([int], [float], [str]):
        kwargs = {"type": kinds[0], **kwargs}
    kwargs["required"] = of.default is dataclasses.MISSING
    return click.option(first, *others, of.name, **kwargs)


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
