"""calc_posterior.py: files as documented, the same draws however it is run, one-line refusals."""

import json

import numpy as np
import pytest

import calc_posterior
import toy_train
from flow.flow import load_flow
from tests.helpers import run_script
from tests.image_networks import digits, error_line, good, untrained

QUICK = ("--n=20", "--particles=16", "--device=cpu", "--steps=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network of a table with two named columns, and one of images, of few steps."""
    pytest.importorskip("arviz")
    folder = tmp_path_factory.mktemp("posterior")
    rng = np.random.default_rng(0)
    a = rng.standard_normal(200)
    table = np.stack([a, 3 * a + rng.standard_normal(200)], 1)
    np.savetxt(folder / "table.csv", table, header="b,a", comments="", delimiter=",")
    train = ["--duration=0.02", "--batch=200", "--no-plot", "--device=cpu"]
    good(toy_train.main, f"--outdir={folder / 'net'}", f"--data={folder / 'table.csv'}", *train)
    untrained(folder / "digits.pkl", digits(folder, 20), keep=64, tmax=7.01)
    (folder / "seen.csv").write_text("a,other,b\n0.5,7,\n,7,1.5\nNA,7,-1\n")
    return folder


def args_of(place, out, *more, network="net", data="--observations=seen.csv"):
    option, name = data.split("=")
    start = [f"--outdir={out}", f"--network={place / network}", f"{option}={place / name}"]
    return [*start, *QUICK, *more]


def test_a_table_with_gaps(place, tmp_path):
    args = args_of(place, tmp_path, "--noise=0.1")
    said = good(calc_posterior.main, *args)
    assert "3 rows, 2 columns: b, a; left out: 'other'" in said
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [list(row["values"]) for row in summary["observations"]] == [["b", "a"]] * 3
    with np.load(tmp_path / "draws.npz") as draws:
        x, y = draws["x"], draws["y"]
        np.testing.assert_array_equal(np.isnan(y), [[1, 0], [0, 1], [0, 1]])
        flow = load_flow(place / "net", "cpu")
        again = flow.generate(draws["z"][0], coords="whitened", steps=2)
    assert x.shape == (3, 20, 2)
    np.testing.assert_allclose(again, x[0], atol=1e-6)
    assert abs(x[0, :, 1].mean() - 0.5) < 0.3
    assert abs(x[2, :, 0].mean() + 1) < 0.3
    pictures = {f"posterior-{i}.png" for i in (1, 2, 3)} | {"path.png"}
    assert {p.name for p in tmp_path.iterdir()} == pictures | {
        "draws.npz", "posterior.nc", "summary.json", "run.json",
    }  # fmt: skip
    assert "nothing left to do" in good(calc_posterior.main, *args, "--resume")


def test_the_same_draws_by_any_number(place, tmp_path):
    """One observation at a time, all together, or by two processes."""
    for name, more in (("one", "--bs=1"), ("all", "--bs=9")):
        good(
            calc_posterior.main, *args_of(place, tmp_path / name, "--noise=0.1", more, "--no-plot")
        )
    two = ["calc_posterior.py", *args_of(place, tmp_path / "two", "--noise=0.1", "--bs=1")]
    done = run_script(*two, "--no-plot", processes=2)
    assert done.returncode == 0, done.stderr
    found = [dict(np.load(tmp_path / name / "draws.npz")) for name in ("one", "all", "two")]
    for other in found[1:]:
        for key in ("x", "z", "log_evidence"):
            np.testing.assert_array_equal(found[0][key], other[key])


def test_images_are_measured_and_compared(place, tmp_path):
    more = ["--simulate", "--count=1", "--operator=downsample:2", "--mask=top", "--noise=0.2"]
    args = args_of(place, tmp_path, *more, network="digits.pkl", data="--image=digits.zip")
    assert "the first 1 of 20" in good(calc_posterior.main, *args)
    with np.load(tmp_path / "draws.npz") as draws:
        assert np.isfinite(draws["y"]).sum() == 8
        assert draws["truth"].shape == (1, 64)
    assert (tmp_path / "images.png").exists()
    (row,) = json.loads((tmp_path / "summary.json").read_text())["observations"]
    assert 0 <= row["truth_in_interval_90"] <= 1


REFUSED = {
    "--noise is missing": (),
    "--noise=0: standard deviations must be above 0": ("--noise=0",),
    "give --observations or --image": ("--noise=1", "--image=x.png"),
    "noise has 3 values for 2": ("--noise=1,1,1",),
    "--exposure has no effect with --likelihood=normal": ("--noise=1", "--exposure=2"),
    "--noise has no effect with --likelihood=poisson": ("--noise=1", "--likelihood=poisson"),
    "whole numbers": ("--likelihood=poisson",),
    "neither a file nor blur": ("--noise=1", "--operator=sharpen"),
    "not trained on images": ("--noise=1", "--operator=blur"),
    "A has shape (3, 5); for this network it must be [m, 2]": ("--noise=1", "--operator={A}"),
    "2 values each, where 1 are wanted": ("--noise=1", "--operator={B}"),
    "5 values for 2 measurements": ("--noise=1", "--mask={mask}"),
    "halves are of images": ("--noise=1", "--mask=left"),
    "holds missing values; --simulate": ("--noise=1", "--simulate"),
    "not conditional": ("--noise=1", "--class=1"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line, place, tmp_path):
    np.savez(tmp_path / "A.npz", A=np.ones((3, 5)))
    np.savez(tmp_path / "B.npz", A=np.ones((1, 2)))
    np.save(tmp_path / "mask.npy", np.ones(5, bool))
    files = {"A": tmp_path / "A.npz", "B": tmp_path / "B.npz", "mask": tmp_path / "mask.npy"}
    more = [v.format(**files) for v in REFUSED[line]]
    out = tmp_path / "out"
    assert line in error_line(calc_posterior.main, *args_of(place, out, *more))
    assert not out.exists()


def test_rows_without_values_are_refused(place, tmp_path):
    np.save(place / "gaps.npy", np.array([[1.0, 2.0], [np.nan, np.nan]]))
    args = args_of(place, tmp_path, "--noise=1", data="--observations=gaps.npy")
    assert "row 2: all 2 values of x are missing" in error_line(calc_posterior.main, *args)
    np.save(place / "wide.npy", np.ones((2, 3)))
    args = args_of(place, tmp_path, "--noise=1", data="--observations=wide.npy")
    assert "3 values each, where 2 are wanted" in error_line(calc_posterior.main, *args)
