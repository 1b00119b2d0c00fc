"""kill -9 at random moments, then the same command: the end is that of an uninterrupted run.

While commands run and are killed, every file that has its final name is loaded again and again.
"""

import shutil
import signal

import numpy as np
import pytest

from tests.faults.harness import Watcher, differences, kill_and_compare, results

TRAIN = ["toy_train", "--outdir=out", "--data_name=circles", "--batch=128", "--duration=0.02",
         "--tick=1", "--snap=2", "--dump=1", "--no-plot", "--resume=latest",
         "--device=cpu"]  # fmt: skip
IMAGES = ["--solver=ab2", "--steps=4", "--device=cpu", "--no-plot", "--save_dir=out"]


def commands(place):
    """Name -> commands that are run one after the other."""
    net, data, flat = (f"{place / name}" for name in ("net.pkl", "digits.zip", "flat"))
    image, toy = f"--network={net}", f"--network={flat}"
    root = f"--data_root={data}"
    cpu = "--device=cpu"
    detector = [f"--detector={place / 'tiny.pt'}", "--detector-input=pixels", cpu]
    residuals = "calc_net_residuals_autocorrelations"
    mcmc = ["toy_MCMC_exps", "--outdir=out", toy, "--solver=rk4", "--steps=8", cpu, "--no-plot"]
    return {
        "gen_fid_samples": [["gen_fid_samples", image, "--seeds=0-127", *IMAGES]],
        "toy_pfODE_int": [["toy_pfODE_int", "net", toy, "--save_dir=out", "--total_samples=500",
                           "--solver=rk4", "--steps=16", cpu]],
        "pfODE_int": [["pfODE_int", image, root, "--bs=64", *IMAGES]],
        "calc_roundtrip_mse": [["calc_roundtrip_mse", image, root, *IMAGES]],
        "calc_nll": [["calc_nll", "net", image, root, "--trace=hutchinson", *IMAGES]],
        "extract and calc": [
            [residuals, "extract", image, root, "--n_samples=100", "--n_time_pts=24",
             "--save_dir=res", cpu],
            [residuals, "calc", "--res_root=res", "--save_dir=out", cpu],
        ],
        "extracttoys": [[residuals, "extracttoys", toy, "--n_samples=1000", "--h=0.1",
                         "--save_dir=out", cpu]],
        "toy_MCMC_exps flow": [[*mcmc, "--gt_n=30", "--chains=2", "--mcmc_n=400", "--burn=100",
                                "--proposals=16", "--refresh=1"]],
        "toy_MCMC_exps nuts": [[*mcmc, "--sampler=nuts", "--gt_n=4", "--chains=2", "--mcmc_n=20",
                                "--burn=10", "--traj_length=3"]],
        "toy_MCMC_exps sbc": [[*mcmc, "--experiment=sbc", "--grid=31", "--sims=20", "--sim_n=20"]],
        "calc_posterior": [["calc_posterior", toy, f"--observations={place / 'seen.csv'}",
                            "--noise=0.1", "--n=200", "--particles=64", "--bs=1", "--outdir=out",
                            cpu]],
        "coverage": [["run_toy_alphashape_mesh_exps", toy, "--save_dir=out", "--test_pts=1200",
                      "--r_num=3", "--solver=rk4", "--steps=8", cpu]],
        "train": [["train", "--outdir=out", f"--data={data}", "--cbase=16", "--cres=1,2",
                   "--batch=32", "--duration=0.0013", "--tick=0.1", "--snap=4", "--dump=2",
                   "--lr_rampup=0", "--no-plot", "--resume=latest", cpu]],
        "fid": [
            ["fid", "ref", f"--data={place / 'real.zip'}", "--dest=ref.npz", *detector],
            ["fid", "calc", f"--images={place / 'fake'}", "--ref=ref.npz", "--dest=fid.json",
             *detector],
        ],
        "dataset_tool": [["dataset_tool", "--source=digits", "--dest=digits.zip"]],
        "dataset_tool folder": [["dataset_tool", "--source=digits", "--dest=digits",
                                 "--max-images=300"]],
    }  # fmt: skip


LONG = (
    "gen_fid_samples", "toy_pfODE_int", "pfODE_int", "calc_roundtrip_mse", "calc_nll",
    "extract and calc", "extracttoys", "toy_MCMC_exps flow", "toy_MCMC_exps nuts",
    "toy_MCMC_exps sbc", "calc_posterior", "coverage", "train", "fid", "dataset_tool",
    "dataset_tool folder",
)  # fmt: skip


def report(name, found):
    print(
        f"\n{name}: {found.kills} kills, {found.ends} ends compared, {found.loaded} files loaded "
        f"meanwhile; uninterrupted {found.seconds:.1f} s"
    )


def test_what_these_tests_look_with_sees_flaws(tmp_path):
    watcher = Watcher(tmp_path)
    (tmp_path / ".part").mkdir()
    (tmp_path / ".part" / "half.json").write_text("[1, 2")
    (tmp_path / "whole.json").write_text('{"x": 1, "seconds": 1}')
    watcher.look()
    assert (watcher.loaded, watcher.flaws) == (1, [])
    expected = results(tmp_path)
    (tmp_path / "whole.json").write_text('{"x": 1, "seconds": 9}')
    assert not differences(expected, results(tmp_path))
    (tmp_path / "whole.json").write_text('{"x": 2, "seconds": 1}')
    assert differences(expected, results(tmp_path)) == ["/whole.json/x"]
    np.savez(tmp_path / "x.npz", x=np.arange(1000.0))
    raw = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(raw[:4000])
    (tmp_path / "y.png").write_bytes(b"")
    watcher.look()
    assert len(watcher.flaws) == 2


def test_toy_training(tmp_path):
    found = kill_and_compare([[*TRAIN, "--duration=0.005"]], tmp_path, 4)
    report("toy_train", found)


@pytest.mark.parametrize("name", ["gen_fid_samples", "extracttoys"])
def test_commands(place, tmp_path, name):
    report(name, kill_and_compare(commands(place)[name], tmp_path, 1))


def test_sigterm_leaves_whole_files_too(place, tmp_path):
    found = kill_and_compare(
        commands(place)["calc_roundtrip_mse"], tmp_path, 1, number=signal.SIGTERM
    )
    report("calc_roundtrip_mse, SIGTERM", found)


@pytest.mark.slow
def test_toy_training_many_times(tmp_path):
    report("toy_train", kill_and_compare([TRAIN], tmp_path, 20, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_commands_many_times(fid_place, tmp_path, name):
    report(name, kill_and_compare(commands(fid_place)[name], tmp_path, 5, seed=2))
    shutil.rmtree(tmp_path)
