"""Downloads: only https, bounded, kept by their hash, tried again, and never a web page."""

import hashlib
import json

import pytest
import requests

from dnnlib import download

BODY = b"0123456789"
DIGEST = hashlib.sha256(BODY).hexdigest()
URL = "https://example.org/a/net.pkl"


class Answer:
    """What a server says."""

    def __init__(
        self, body=BODY, kind="application/octet-stream", status=200, length=None, to=None
    ):
        self.body, self.status_code = body, status
        size = len(body) if length is None else length
        self.headers = {"Content-Type": kind, "Content-Length": str(size)}
        if to:
            self.headers["Location"] = to

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None

    def close(self):
        pass

    def raise_for_status(self):
        if self.status_code >= 400:
            raise requests.HTTPError(f"status {self.status_code}")

    def iter_content(self, size):
        yield from (self.body[i : i + 3] for i in range(0, len(self.body), 3))


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Lets a server give answers one after the other, the last for ever; returns what was asked."""
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.0)

    def serve(*answers):
        asked = []

        def get(url, **options):
            assert options["allow_redirects"] is False
            assert options["timeout"] > 0
            answer = answers[min(len(asked), len(answers) - 1)]
            asked.append(url)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(download.requests, "get", get)
        return asked

    return serve


def read(*args, **kwargs):
    with download.open_url(*args, **kwargs) as file:
        return file.read()


def kept():
    cache = download.cache_dir()
    return sorted(p.name for p in cache.iterdir() if p.is_file()) if cache.exists() else []


def test_downloads_are_kept_by_their_hash(server):
    asked = server(Answer())
    assert read(URL) == read(URL) == BODY
    assert len(asked) == 1
    assert kept() == [DIGEST]
    assert read("https://example.org/another", sha256=DIGEST) == BODY  # already here
    assert read(f"https://example.org/another#sha256={DIGEST}") == BODY
    assert len(asked) == 1
    (note,) = (download.cache_dir() / "urls").iterdir()
    assert json.loads(note.read_text()) == {"url": URL, "sha256": DIGEST}


def test_a_damaged_cache_is_fetched_again(server):
    asked = server(Answer())
    read(URL)
    (download.cache_dir() / DIGEST).write_bytes(b"damaged")
    assert read(URL) == BODY
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(b"<html>", "text/html; charset=utf-8"), "a web page, not a file"),
        (Answer(b"\n <!-- x --> <!DOCTYPE html><p>"), "a web page, not a file"),
        (Answer(b"x", status=404), "404"),
        (Answer(length=10**12), "more than"),
        (Answer(b"x" * 200, length=0), "more than 100 bytes"),
        (Answer(BODY[:7], length=10), "broke after 7 of 10 bytes, 3 times"),
        (Answer(status=503), "answers 503, 3 times"),
        (requests.ConnectionError("gone"), "gone, 3 times"),
        (Answer(status=302, to="http://example.org/x"), "only https"),
        (Answer(status=302, to="file:///etc/passwd"), "only https"),
        (Answer(status=302, to="/around"), "redirected more than"),
    ],
)
def test_failures_leave_nothing(server, answer, error):
    server(answer)
    with pytest.raises((ValueError, OSError), match=error):
        read(URL, max_size=100)
    assert kept() == []


def test_a_wrong_hash_leaves_nothing(server):
    server(Answer())
    with pytest.raises(ValueError, match=f"sha256 is {DIGEST}, expected 0000"):
        read(URL, sha256="0" * 64)
    assert kept() == []
    with pytest.raises(ValueError, match="two sha256"):
        read(f"{URL}#sha256={DIGEST}", sha256="0" * 64)


def test_failures_that_pass_are_tried_again(server):
    asked = server(Answer(status=500), requests.Timeout("slow"), Answer())
    assert read(URL) == BODY
    assert len(asked) == 3


def test_redirections_are_followed_within_https(server):
    asked = server(Answer(status=302, to="//mirror.example.org/b"), Answer())
    assert read(URL) == BODY
    assert asked == [URL, "https://mirror.example.org/b"]


def test_paths_digests_and_schemes(tmp_path):
    path = tmp_path / "a b.bin"
    path.write_bytes(BODY)
    for url in (str(path), path.as_uri()):
        assert read(url, sha256=DIGEST.upper()) == BODY
        with pytest.raises(ValueError, match="sha256 is"):
            read(url, sha256="0" * 64)
        with pytest.raises(ValueError, match="64 hexadecimal"):
            read(url, sha256="abc")
    for url in ("http://example.org/x", "ftp://example.org/x", "s3://bucket/x", "data:,x"):
        with pytest.raises(ValueError, match="only https"):
            read(url)
    with pytest.raises(ValueError, match="other machines"):
        read("file://elsewhere/etc/passwd")
