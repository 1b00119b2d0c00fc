"""Files by path or https:// address: checked, bounded, and kept by the hash of their content.

A download is kept as cache/{sha256}, and cache/urls says which address gave which content. A file
that is asked for by its sha256 is therefore never fetched twice, whatever its address.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import urldefrag, urljoin, urlparse

import requests
from tqdm import tqdm

from dnnlib import host
from dnnlib.cli import UserError
from dnnlib.util import scratch_dir, sync, write_json

MAX_SIZE = 2**33  # bytes of a download: 8 GiB
RETRIES, PAUSE = 3, 1.0  # attempts, and seconds before the second; doubled each time
MAX_REDIRECTS = 5
PAGE = re.compile(
    rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
DIGEST = re.compile("[0-9a-f]{64}")


class _AgainError(OSError):
    """A failure that another attempt may not have."""


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


def open_url(
    url: str, sha256: str | None = None, timeout: float = 30.0, max_size: int = MAX_SIZE
) -> IO[bytes]:
    """Open a local path, a file:// or an https:// address for reading; downloads are cached.

    Args:
        url: what to open; an address may end in #sha256=..., which means the same as `sha256`.
        sha256: digest that the content must have.
        timeout: seconds to wait for the server, each time it is silent.
        max_size: bytes that a download may have.

    Raises:
        ValueError: for another scheme, a wrong digest, a download that is too large, or a web page
            where a file was meant.
        OSError: if the file or server cannot be reached.
    """
    parts = urlparse(str(url))
    if len(parts.scheme) <= 1:  # a path, or a Windows drive letter
        return _checked(Path(url), _digest(url, sha256))
    url, fragment = urldefrag(str(url))
    if fragment.startswith("sha256="):
        stated = fragment.removeprefix("sha256=").lower()
        if sha256 is not None and sha256.lower() != stated:
            raise ValueError(f"{url}: two sha256 are given, {stated} and {sha256.lower()}")
        sha256 = stated
    sha256 = _digest(url, sha256)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"{url}: file:// addresses of other machines are not opened")
        return _checked(Path(requests.utils.unquote(parts.path)), sha256)
    _check_scheme(url)
    note = cache_dir() / "urls" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"
    known = sha256 or _noted(note)
    if known is not None:
        with suppress(OSError, ValueError):  # what was damaged meanwhile is fetched again
            return _checked(cache_dir() / known, known)
    return _fetch(url, note, sha256, timeout, max_size)


def _digest(url: str, sha256: str | None) -> str | None:
    if sha256 is not None and not DIGEST.fullmatch(sha256.lower()):
        raise ValueError(f"{url}: sha256={sha256!r} is not 64 hexadecimal digits")
    return sha256 and sha256.lower()


def _check_scheme(url: str) -> None:
    if urlparse(url).scheme != "https":
        raise ValueError(f"{url}: only https:// and file:// addresses and paths are opened")


def _noted(note: Path) -> str | None:
    """The digest that an address's content had."""
    try:
        digest = json.loads(note.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and DIGEST.fullmatch(digest) else None


def _fetch(url: str, note: Path, sha256: str | None, timeout: float, max_size: int) -> IO[bytes]:
    """Download into the cache, under the digest of what came; nothing stays of a failure."""
    with scratch_dir(cache_dir() / "download") as folder:
        name = str(folder / "content")
        digest = _with_retries(lambda: _download(url, name, timeout, max_size), url)
        if sha256 is not None and digest != sha256:
            raise ValueError(f"{url}: sha256 is {digest}, expected {sha256}")
        with open(name, "rb") as file:
            if PAGE.match(file.read(1024)):
                raise ValueError(f"{url}: the server sent a web page, not a file")
        sync(name)
        os.replace(name, cache_dir() / digest)
    write_json(note, {"url": url, "sha256": digest})
    return _checked(cache_dir() / digest, digest)


def _with_retries(download: Callable[[], str], url: str) -> str:
    for attempt in range(RETRIES):
        try:
            return download()
        except (_AgainError, requests.ConnectionError, requests.Timeout) as error:
            reason = _reason(error)
        if attempt < RETRIES - 1:
            time.sleep(PAUSE * 2**attempt)
    raise OSError(f"{url}: {reason}, {RETRIES} times")


def _download(url: str, dest: str, timeout: float, max_size: int) -> str:
    """Write what an address gives to a file, and return its SHA-256."""
    with _response(url, timeout) as response:
        if "text/html" in response.headers.get("Content-Type", ""):
            raise ValueError(f"{url}: the server sent a web page, not a file")
        size = response.headers.get("Content-Length", "")
        announced = int(size) if size.isdigit() else 0
        digest, received = hashlib.sha256(), 0
        name = Path(urlparse(url).path).name
        with (
            open(dest, "wb") as file,
            tqdm(
                total=announced or None, unit="B", unit_scale=True, desc=name, disable=None
            ) as bar,
        ):
            for chunk in response.iter_content(1 << 20):
                received += len(chunk)
                if max(received, announced) > max_size:
                    raise ValueError(f"{url}: has more than {max_size} bytes; refused")
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    packed = "Content-Encoding" in response.headers
    if announced and received != announced and not packed:
        raise _AgainError(f"the connection broke after {received} of {announced} bytes")
    return digest.hexdigest()


def _response(url: str, timeout: float) -> requests.Response:
    """The answer to a request, redirections followed as long as they are https://."""
    for _ in range(MAX_REDIRECTS + 1):
        _check_scheme(url)
        response = requests.get(url, stream=True, timeout=timeout, allow_redirects=False)
        if response.status_code in (429, 500, 502, 503, 504):
            response.close()
            raise _AgainError(f"the server answers {response.status_code}")
        if response.status_code not in (301, 302, 303, 307, 308):
            response.raise_for_status()
            return response
        url = urljoin(url, response.headers.get("Location", ""))
        response.close()
    raise OSError(f"{url}: redirected more than {MAX_REDIRECTS} times")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _checked(path: Path, sha256: str | None) -> IO[bytes]:
    """Open a file; its digest is that of what is then read, even if the path changes meanwhile."""
    file = open(path, "rb")  # noqa: SIM115  (the caller's)
    if sha256 is not None:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        if found != sha256:
            file.close()
            raise ValueError(f"{path}: sha256 is {found}, expected {sha256}")
    return file
