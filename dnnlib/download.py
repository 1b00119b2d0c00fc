"""Files by path or https:// address: checked, bounded, and kept by the hash of their content.

A download is kept as cache/{sha256}, and cache/urls says which address gave which content. A file
that is asked for by its sha256 is therefore never fetched twice, whatever its address. What a
broken connection or a killed process leaves in cache/download is gone on with, where the server
can.

By hand, not by pooch: that neither resumes, nor bounds the size, nor tells a web page from a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urldefrag, urljoin, urlparse

import requests
from tqdm import tqdm

from dnnlib.cache import cache_dir
from dnnlib.util import locked, scratch_dir, sync, write_json

MAX_SIZE = 2**33  # bytes of a download: 8 GiB
RETRIES, PAUSE = 3, 1.0  # attempts, and seconds before the second; doubled each time
MAX_REDIRECTS = 5
CHUNK = 2**16  # bytes, the most that a broken connection loses
PAGE = re.compile(
    rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
DIGEST = re.compile("[0-9a-f]{64}")


class _AgainError(OSError):
    """A failure that another attempt may not have."""


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
    _check_scheme(url, sha256 is not None)
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


def _check_scheme(url: str, pinned: bool = False) -> None:
    """Only https://; http:// where a digest says what must come."""
    if urlparse(url).scheme not in ({"https", "http"} if pinned else {"https"}):
        raise ValueError(
            f"{url}: only https:// and file:// addresses and paths are opened (http:// with sha256)"
        )


def _noted(note: Path) -> str | None:
    """The digest that an address's content had."""
    try:
        digest = json.loads(note.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and DIGEST.fullmatch(digest) else None


def fetch(
    url: str, dest: Path, sha256: str | None, timeout: float = 30.0, max_size: int = MAX_SIZE
) -> str:
    """Download to a path, unless it is there already, and return the sha256 of what is there.

    Args:
        url: an https:// address; with a digest an http:// one, too.
        dest: path to write, whole or not at all.
        sha256: digest that the content must have; what is at `dest` with another one is replaced.
        timeout, max_size: as for `open_url`.

    Raises:
        ValueError, OSError: as for `open_url`.
    """
    if dest.is_file():
        with open(dest, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 in (None, found):
            return found
    _check_scheme(url, sha256 is not None)
    with _content(url, sha256, timeout, max_size) as (path, found):
        dest.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, dest)
        sync(dest.parent)
    return found


def _fetch(url: str, note: Path, sha256: str | None, timeout: float, max_size: int) -> IO[bytes]:
    """Download into the cache, under the digest of what came."""
    with _content(url, sha256, timeout, max_size) as (path, digest):
        os.replace(path, cache_dir() / digest)
    write_json(note, {"url": url, "sha256": digest})
    return _checked(cache_dir() / digest, digest)


@contextmanager
def _content(
    url: str, sha256: str | None, timeout: float, max_size: int
) -> Iterator[tuple[Path, str]]:
    """What an address gives, as a file to be moved away, and its digest; nothing wrong stays."""
    with _place(hashlib.sha256(url.encode()).hexdigest()[:32]) as path:
        _with_retries(lambda: _download(url, path, sha256 is not None, timeout, max_size), url)
        with open(path, "rb") as file:
            page = PAGE.match(file.read(1024))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if page or sha256 not in (None, digest):
            path.unlink()
        if page:
            raise ValueError(f"{url}: the server sent a web page, not a file")
        if sha256 not in (None, digest):
            raise ValueError(f"{url}: sha256 is {digest}, expected {sha256}")
        sync(path)
        yield path, digest


@contextmanager
def _place(name: str) -> Iterator[Path]:
    """Where a download goes, perhaps begun before; another place while a process writes there."""
    path = cache_dir() / "download" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    lock = locked(path, exclusive=True, wait=False)
    if lock is None:
        with scratch_dir(path) as folder:
            yield folder / name
        return
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):  # moved away
            if not path.stat().st_size:
                path.unlink()
        os.close(lock)


def _with_retries(download: Callable[[], None], url: str) -> None:
    for attempt in range(RETRIES):
        try:
            return download()
        except (_AgainError, requests.ConnectionError, requests.Timeout) as error:
            reason = _reason(error)
        if attempt < RETRIES - 1:
            time.sleep(PAUSE * 2**attempt)
    raise OSError(f"{url}: {reason}, {RETRIES} times")


def _download(url: str, path: Path, pinned: bool, timeout: float, max_size: int) -> None:
    """Write what an address gives to a file, after what the file has of it already.

    The rest alone is asked for if the whole is known by its digest, or by the mark (ETag) that the
    server gave the content when it was begun.
    """
    mark, begun = path.with_suffix(".etag"), path.stat().st_size if path.exists() else 0
    tag = mark.read_text() if begun and mark.exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if begun and (pinned or tag):
        headers |= {"Range": f"bytes={begun}-"} | ({"If-Range": tag} if tag else {})
    with _response(url, timeout, pinned, headers) as response:
        stated = response.headers.get("Content-Range", "")
        if response.status_code == 416 and stated == f"bytes */{begun}":  # it was whole
            return
        if response.status_code == 416 or (
            response.status_code == 206 and not stated.startswith(f"bytes {begun}-")
        ):
            path.unlink()
            raise _AgainError("the server does not go on where the file ends")
        if "text/html" in response.headers.get("Content-Type", ""):
            raise ValueError(f"{url}: the server sent a web page, not a file")
        begun = begun if response.status_code == 206 else 0
        tag = response.headers.get("ETag", "")
        mark.write_text("" if tag.startswith("W/") else tag)
        _receive(response, url, path, begun, max_size)
    mark.unlink(missing_ok=True)


def _receive(response: requests.Response, url: str, path: Path, begun: int, max_size: int) -> None:
    """Write the body of an answer after the first `begun` bytes of a file."""
    size = response.headers.get("Content-Length", "")
    announced = begun + int(size) if size.isdigit() and int(size) else 0
    received = begun
    name = Path(urlparse(url).path).name
    with (
        open(path, "ab" if begun else "wb") as file,
        tqdm(
            initial=begun, total=announced or None, unit="B", unit_scale=True, desc=name,
            disable=None,
        ) as bar,
    ):  # fmt: skip
        try:
            for chunk in response.iter_content(CHUNK):
                received += len(chunk)
                if max(received, announced) > max_size:
                    file.truncate(0)
                    raise ValueError(f"{url}: has more than {max_size} bytes; refused")
                file.write(chunk)
                bar.update(len(chunk))
        except requests.exceptions.ChunkedEncodingError:  # fewer bytes than announced
            announced = announced or received + 1
    if received < announced and "Content-Encoding" not in response.headers:
        raise _AgainError(f"the connection broke after {received} of {announced} bytes")


def _response(url: str, timeout: float, pinned: bool, headers: dict[str, str]) -> requests.Response:
    """The answer to a request, redirections followed as long as their scheme is allowed."""
    for _ in range(MAX_REDIRECTS + 1):
        _check_scheme(url, pinned)
        response = requests.get(
            url, stream=True, timeout=timeout, allow_redirects=False, headers=headers
        )
        if response.status_code in (429, 500, 502, 503, 504):
            response.close()
            raise _AgainError(f"the server answers {response.status_code}")
        if response.status_code not in (301, 302, 303, 307, 308):
            if response.status_code != 416:  # nothing after the byte that was asked for
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
