"""fid.py: the same figure from any source and any number of processes, and refusals of one line."""

import hashlib
import io
import json
import math
import re

import numpy as np
import pytest
import requests
import torch
from click.testing import CliRunner
from torch import nn

from dnnlib import download
from fid import main
from metrics.detectors import INPUTS
from metrics.features import frechet_distance, kernel_distance, statistics_of
from tests.helpers import ROOT, run_script
from tests.image_fixtures import pixels, png, write_folder, write_zip
from training.data.images import ImageSource

N, WIDTH = 150, 6
REAL, FAKE = pixels(N, seed=1), pixels(N, seed=2) // 2


class Tiny(nn.Module):
    """Six features of an image: means of squared convolutions."""

    def __init__(self, seed: int):
        super().__init__()
        kernels = np.random.default_rng(seed).standard_normal((WIDTH, 3, 3, 3)) / 255
        self.kernels = nn.Parameter(torch.from_numpy(kernels).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.conv2d(x, self.kernels).square().mean((2, 3))


def files(images):
    return {f"{i // 100:06d}/{i:06d}.png": png(x) for i, x in enumerate(images)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Real and generated images, a detector, and the reference of the real ones."""
    folder = tmp_path_factory.mktemp("fid")
    torch.jit.script(Tiny(0)).save(str(folder / "tiny.pt"))
    torch.jit.script(Tiny(1)).save(str(folder / "other.pt"))
    write_zip(folder / "real.zip", files(REAL))
    write_folder(folder / "fake", files(FAKE))
    result = call(folder, "ref", f"--data={folder / 'real.zip'}", f"--dest={folder / 'ref.npz'}")
    assert result.exit_code == 0, result.output
    return folder


def detector(place, name="tiny.pt"):
    return [f"--detector={place / name}", "--detector-input=pixels", "--device=cpu"]


def call(place, *args):
    """The command with the tiny detector, unless it names one."""
    given = [str(a) for a in args]
    if not any(a.startswith("--detector=") for a in given):
        given += detector(place)
    return CliRunner().invoke(main, given)


def calc(place, images, dest, *args):
    """Its results, and what it printed."""
    parts = [f"--images={images}", f"--dest={dest}"]
    if not any(str(a).startswith("--ref=") for a in args):
        parts.append(f"--ref={place / 'ref.npz'}")
    result = call(place, "calc", *parts, *args)
    assert result.exit_code == 0, result.output
    return json.loads(dest.read_text())["results"], result.output


def features(images):
    with torch.no_grad():
        return Tiny(0)(torch.from_numpy(images).permute(0, 3, 1, 2).float())


def test_the_figures_are_those_of_the_features(place, tmp_path):
    found, output = calc(place, place / "fake", tmp_path / "a.json")
    x, y = features(FAKE), features(REAL)
    a, b = statistics_of(x), statistics_of(y)
    wanted = frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
    assert found["fid"] == pytest.approx(wanted, rel=1e-5)  # float32 features
    mean, sd = kernel_distance(x, y)
    assert found["kid"] == pytest.approx(mean, rel=1e-3)
    assert math.isnan(sd)
    assert "kid_sd" not in found
    assert f"FID: {wanted:.4f} ({N} images)" in output
    assert f"KID: {found['kid']:.6f} ({N} images)" in output  # one subset has no spread
    assert f"Warning: {N} images, fewer than 50000" in output
    assert "singular" not in output
    options = json.loads((tmp_path / "a.json").read_text())["options"]
    assert options["images"] == str(place / "fake")
    assert options["batch"] == 64


def test_the_real_images_are_at_no_distance_from_themselves(place, tmp_path):
    found, output = calc(place, place / "real.zip", tmp_path / "a.json")
    assert 0 <= found["fid"] < 1e-9
    assert f"FID: 0.0000 ({N} images)" in output
    assert "-0.000" not in output


@pytest.mark.parametrize("source", ["zip", "nhwc", "nchw"])
def test_sources_of_the_same_images_give_the_same_figure(place, tmp_path, source):
    if source == "zip":
        path = write_zip(tmp_path / "fake.zip", files(FAKE))
    else:
        path = tmp_path / "fake.npz"
        arrays = {"a_first": np.zeros(3), "images": FAKE}
        if source == "nchw":
            arrays = {"arr_0": FAKE.transpose(0, 3, 1, 2)}
        np.savez(path, **arrays)
    wanted, _ = calc(place, place / "fake", tmp_path / "a.json")
    found, _ = calc(place, path, tmp_path / "b.json")
    assert found == wanted


def test_grey_images_are_seen_as_colour(place, tmp_path):
    grey = FAKE[..., 0]
    np.savez(tmp_path / "grey.npz", images=grey)
    write_folder(tmp_path / "colour", files(np.repeat(grey[..., None], 3, 3)))
    one, output = calc(place, tmp_path / "grey.npz", tmp_path / "a.json")
    two, _ = calc(place, tmp_path / "colour", tmp_path / "b.json")
    assert one == two
    assert "Warning: the reference is of images of 8x8 colour" in output


@pytest.mark.parametrize("seed", [0, 7])
def test_published_seed_chooses_the_images(place, tmp_path, seed):
    """The released code shuffles all by NumPy's legacy generator and takes the first, in order."""
    order = np.arange(N)
    np.random.RandomState(seed).shuffle(order)
    write_folder(tmp_path / "some", files(FAKE[np.sort(order[:5])]))
    one, output = calc(place, tmp_path / "some", tmp_path / "a.json", f"--seed={seed}")
    args = (place, place / "fake", tmp_path / "b.json", "--num=5", f"--seed={seed}")
    two, said = calc(*args)
    assert one == two
    assert one["images"] == 5
    assert found_spread(said)
    assert f"5 images of {N}, chosen by --seed={seed}, of 8x8 colour" in said
    assert calc(place, place / "fake", tmp_path / "b.json", "--num=5", "--seed=3")[0] != two
    np.savez(tmp_path / "fake.npz", images=FAKE)
    three, _ = calc(place, tmp_path / "fake.npz", tmp_path / "c.json", "--num=5", f"--seed={seed}")
    assert three == two
    assert f"no more images than features ({WIDTH}): their covariance is singular" in output


def found_spread(output):
    """Whether the KID has one: subsets of 5 of the reference's images differ."""
    return re.search(r"KID: \S+ \+- \S+ over subsets \(5 images\)", output)


def test_published_reference_by_its_address(place, tmp_path, monkeypatch):
    """Downloaded once, kept by its digest, which the address may state."""
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    body = (place / "ref.npz").read_bytes()
    asked = serve(monkeypatch, body)
    url, digest = "https://example.org/fid-refs/ref.npz", hashlib.sha256(body).hexdigest()
    wanted, _ = calc(place, place / "fake", tmp_path / "a.json")
    for address in (url, f"{url}#sha256={digest}"):
        assert calc(place, place / "fake", tmp_path / "b.json", f"--ref={address}")[0] == wanted
    assert asked == [url]
    args = ["calc", f"--images={place / 'fake'}"]
    line = refused(place, *args, f"--ref={url}#sha256={'0' * 64}")
    assert f"sha256 is {digest}, expected {'0' * 64}" in line
    line = refused(place, *args, "--ref=http://example.org/ref.npz")
    assert "--ref: http://example.org/ref.npz: not a reference file, or damaged (only https" in line


def serve(monkeypatch, body):
    """A server that gives one file; the addresses that were asked for."""
    asked = []

    def get(url, **options):
        asked.append(url)
        answer = requests.Response()
        answer.status_code, answer.raw = 200, io.BytesIO(body)
        return answer

    monkeypatch.setattr(download.requests, "get", get)
    return asked


def test_results_lie_beside_the_images_if_no_place_is_named(place, tmp_path):
    folder = write_folder(tmp_path / "fid.tmp", files(FAKE[:5]))
    result = call(place, "calc", f"--images={folder}/", f"--ref={place / 'ref.npz'}")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "fid.tmp-fid.json").exists()
    assert sorted(p.name for p in folder.iterdir()) == ["000000"]


def test_the_reference_says_what_it_is_of(place):
    with np.load(place / "ref.npz", allow_pickle=False) as file:
        info = json.loads(str(file["info"]))
        assert file["sigma"].shape == (WIDTH, WIDTH)
        assert file["pool"].shape == (N, WIDTH)
        np.testing.assert_allclose(file["mu"], features(REAL).double().mean(0), rtol=1e-5)
    assert info["detector"] == hashlib.sha256((place / "tiny.pt").read_bytes()).hexdigest()
    assert info["rule"] == INPUTS["pixels"]
    assert (info["count"], info["kind"]) == (N, "8x8 colour")
    assert info["data"]["sha256"] == ImageSource(place / "real.zip").content_hash()
    beside = json.loads((place / "ref-options.json").read_text())
    assert beside["options"]["data"] == str(place / "real.zip")


@pytest.mark.slow
def test_two_processes_give_the_same_figures(place, tmp_path):
    """Bit for bit: batches are the same, and one process sums them in one order."""
    refs, results = [], []
    for processes in (1, 2):
        ref, dest = tmp_path / f"ref{processes}.npz", tmp_path / f"{processes}.json"
        args = [*detector(place), "--batch=32"]
        run = run_script(
            ROOT / "fid.py", "ref", f"--data={place / 'real.zip'}", f"--dest={ref}", *args,
            processes=processes,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        run = run_script(
            ROOT / "fid.py", "calc", f"--images={place / 'fake'}", f"--ref={ref}",
            f"--dest={dest}", *args, processes=processes,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("FID:") == 1
        with np.load(ref, allow_pickle=False) as file:
            refs.append({k: file[k] for k in file.files})
        results.append(json.loads(dest.read_text())["results"])
    assert results[0] == results[1]
    for key, value in refs[0].items():
        assert np.array_equal(value, refs[1][key])


def test_a_reference_of_another_suite_gives_an_fid_alone(place, tmp_path):
    with np.load(place / "ref.npz", allow_pickle=False) as file:
        np.savez(tmp_path / "theirs.npz", mu=file["mu"], sigma=file["sigma"])
    args = (place, place / "fake", tmp_path / "a.json")
    found, output = calc(*args, f"--ref={tmp_path / 'theirs.npz'}")
    assert found["fid"] == calc(*args)[0]["fid"]
    assert "kid" not in found
    assert "cannot be checked" in output


def test_detectors_that_nobody_vouches_for_are_named(place, tmp_path):
    digest = hashlib.sha256((place / "tiny.pt").read_bytes()).hexdigest()
    args = (place, place / "fake", tmp_path / "a.json")
    assert f"Warning: --detector={place / 'tiny.pt'} is not a network known here" in calc(*args)[1]
    assert "not a network known" not in calc(*args, f"--detector-sha256={digest}")[1]


def test_dry_runs_write_nothing_and_need_no_detector(place, tmp_path):
    before = sorted(place.rglob("*"))
    fake = ["calc", f"--images={place / 'fake'}", f"--ref={place / 'ref.npz'}", "--detector=none"]
    real = [
        "ref",
        f"--data={place / 'real.zip'}",
        f"--dest={tmp_path / 'x.npz'}",
        "--detector=none",
    ]
    for args in (fake, real):
        result = call(place, *args, "-n")
        assert result.exit_code == 0, result.output
        assert f"{N} images of 8x8 colour" in result.output
    assert sorted(place.rglob("*")) == before
    assert not list(tmp_path.iterdir())


# Refusals ---------------------------------------------------------------------------------------


def refused(place, *args):
    """The one line of a refusal that leaves nothing behind."""
    before = sorted(place.rglob("*"))
    result = call(place, *args)
    assert result.exit_code == 2, result.output
    assert sorted(place.rglob("*")) == before
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert "Traceback" not in result.output
    return line


def test_another_detector_or_rule_is_refused(place):
    args = ["calc", f"--images={place / 'fake'}", f"--ref={place / 'ref.npz'}"]
    line = refused(place, *args, *detector(place, "other.pt"))
    assert re.search("--ref=.*made with a detector with sha256 .* but this one has", line)
    line = refused(place, *args, f"--detector={place / 'tiny.pt'}", "--device=cpu")
    assert re.search("--ref=.*made with the input rule none, 0 to 255, but this one has", line)
    line = refused(place, *args, *detector(place), f"--detector-sha256={'0' * 64}")
    assert re.search(f"--detector=.*: its sha256 is .*, expected {'0' * 64}", line)
    assert "--device=cpu has no TF32" in refused(place, *args, *detector(place), "--tf32")


def bad_images(folder):
    """Images that cannot be used, and what the line says."""
    cut = files(FAKE[:3]) | {"000000/000002.png": png(FAKE[2])[:-40]}
    mixed = files(FAKE[:3]) | {"000000/000002.png": png(pixels(1, 16)[0])}
    (folder / "empty").mkdir()
    (folder / "damaged.npz").write_bytes(b"PK\3\4 no more")
    np.savez(folder / "float.npz", images=FAKE / 255)
    np.savez(folder / "objects.npz", images=np.array([{"a": 1}], dtype=object))
    return {
        folder / "none": "no such file",
        folder / "empty": "holds no images",
        write_folder(folder / "one", files(FAKE[:1])): "holds 1 image, which has no covariance",
        write_folder(folder / "cut", cut): "000000/000002.png is unreadable",
        write_zip(folder / "mixed.zip", mixed): r"000002.png is 16x16, 000000/000000.png is 8x8",
        folder / "damaged.npz": "not a readable .npz file",
        folder / "none.npz": "no such file",
        folder / "float.npz": r"holds float64 \[150, 8, 8, 3\]; images are uint8",
        folder / "objects.npz": "not a readable .npz file",
    }


def test_bad_images(place, tmp_path):
    for images, words in bad_images(tmp_path).items():
        args = [f"--images={images}", f"--ref={place / 'ref.npz'}", f"--dest={place / 'x.json'}"]
        line = refused(place, "calc", *args)
        assert line.startswith(f"Error: --images={images}") or f"--images: {images}" in line
        assert re.search(words, line), line
    line = refused(place, "calc", f"--images={place / 'fake'}", f"--ref={place / 'ref.npz'}",
                   "--num=50000")  # fmt: skip
    assert "holds 150 images, --num=50000 asks for more" in line


def test_bad_references(place, tmp_path):
    with np.load(place / "ref.npz", allow_pickle=False) as file:
        good = {k: file[k] for k in file.files}
    info = json.loads(str(good["info"]))
    eye = np.eye(WIDTH)
    bad = {
        "no mu and sigma": {"sigma": eye},
        "do not fit": {"mu": np.zeros(WIDTH), "sigma": np.eye(3)},
        "values that are no number": {"mu": np.full(WIDTH, np.nan), "sigma": eye},
        "has 3 features, the detector 6": {"mu": np.zeros(3), "sigma": np.eye(3)},
        "not a reference file": good | {"info": np.array("{")},
        "pool do not fit": {k: v for k, v in good.items() if k != "pool"},
        "newer version": good | {"info": np.array(json.dumps(info | {"version": 99}))},
        "or damaged": good | {"mu": np.array([None] * WIDTH)},
    }
    for words, arrays in bad.items():
        np.savez(tmp_path / "bad.npz", **arrays)
        args = [f"--images={place / 'fake'}", f"--ref={tmp_path / 'bad.npz'}"]
        line = refused(place, "calc", *args)
        assert "--ref" in line
        assert words in line
    whole = (place / "ref.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    args = [f"--images={place / 'fake'}", f"--ref={tmp_path / 'half.npz'}"]
    assert "or damaged" in refused(place, "calc", *args)
    args = [f"--images={place / 'fake'}", f"--ref={tmp_path / 'none.npz'}"]
    assert "no such file; make it with fid.py ref" in refused(place, "calc", *args)


def test_bad_places(place, tmp_path):
    data = f"--data={place / 'real.zip'}"
    assert "name a .npz file" in refused(place, "ref", data, f"--dest={tmp_path / 'ref'}")
    line = refused(place, "ref", data, f"--dest={place / 'ref.npz' / 'x.npz'}")
    assert re.search("--dest=.*is a file, not a folder", line)
    one = write_folder(tmp_path / "one", files(REAL[:1]))
    line = refused(place, "ref", f"--data={one}", f"--dest={tmp_path / 'r.npz'}")
    assert "1 image has no covariance" in line


@pytest.mark.slow
def test_a_refusal_under_two_processes_is_one_line(place, tmp_path):
    cut = files(FAKE[:3]) | {"000000/000002.png": png(FAKE[2])[:-40]}
    images = write_folder(tmp_path / "cut", cut)
    for args, words in (
        ([f"--images={images}", *detector(place)], "000002.png is unreadable"),
        ([f"--images={place / 'fake'}", *detector(place, "none.pt")], "cannot be read"),
    ):
        run = run_script(
            ROOT / "fid.py", "calc", f"--ref={place / 'ref.npz'}", *args, processes=2, timeout=60
        )
        assert run.returncode != 0
        (line,) = [x for x in run.stderr.splitlines() if x.startswith("Error:")]
        assert words in line
