"""dataset_tool.py with sets by name, from a server of the test's own: checked, gone on with."""

import hashlib
import http.server
import os
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import dataset_tool
from dnnlib import download
from tests.image_fixtures import pixels, png, read_set, write_cifar, write_mnist, write_zip
from tests.image_networks import call, error_line, good
from training.data import published

CHUNK = download.CHUNK  # what is whole of it stays


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives parts of files; `server.broken` answers break off after `server.after` bytes."""

    def do_GET(self):
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        body, begin = path.read_bytes(), 0
        if (part := self.headers.get("Range")) and self.server.ranges:
            begin = int(re.fullmatch(r"bytes=(\d+)-", part)[1])
        self.server.asked.append((path.name, begin))
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        rest = body[begin:]
        if self.server.broken > 0:
            self.server.broken -= 1
            rest = rest[: self.server.after]
            self.close_connection = True
        self.wfile.write(rest)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the folder `served`, and downloads that go into a cache of the test's own."""
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    (tmp_path / "served").mkdir()
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.folder, made.asked, made.broken, made.after, made.ranges = tmp_path / "served", [], 0, 0, 1
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.mirror = f"--mirror=http://127.0.0.1:{made.server_port}"
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def stand_in(monkeypatch, name, *paths):
    """Let the list hold the digests of these files instead of the published ones."""
    known = {
        path.name: {
            "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()
        }
        for path in paths
    }  # fmt: skip
    about = published.SETS[name]
    assert set(known) == set(about["files"])  # the names are the published ones
    monkeypatch.setitem(published.SETS, name, about | {"files": known})


@pytest.fixture
def mnist(server, monkeypatch):
    """A small MNIST on the server."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 28, 28), dtype=np.uint8)
    path = write_mnist(server.folder, x, [k % 10 for k in range(400)])
    labels = path.with_name("train-labels-idx1-ubyte.gz")
    stand_in(monkeypatch, "mnist", path, labels)
    return SimpleNamespace(images=path, labels=labels, x=x)


def test_a_set_by_name_is_downloaded_once_and_converted(server, mnist, tmp_path):
    output = good(
        dataset_tool.main, "--source=mnist", f"--dest={tmp_path / 'a.zip'}", server.mirror
    )
    assert output.count("sha256 as published") == 2
    _, images, labels = read_set(tmp_path / "a.zip")
    np.testing.assert_array_equal(np.asarray(images)[:, 2:-2, 2:-2].reshape(400, 28, 28), mnist.x)
    assert [label for _, label in labels] == [k % 10 for k in range(400)]
    good(dataset_tool.main, f"--source={mnist.images}", f"--dest={tmp_path / 'b.zip'}")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    output = good(
        dataset_tool.main, "--source=mnist", f"--dest={tmp_path / 'c.zip'}", server.mirror
    )
    assert output.count("here already") == 2
    assert len(server.asked) == 2


def test_a_broken_connection_is_gone_on_with(server, mnist, tmp_path):
    server.broken, server.after = 2, 100_000
    good(dataset_tool.main, "--source=mnist", f"--dest={tmp_path / 'a.zip'}", server.mirror)
    name = mnist.images.name
    assert [b for n, b in server.asked if n == name] == [0, CHUNK, 2 * CHUNK]


def test_what_ended_is_gone_on_with_by_the_next_run(server, mnist, tmp_path):
    server.broken, server.after = download.RETRIES, 100_000
    args = ("--source=mnist", f"--dest={tmp_path / 'a.zip'}", server.mirror)
    line = error_line(dataset_tool.main, *args)
    assert "the connection broke" in line
    assert "run it again to go on" in line
    assert not (tmp_path / "a.zip").exists()
    good(dataset_tool.main, *args)
    assert [b for n, b in server.asked if n == mnist.images.name] == [
        0,
        CHUNK,
        2 * CHUNK,
        3 * CHUNK,
    ]


def test_a_server_without_parts_begins_again(server, mnist, tmp_path):
    server.broken, server.after, server.ranges = 1, 100_000, 0
    good(dataset_tool.main, "--source=mnist", f"--dest={tmp_path / 'a.zip'}", server.mirror)
    assert [b for n, b in server.asked if n == mnist.images.name] == [0, 0]


def test_a_whole_file_that_was_not_moved_is_taken(server, mnist, tmp_path, monkeypatch):
    """A process killed between the last byte and the new name: the server has nothing more."""
    url = f"http://127.0.0.1:{server.server_port}/{mnist.images.name}"
    begun = download.cache_dir() / "download" / hashlib.sha256(url.encode()).hexdigest()[:32]
    begun.parent.mkdir(parents=True)
    begun.write_bytes(mnist.images.read_bytes())
    size, original = mnist.images.stat().st_size, Handler.do_GET

    def do_get(self):
        if self.headers.get("Range") != f"bytes={size}-":
            return original(self)
        self.send_response(416)
        self.send_header("Content-Range", f"bytes */{size}")
        self.end_headers()
        return None

    monkeypatch.setattr(Handler, "do_GET", do_get)
    good(dataset_tool.main, "--source=mnist", f"--dest={tmp_path / 'a.zip'}", server.mirror)
    assert mnist.images.name not in [n for n, _ in server.asked]


def test_a_wrong_digest_is_refused_before_it_is_read(server, mnist, tmp_path):
    mnist.labels.write_bytes(b"evil" * 100)
    args = ("--source=mnist", f"--dest={tmp_path / 'a.zip'}", server.mirror)
    line = error_line(dataset_tool.main, *args)
    found = hashlib.sha256(b"evil" * 100).hexdigest()
    assert f"sha256 is {found}, expected" in line
    kept = {p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert kept == {mnist.images.name}
    assert not (tmp_path / "a.zip").exists()


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(server, mnist, tmp_path):
    args = (f"--dest={tmp_path / 'a.zip'}", server.mirror)
    good(dataset_tool.main, "--source=mnist", *args)
    path = published.files("mnist")[0].path
    path.write_bytes(path.read_bytes()[:-1])
    good(dataset_tool.main, "--source=mnist", *args)
    assert [n for n, _ in server.asked].count(path.name) == 2


def test_cifar10_by_name(server, tmp_path, monkeypatch):
    x = pixels(20, size=32)
    path = write_cifar(server.folder / "cifar-10-python.tar.gz", x, [k % 10 for k in range(20)])
    stand_in(monkeypatch, "cifar10", path)
    good(dataset_tool.main, "--source=cifar10", f"--dest={tmp_path / 'a.zip'}", server.mirror)
    _, images, labels = read_set(tmp_path / "a.zip")
    np.testing.assert_array_equal(np.asarray(images), x)
    assert [label for _, label in labels] == [k % 10 for k in range(20)]


def test_without_a_known_digest_the_one_that_came_is_printed(server, tmp_path, monkeypatch):
    x = pixels(4)
    contents = {f"train/{('cat', 'dog')[k % 2]}/{k}.png": png(x[k]) for k in range(4)}
    path = write_zip(server.folder / "afhq_v2.zip", contents)
    refused = error_line(
        dataset_tool.main, "--source=afhqv2", f"--dest={tmp_path / 'a.zip'}", server.mirror
    )
    assert "only https" in refused  # what nothing checks does not come over an open line
    monkeypatch.setattr(download, "_check_scheme", lambda *args: None)
    output = good(
        dataset_tool.main, "--source=afhqv2", f"--dest={tmp_path / 'a.zip'}", server.mirror
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"not checked: no digest is published; sha256 {digest}" in output
    assert "2 classes" in output


def test_dry_run_and_options_without_effect(server, tmp_path, monkeypatch):
    args = (f"--dest={tmp_path / 'a.zip'}", "--dry-run")
    output = good(dataset_tool.main, "--source=fashion-mnist", *args)
    assert "Would download http://fashion-mnist" in output
    assert not list(tmp_path.glob("cache/**/*.gz"))
    assert "--mirror: only sets with a name" in error_line(
        dataset_tool.main, "--source=digits", *args, server.mirror
    )
    monkeypatch.chdir(tmp_path)
    os.mkdir("mnist")  # a folder of that name is what is meant
    assert "no images" in call(dataset_tool.main, "--source=mnist", *args).output
