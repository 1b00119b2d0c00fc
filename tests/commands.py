"""Parses the commands that reproduce.py and the benchmarks build, without running them."""

from __future__ import annotations

import importlib
import shlex

import click


def parsed(line: str) -> dict:
    """The options of a command line, by click's own parser.

    Raises:
        click.ClickException: if an option is unknown or its value of the wrong type.
    """
    words = shlex.split(line)
    assert words.pop(0) in ("python", "torchrun")
    while words[0].startswith("--"):  # of torchrun
        assert words.pop(0).split("=")[0] in ("--standalone", "--nproc_per_node")
    module = words.pop(1) if words[0] == "-m" else words[0].removesuffix(".py")
    command, args = importlib.import_module(module).main, words[1:]
    if isinstance(command, click.Group):
        group = command
        command = group.commands[args.pop(0)]
    return command.make_context(module, args).params
