"""calc_net_residuals_autocorrelations.py: files as documented, restarts, one line on bad input."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import calc_net_residuals_autocorrelations as script
import toy_train
from experiments.residuals import extract as residual_runs
from tests.helpers import conformance, run_script
from tests.image_networks import digits, error_line, good, untrained

TIMES, COUNT = 4, 70


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy")
    args = ["--data_name=circles", "--duration=0.02", "--batch=500", "--no-plot", "--device=cpu"]
    good(toy_train.main, f"--outdir={out}", *args)
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Digits, a network of them, and what was extracted from it."""
    folder = tmp_path_factory.mktemp("images")
    data = digits(folder, 80)
    untrained(folder / "net.pkl", data, keep=8)
    good(script.main, *extract_args(folder))
    return folder


def extract_args(folder, to="residuals"):
    args = [f"--network={folder / 'net.pkl'}", f"--data_root={folder / 'digits.zip'}"]
    args += [f"--n_samples={COUNT}", f"--n_time_pts={TIMES}", "--device=cpu", "--bs=10"]
    return ["extract", f"--save_dir={folder / to}", *args]


def calc_args(folder, to):
    return ["calc", f"--res_root={folder / 'residuals'}", f"--save_dir={to}", "--device=cpu"]


def load(path):
    with np.load(path, allow_pickle=False) as data:
        return dict(data)


def test_toy_as_published(toy, tmp_path):
    common = ["--data_name=circles", "--data_dim=2", "--dims_to_keep=2", "--n_time_pts=70"]
    common += ["--n_samples=500", "--device=cpu"]
    args = ["extracttoys", f"--save_dir={tmp_path / 'a'}", f"--network={toy}", "--h=0.1"]
    good(script.main, *args, *common)
    path = tmp_path / "a" / "circles_PRP_toy_net_outputs_residuals.npz"
    arrays = load(path)
    assert arrays["net_outputs"].shape == arrays["net_residuals"].shape == (70, 500, 2)
    np.testing.assert_allclose(arrays["t"], np.linspace(0, 7, 70))
    assert arrays["net_errors"].shape == (70, 500, 2)
    y = arrays["net_outputs"] - arrays["net_residuals"]
    np.testing.assert_allclose(y, np.broadcast_to(y[0], y.shape), atol=1e-5)  # the same samples
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["options"]["n_samples"] == 500
    args = ["calctoys", f"--save_dir={tmp_path / 'b'}", f"--res_root={path}", "--bs=64"]
    good(script.main, *args, *common)
    found = load(tmp_path / "b" / "circles_PRP_toy_autocorrelations.npz")
    assert found["net_residual_acs"].shape == found["net_output_acs"].shape == (70, 2, 2)
    for kind in ("residual", "error"):
        e = arrays[f"net_{kind}s"].astype(float)
        for k in (0, 30, 69):
            exact = np.corrcoef(e[0].T, e[k].T)[:2, 2:]
            np.testing.assert_allclose(found[f"net_{kind}_acs"][k], exact, atol=1e-4)
    summary = json.loads((tmp_path / "b" / "circles_PRP_toy_autocorrelations.json").read_text())
    assert summary["net_residual_acs_mean_diagonal"][0] == pytest.approx(1)
    assert summary["net_error_acs_mean_diagonal"][0] == pytest.approx(1)
    assert len(summary["t"]) == 70
    assert (tmp_path / "b" / "circles_PRP_toy_autocorrelations.png").stat().st_size > 5000


def test_published_residuals_give_published_correlations(tmp_path):
    """A file of the older code, which says nothing of where it came from."""
    _, arrays = conformance("autocorrelation")
    path = tmp_path / "swirl_PRRto2D_toy_net_outputs_residuals.npz"
    np.savez(path, net_residuals=arrays["net_residuals"].numpy())
    args = [f"--res_root={path}", f"--save_dir={tmp_path}", "--bs=33", "--device=cpu"]
    good(script.main, "calctoys", *args, "--normalization=published")
    found = load(tmp_path / "swirl_PRRto2D_toy_autocorrelations.npz")
    np.testing.assert_allclose(found["net_residual_acs"], arrays["net_residual_acs"], atol=2e-6)
    assert {"net_output_acs", "net_error_acs"}.isdisjoint(found)


def test_images(place, tmp_path):
    paths = [
        place / "residuals" / f"digits_PRRto8D_net_outputs_residuals_time{k}.npz"
        for k in range(TIMES)
    ]
    arrays = [load(p) for p in paths]
    y = [a["net_outputs"] - a["net_residuals"] for a in arrays]
    for k in range(TIMES):
        assert arrays[k]["net_outputs"].dtype == np.float32
        assert arrays[k]["net_outputs"].shape == (COUNT, 64)
        np.testing.assert_allclose(y[k], y[0], atol=1e-3)  # the same images in the same order
    assert float(arrays[0]["t"]) == pytest.approx(0.01)
    assert float(arrays[-1]["t"]) == pytest.approx(15.01)
    good(script.main, *calc_args(place, tmp_path), "--normalization=pearson", "--bs=32")
    for k in range(TIMES):
        found = load(tmp_path / f"digits_PRRto8D_autocorrelations_times0_{k}.npz")
        e0, e = (arrays[j]["net_residuals"].astype(float) for j in (0, k))
        with np.errstate(invalid="ignore", divide="ignore"):
            exact = np.corrcoef(e0.T, e.T)[:64, 64:]
        sure = np.outer(e0.std(0) > 1e-6, e.std(0) > 1e-6)
        np.testing.assert_allclose(found["net_residual_acs"][sure], exact[sure], atol=1e-4)
    record = json.loads((tmp_path / "digits_PRRto8D_autocorrelations.json").read_text())
    assert record["net_residual_acs_mean_diagonal"][0] == pytest.approx(1)
    assert (tmp_path / "digits_PRRto8D_autocorrelations.png").stat().st_size > 5000


def test_published_residual_files_are_read(place, tmp_path):
    """Those of the released code: PRRto8 without D, Fortran order, nothing but the two arrays."""
    good(script.main, *calc_args(place, tmp_path / "a"))
    folder = tmp_path / "theirs"
    folder.mkdir()
    for k in range(TIMES):
        arrays = load(place / "residuals" / f"digits_PRRto8D_net_outputs_residuals_time{k}.npz")
        kept = {key: np.asfortranarray(arrays[key]) for key in ("net_outputs", "net_residuals")}
        np.savez(folder / f"digits_PRRto8_net_outputs_residuals_time{k}.npz", **kept)
    args = ["calc", f"--res_root={folder}", f"--save_dir={tmp_path / 'b'}", "--device=cpu"]
    good(script.main, *args, "--data_name=digits", "--dims_to_keep=8", f"--n_time_pts={TIMES}")
    for k in range(TIMES):
        ours, theirs = (load(tmp_path / f / f"digits_PRRto8D_autocorrelations_times0_{k}.npz")
                        for f in "ab")  # fmt: skip
        np.testing.assert_array_equal(ours["net_residual_acs"], theirs["net_residual_acs"])
    toy = {key: np.asfortranarray(np.stack([kept[key]] * 2)) for key in kept}
    np.savez(tmp_path / "swirl_PRRto8_toy_net_outputs_residuals.npz", **toy)
    root = f"--res_root={tmp_path / 'swirl_PRRto8_toy_net_outputs_residuals.npz'}"
    good(script.main, "calctoys", root, f"--save_dir={tmp_path}", "--device=cpu", "--no-plot")
    found = load(tmp_path / "swirl_PRRto8D_toy_autocorrelations.npz")["net_residual_acs"]
    np.testing.assert_array_equal(found[0], found[1])


def test_runs_go_on_file_by_file(place, tmp_path):
    folder = place / "residuals"
    names = [f"digits_PRRto8D_net_outputs_residuals_time{k}.npz" for k in range(TIMES)]
    before = {n: ((folder / n).stat().st_mtime_ns, load(folder / n)) for n in names}
    (folder / names[1]).unlink()
    (folder / names[2]).write_bytes((folder / names[2]).read_bytes()[:1000])
    assert "2 to be made" in good(script.main, *extract_args(place))
    for n in names:
        same = (folder / n).stat().st_mtime_ns == before[n][0]
        assert same == (n in (names[0], names[3]))
        for key, value in load(folder / n).items():
            np.testing.assert_array_equal(value, before[n][1][key])
    line = error_line(script.main, *extract_args(place), "--seed=5")
    assert "time0.npz is there already, made with seed=0 and not 5" in line
    good(script.main, *calc_args(place, tmp_path), "--no-plot")
    lag = tmp_path / "digits_PRRto8D_autocorrelations_times0_2.npz"
    kept, last = lag.stat().st_mtime_ns, lag.with_name(lag.name.replace("_2.", "_3."))
    last.unlink()
    good(script.main, *calc_args(place, tmp_path), "--no-plot")
    assert lag.stat().st_mtime_ns == kept
    assert last.exists()


def test_missing_files_are_named(place, tmp_path):
    empty = [f"--res_root={tmp_path / 'none'}", f"--save_dir={tmp_path / 'x'}"]
    assert "net_outputs_residuals_time0.npz is missing" in error_line(script.main, "calc", *empty)
    assert "no such file" in error_line(script.main, "calctoys", *empty)
    line = error_line(script.main, *calc_args(place, tmp_path / "x"), "--n_time_pts=6")
    assert "2 of 6 files are missing: digits_PRRto8D_net_outputs_residuals_time4.npz, " in line
    good(script.main, "calc", *empty, "--dry-run")
    assert not (tmp_path / "x").exists()


BAD = {
    "samples": (["--n_samples=71"], "--n_samples=71, but 70 were extracted"),
    "dims": (["--dims_to_keep=64"], "--dims_to_keep=64 contradicts the files"),
    "data_dim": (["--data_dim=3"], "--data_dim=3 contradicts the files"),
    "name": (["--data_name=cifar10"], "cifar10_{schedule}_net_outputs_residuals_time0.npz is"),
}


@pytest.mark.parametrize("case", BAD)
def test_calc_refuses(place, tmp_path, case):
    args, reason = BAD[case]
    assert reason in error_line(script.main, *calc_args(place, tmp_path / "x"), *args)
    assert not (tmp_path / "x").exists()


def test_more_samples_than_there_are(place, toy, tmp_path):
    where = f"--save_dir={tmp_path / 'x'}"
    line = error_line(script.main, *extract_args(place), "--n_samples=81", where)
    assert "--n_samples=81, but" in line
    assert "has 80 images" in line
    good(script.main, *extract_args(place), "--n_samples=81", where, "--dry-run")
    args = ["extracttoys", where, f"--network={toy}", "--n_time_pts=702"]
    line = error_line(script.main, *args)
    assert "--n_time_pts=702 times --h=0.01 ends at t=7.02, beyond the flow's tmax=7.01" in line
    assert not (tmp_path / "x").exists()


def test_no_room_on_the_disk(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(residual_runs.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    args = [f"--save_dir={tmp_path / 'x'}", f"--network={toy}", "--device=cpu"]
    line = error_line(script.main, "extracttoys", *args)
    assert "160 MiB are needed and 1 MiB free" in line
    assert not (tmp_path / "x").exists()


def test_vectors_that_are_too_few(tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((100, 2)))
    args = [f"--data={tmp_path / 'v.npy'}", "--duration=0.001", "--batch=50", "--no-plot"]
    good(toy_train.main, f"--outdir={tmp_path / 'o'}", *args, "--device=cpu")
    args = ["extracttoys", f"--save_dir={tmp_path / 'x'}", f"--network={tmp_path / 'o'}", args[0]]
    line = error_line(script.main, *args, "--n_samples=101", "--device=cpu")
    assert "--n_samples=101: " in line
    assert "holds 100 rows" in line


def test_dry_run_writes_nothing(place, toy, tmp_path):
    before = sorted(place.rglob("*"))
    good(script.main, *extract_args(place, "other"), "--dry-run")
    good(script.main, *calc_args(place, place / "acs"), "--dry-run")
    where = f"--save_dir={tmp_path / 'x'}"
    output = good(script.main, "extracttoys", where, f"--network={toy}", "--dry-run")
    assert "1 file of 160 MiB" in output
    assert sorted(place.rglob("*")) == before
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(place, tmp_path):
    for processes in (1, 2):
        for args in (extract_args(place), calc_args(place, "")):
            chosen = [a for a in args if not a.startswith(("--save_dir", "--res_root"))]
            folder = tmp_path / str(processes)
            chosen += [f"--save_dir={folder}"]
            chosen += [f"--res_root={folder}"] if args[0] == "calc" else []
            result = run_script(
                "calc_net_residuals_autocorrelations.py", *chosen, processes=processes
            )
            assert result.returncode == 0, result.stderr
    names = sorted(p.name for p in (tmp_path / "1").glob("*.npz"))
    assert names == sorted(p.name for p in (tmp_path / "2").glob("*.npz"))
    assert len(names) == 2 * TIMES
    for name in names:
        one, two = load(tmp_path / "1" / name), load(tmp_path / "2" / name)
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
