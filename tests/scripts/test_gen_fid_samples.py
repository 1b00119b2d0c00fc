"""gen_fid_samples.py: one seed, one image, whatever else is asked for; and what is there stays."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import gen_fid_samples
import pfODE_int
from flow.flow import load_flow
from flow.images import set_arithmetic
from flow.latents import one_hot, seed_latents
from flow.numbered_images import OPTIONS_FILE, block_classes, parse_seeds
from tests.helpers import ROOT, run_script
from tests.image_networks import digits, error_line, good, untrained
from torch_utils import distributed
from training.data.images import to_pixels
from training.precond import InflationPrecond

FAST = ("--device=cpu", "--solver=ab2", "--steps=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    data = digits(folder)
    untrained(folder / "plain.pkl", data, 8)
    untrained(folder / "classes.pkl", data, 8, classes=10)
    return folder


def call(place, out, *args, network="plain.pkl"):
    args = [f"--save_dir={out}", f"--network={place / network}", *FAST, *args]
    return good(gen_fid_samples.main, *args)


def images(folder):
    found = sorted(folder.rglob("*.png"))
    return {p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in found}


def same(a, b):
    return all(np.array_equal(a[k], b[k]) for k in a.keys() & b.keys())


def test_parse_seeds():
    assert parse_seeds("0-3,7, 2") == [0, 1, 2, 3, 7]
    for text in ("", "a", "3-", "5-2", "-1", "1,,2", "1.5"):
        with pytest.raises(ValueError, match=r"seeds|ends before"):
            parse_seeds(text)


def test_a_seed_is_an_image_whatever_else_is_made(place, tmp_path):
    output = call(place, tmp_path / "a", "--seeds=0-69,1001", "--subdirs")
    many = images(tmp_path / "a")
    assert len(many) == 71
    assert {"000000/000000.png", "000000/000069.png", "001000/001001.png"} <= many.keys()
    assert many["000000/000000.png"].shape == (8, 8)  # grey
    assert "5 network evaluations an image" in output
    call(place, tmp_path / "b", "--seeds=1001,66,3", "--bs=1", "--no-plot")
    few = images(tmp_path / "b")
    assert list(few) == ["000003.png", "000066.png", "001001.png"]
    for name, image in few.items():
        folder = "001000" if name == "001001.png" else "000000"
        np.testing.assert_array_equal(image, many[f"{folder}/{name}"])
    assert len({i.tobytes() for i in many.values()}) == 71
    with Image.open(tmp_path / "a-grid.png") as grid:
        assert min(grid.size) >= 8 * 64
    assert not (tmp_path / "b-grid.png").exists()


def test_batches_of_any_size_have_the_same_latents(place):
    """64 against 7: pixels before rounding agree to the last digits, and the batch is honoured."""
    made = {}
    for size in (64, 7):
        flow = load_flow(place / "classes.pkl", "cpu")
        flow.block, seen, made_here = size, [], {}
        flow.model.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0])))
        for first in range(0, 70, size):
            seeds = range(first, first + size)
            here = flow.given(one_hot(flow, block_classes(flow, seeds, None, None)))
            u = seed_latents(here, seeds, None, None)
            made_here |= dict(
                zip(seeds, here.generate(u, "whitened", solver="ab2", steps=4), strict=True)
            )
        made[size] = torch.stack([made_here[k] for k in range(70)])
        assert set(seen) == {size}
    difference = (made[64] - made[7]).abs().max()
    assert difference < 1e-5 * made[64].abs().max()


def test_bfloat16_is_another_kind_of_image_and_a_compiled_one_is_not(place, tmp_path):
    call(place, tmp_path / "a", "--seeds=0-3", "--no-plot")
    call(place, tmp_path / "b", "--seeds=0-3", "--no-plot", "--bf16")
    a, b = (images(tmp_path / k) for k in "ab")
    differences = np.stack([a[k].astype(int) - b[k] for k in a])
    assert 0 < np.abs(differences).max() < 40
    start = [f"--save_dir={tmp_path / 'a'}", f"--network={place / 'plain.pkl'}", *FAST]
    line = error_line(gen_fid_samples.main, *start, "--seeds=0-5", "--bf16")
    assert "holds images made otherwise (bf16: None, now True)" in line
    assert "has no TF32" in error_line(gen_fid_samples.main, *start, "--seeds=0-5", "--tf32")


@pytest.mark.parametrize(
    ("device", "count", "told", "compiled"),
    [("cuda", 1024, None, True), ("cuda", 1023, None, False), ("cpu", 50_000, None, False),
     ("cuda", 50_000, False, False), ("cpu", 1, True, True)],
)  # fmt: skip
def test_compiled_where_it_pays(device, count, told, compiled, monkeypatch):
    model, asked = InflationPrecond.__new__(InflationPrecond), []
    monkeypatch.setattr(InflationPrecond, "compile", lambda self: asked.append(self))
    monkeypatch.setattr(distributed, "find_spec", lambda name: name == "triton")
    flow = SimpleNamespace(model=model, device=torch.device(device))
    set_arithmetic(flow, SimpleNamespace(bf16=False, compile=told), count)
    assert asked == [model] * compiled


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_images(place, tmp_path):
    call(place, tmp_path / "a", "--seeds=0-3", "--no-plot")
    call(place, tmp_path / "b", "--seeds=0-3", "--no-plot", "--compile")
    a, b = (images(tmp_path / k) for k in "ab")
    assert all(np.abs(a[k].astype(int) - b[k]).max() <= 1 for k in a)


def test_a_seed_is_a_sample_of_the_flow(place, tmp_path):
    call(place, tmp_path / "a", "--seeds=5")
    x = load_flow(place / "plain.pkl", "cpu").sample(1, seed=5, solver="ab2", steps=4)
    difference = (
        images(tmp_path / "a")["000005.png"].astype(int) - to_pixels(x, (1, 8, 8))[0, ..., 0]
    )
    assert np.abs(difference).max() <= 1  # another batch size rounds otherwise


@pytest.mark.parametrize(
    "network", ["plain.pkl", pytest.param("classes.pkl", marks=pytest.mark.slow)]
)
def test_two_processes_make_what_one_makes(place, tmp_path, network):
    call(place, tmp_path / "one", "--seeds=0-9,60-70,130", network=network)
    args = [f"--save_dir={tmp_path / 'two'}", f"--network={place / network}", *FAST]
    script = ROOT / "gen_fid_samples.py"
    done = run_script(script, *args, "--seeds=0-9,60-70,130", "--bs=3", processes=2)
    assert done.returncode == 0, done.stderr
    one, two = images(tmp_path / "one"), images(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one) == 22
    assert same(one, two)


def test_the_same_command_goes_on(place, tmp_path):
    out = tmp_path / "a"
    call(place, out, "--seeds=0-70")
    before = images(out)
    (out / "000003.png").unlink()
    cut = out / "000069.png"
    cut.write_bytes(cut.read_bytes()[:-6])
    untouched = (out / "000004.png").stat().st_mtime_ns
    assert "71 images, 69 there already" in call(place, out, "--seeds=0-70")
    after = images(out)
    assert before.keys() == after.keys()
    assert same(before, after)
    assert (out / "000004.png").stat().st_mtime_ns == untouched
    content = json.loads((out / OPTIONS_FILE).read_text())
    assert content["results"]["images_made"] == 2
    assert content["identity"]["method"]["solver"] == "ab2"
    assert len(content["identity"]["network_sha256"]) == 64
    assert "72 images, 71 there already" in call(place, out, "--seeds=0-71")


def test_what_was_measured_stays_and_is_made_up_for(place, tmp_path):
    def results():
        return json.loads(path.read_text())["results"]

    path = tmp_path / "a" / OPTIONS_FILE
    call(place, tmp_path / "a", "--seeds=0-2", "--no-plot")
    first = results()
    call(place, tmp_path / "a", "--seeds=0-2", "--no-plot")
    assert results() == first  # nothing was left to do
    content = json.loads(path.read_text())
    del content["results"]  # as if it had been killed after the last image
    path.write_text(json.dumps(content))
    call(place, tmp_path / "a", "--seeds=0-2", "--no-plot")
    kept = ("evaluations_per_image", "images_in_all")
    assert {k: results()[k] for k in kept} == {k: first[k] for k in kept}


def test_classes(place, tmp_path):
    call(place, tmp_path / "a", "--seeds=0-5", "--no-plot", network="classes.pkl")
    for number in (2, 3):
        args = ["--seeds=0-5", f"--class={number}", "--no-plot"]
        call(place, tmp_path / str(number), *args, network="classes.pkl")
    two, three = images(tmp_path / "2"), images(tmp_path / "3")
    assert not any(np.array_equal(two[k], three[k]) for k in two)
    assert images(tmp_path / "a").keys() == two.keys()


@pytest.mark.parametrize("gen_source", ["empirical", "donors"])
def test_latents_of_an_inflation_by_seed(place, tmp_path, gen_source):
    flow = [f"--network={place / 'plain.pkl'}", *FAST, "--no-plot"]
    args = [f"--save_dir={tmp_path}", f"--data_root={place / 'digits.zip'}", "--sim_type=melt"]
    good(pfODE_int.main, *flow, *args, "--bs=30")
    prev = f"--prev_melt={tmp_path / 'digits_PRRto8D_net_melt_results.npz'}"
    args = [f"--gen_source={gen_source}", prev, "--no-plot"]
    call(place, tmp_path / "a", "--seeds=0-9", *args)
    call(place, tmp_path / "b", "--seeds=9", *args)
    call(place, tmp_path / "c", "--seeds=9", "--no-plot")
    a, b, c = (images(tmp_path / f)["000009.png"] for f in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(b, c)


def test_settings_change_the_images_and_are_not_mixed(place, tmp_path):
    out = tmp_path / "a"
    call(place, out, "--seeds=0-3", "--no-plot")
    start = [f"--save_dir={out}", f"--network={place / 'plain.pkl'}", *FAST, "--seeds=0-5"]
    assert "holds images made otherwise (eps: None, now 0.5)" in error_line(
        gen_fid_samples.main, *start, "--eps=0.5"
    )
    assert len(images(out)) == 4
    (out / OPTIONS_FILE).unlink()
    assert "holds 4 images of these seeds" in error_line(gen_fid_samples.main, *start)


BAD = {
    "seeds": (["--seeds=5-2"], "ends before it starts"),
    "class": (["--class=1"], "not conditional"),
    "dims": (["--dims_to_keep=3072"], "has dims_to_keep=8"),
    "empirical": (["--gen_source=empirical"], "need an inflation"),
    "donors": (["--gen_source=donors"], "need an inflation"),
    "diag": (["--prev_melt=x.npz"], "need an inflation"),
    "bs": (["--bs=0"], "--bs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(place, tmp_path, case):
    args, reason = BAD[case]
    start = [f"--save_dir={tmp_path / 'o'}", f"--network={place / 'plain.pkl'}", *FAST]
    assert reason in error_line(gen_fid_samples.main, *start, *args)
    assert not (tmp_path / "o").exists()


def test_the_published_command(place, tmp_path):
    args = [f"--save_dir={tmp_path / 'o'}", f"--network={place / 'plain.pkl'}", "--bs=500"]
    args += ["--seeds=0-49999", "--subdirs", "--dims_to_keep=8", "--dry-run"]
    assert "50000 images, 0 there already" in good(gen_fid_samples.main, *args)
    assert not (tmp_path / "o").exists()
