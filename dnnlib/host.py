"""The host is not trusted: what must be put right before torch and matplotlib are imported.

`prepare` runs when any of our packages is imported. What the user has set stays, where it works.
"""

from __future__ import annotations

import getpass
import importlib
import os
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TextIO


def prepare() -> None:
    """Settings of libraries that cannot be made once these are imported."""
    if "GOMP_SPINCOUNT" not in os.environ:  # threads that spin take the cores from each other
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        getpass.getuser()  # as torch.compile does
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    if home_cache() is None and private_temporary():
        folder = str(private_temporary())
        os.environ.setdefault("MPLCONFIGDIR", f"{folder}/matplotlib")
        os.environ.setdefault("XDG_CACHE_HOME", folder)  # of arviz and others
        try:
            Path.home()
        except RuntimeError:  # which others raise, too
            os.environ["HOME"] = folder
    _check_backend()


def _check_backend() -> None:
    """Forget an MPLBACKEND that matplotlib does not know here, such as that of a notebook."""
    backend = os.environ.get("MPLBACKEND")
    if not backend or "matplotlib" in sys.modules:
        return
    del os.environ["MPLBACKEND"]  # or the import itself may fail
    with suppress(ImportError, ValueError):
        importlib.import_module("matplotlib").rcParams["backend"] = backend
        os.environ["MPLBACKEND"] = backend


@cache
def home_cache() -> Path | None:
    """The folder ~/.cache; None if there is no home folder, or none that can be written to."""
    try:
        folder = nearest = Path.home() / ".cache"
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
    except (RuntimeError, OSError):
        return None
    usable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return folder if usable else None


@cache
def private_temporary() -> Path | None:
    """A folder among the temporary files, one for each user, that no other can have filled.

    None if there is no such folder and none can be made.
    """
    uid = os.getuid() if hasattr(os, "getuid") else 0  # on Windows, users share no temporary files
    with suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"inflationary-flows-{uid}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        private = os.name == "nt" or (found.st_uid == uid and not found.st_mode & 0o022)
        if stat.S_ISDIR(found.st_mode) and private and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def standard_streams() -> None:
    """Make sure that stdout and stderr exist and can say every name.

    Characters that their encoding lacks are written as backslash escapes.
    """
    for number in range(3):  # or files opened later get the numbers, and what C code prints
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed
            stream = open(os.devnull, "w")  # noqa: SIM115
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Send what is still to be printed nowhere: nobody reads it."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(name: str) -> str:
    """A file's name as text that every file, picture and other name can hold.

    Bytes that are not UTF-8 are read as Latin-1, which they usually are.
    """
    text = os.fsencode(name).decode("utf-8", "surrogateescape").translate(_LATIN_1)
    encoding = sys.getfilesystemencoding()
    return text.encode(encoding, "xmlcharrefreplace").decode(encoding)


_LATIN_1 = {0xDC00 + byte: chr(byte) for byte in range(0x80, 0x100)}

prepare()
