"""Where downloads and what was computed from data are kept, for later runs."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from dnnlib import host
from dnnlib.cli import UserError


def cache_dir() -> Path:
    """Folder of downloads: $INFLATIONARY_FLOWS_CACHE, else ~/.cache/inflationary-flows.

    Where there is no home folder that can be written to, one among the temporary files.

    Raises:
        UserError: if there is no such folder either.
    """
    chosen = os.environ.get("INFLATIONARY_FLOWS_CACHE")
    home = host.home_cache()
    if chosen or home:
        return Path(chosen) if chosen else Path(str(home)) / "inflationary-flows"
    folder = host.private_temporary()
    if folder is None:
        raise UserError(
            "no folder for caches: there is no home folder that can be written to, and none of "
            "one's own among the temporary files; name one with INFLATIONARY_FLOWS_CACHE=DIR"
        )
    _say_once(
        f"Note: no home folder that can be written to; caches are kept in {folder} "
        "(INFLATIONARY_FLOWS_CACHE=DIR chooses another)"
    )
    return folder


@cache
def _say_once(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)
