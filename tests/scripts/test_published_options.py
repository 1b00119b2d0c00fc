"""Options of published commands, as published: each row of what they mean."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import toy_pfODE_int
import toy_train
import train
from flow.flow import load_flow
from tests.image_networks import digits, error_line, good

COMMON = ("--device=cpu", "--no-plot")
TOY = ("--data_name=circles", *COMMON)


def options(main, *args):
    """What --dry-run says, notes aside."""
    result = CliRunner().invoke(main, [*map(str, args), "-n"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("images"), 60)


def test_booleans_take_a_value(images, tmp_path):
    """`--cond=1 --xflip=0 --fp16=True --bench=... --cache=...`, and flags as they were."""
    start = [f"--outdir={tmp_path}", f"--data={images}", "--cres=1,2", *COMMON[:1]]
    found, _ = options(train.main, *start, "--cond=1", "--xflip=0", "--fp16=True", "--bench=False",
                       "--cache", "no", "--ls=100")  # fmt: skip
    names = ("cond", "xflip", "fp16", "bench", "cache", "ls")
    assert [found[k] for k in names] == [True, False, True, False, False, 100.0]
    found, _ = options(train.main, *start, "--cond", "--no-bench", "--no-cache=1", "--plot=0")
    assert [found[k] for k in names[:5]] == [True, False, False, False, False]
    line = error_line(train.main, *start, "--cond=maybe")
    assert "--cond=maybe: 'maybe' is not a boolean; use 1 or 0" in line
    assert "--ls=100 is of --fp16; leave it out or give both" in error_line(
        train.main, *start, "--ls=100"
    )
    assert options(train.main, *start, "--ls=1")[0]["fp16"] is False  # the published default


def test_defaults(images, tmp_path):
    """Image batch-gpu 64, toys 1024; toys: warm-up 10 Mimg, duration 7000 Mimg; ToyMLP its own."""
    found, _ = options(train.main, f"--outdir={tmp_path}", f"--data={images}", "--cres=1,2")
    assert found["batch_gpu"] == 64
    names = ("batch", "batch_gpu", "lr_rampup", "duration")
    found, _ = options(toy_train.main, f"--outdir={tmp_path}", *TOY, "--arch=ToyConvUNet")
    assert [found[k] for k in names] == [8192, 1024, 10.0, 7000.0]
    found, _ = options(toy_train.main, f"--outdir={tmp_path}", *TOY)
    assert [found[k] for k in names] == [2048, None, 0.4, 10.0]


def test_batch_gpu_does_not_change_what_is_learned(tmp_path):
    """Gradients are summed over pieces: 1024 at once, in pieces of 100, or fewer than a piece."""
    networks, losses = [], []
    for k, size in enumerate((1024, 100, 5000)):
        args = [f"--outdir={tmp_path / str(k)}", *TOY, "--batch=1024", f"--batch-gpu={size}"]
        good(toy_train.main, *args, "--duration=0.0041", "--tick=1")
        (stats,) = (tmp_path / str(k)).glob("*/stats.jsonl")
        losses.append([json.loads(x)["loss"] for x in stats.read_text().splitlines()])
        networks.append(load_flow(tmp_path / str(k), "cpu").model.state_dict())
    assert len(losses[0]) >= 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[2] == losses[0]
    for name, value in networks[0].items():
        torch.testing.assert_close(networks[1][name], value, rtol=1e-3, atol=1e-4)


def test_data_dim_beside_augment_to_is_that_of_the_set(tmp_path):
    """`--data_dim=2 --augment_to=10` embeds a 2-D set; so it is said to what simulates it."""
    start = [f"--outdir={tmp_path / 'o'}", *TOY, "--augment_to=10", "--dims_to_keep=2"]
    for dim in ("--data_dim=2", "--data_dim=10"):
        assert options(toy_train.main, *start, dim)[0]["data_dim"] == 10
    line = error_line(toy_train.main, *start, "--data_dim=3")
    assert "circles has 2 dimensions, embedded into --augment_to=10; use --data_dim=2" in line
    train_it = [*start, "--duration=0.002", "--batch=500"]
    good(toy_train.main, *train_it, "--data_dim=2", "--stop_after=0.001")
    good(toy_train.main, *train_it, "--data_dim=2", "--resume=latest")
    assert len(list((tmp_path / "o").iterdir())) == 1
    simulate = ["net", f"--save_dir={tmp_path / 's'}", f"--network={tmp_path / 'o'}", *TOY]
    simulate += ["--total_samples=20", "--solver=rk4", "--steps=2", "--dims_to_keep=2"]
    good(toy_pfODE_int.main, *simulate, "--data_dim=2")
    assert "--data_dim=3 contradicts" in error_line(toy_pfODE_int.main, *simulate, "--data_dim=3")
    discrete = ["discrete", f"--save_dir={tmp_path / 's'}", *TOY, "--augment_to=4", "--data_dim=2"]
    good(toy_pfODE_int.main, *discrete, "--total_samples=20", "--solver=rk4", "--steps=2")


def test_desc_and_nosubdir(tmp_path):
    """--desc is appended to the run folder's name; --nosubdir writes into --outdir itself."""
    short = [*TOY, "--batch=500", "--duration=0.001"]
    good(toy_train.main, f"--outdir={tmp_path / 'a'}", *short, "--desc=first try")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["00000-circles-PRP-first try"]
    flat = [f"--outdir={tmp_path / 'b'}", *short, "--nosubdir=1"]
    good(toy_train.main, *flat, "--duration=0.002", "--stop_after=0.001")
    assert (tmp_path / "b" / "network-snapshot-000001.pkl").is_file()
    line = error_line(toy_train.main, *flat)
    assert f"holds another run; go on with that by --resume={tmp_path / 'b'}" in line
    for resume in ("latest", tmp_path / "b"):
        good(toy_train.main, *flat, "--duration=0.002", f"--resume={resume}")
    assert (tmp_path / "b" / "network-snapshot-000002.pkl").is_file()
    assert not [p for p in (tmp_path / "b").iterdir() if p.is_dir() and p.name[0] == "0"]
    line = error_line(toy_train.main, f"--outdir={tmp_path / 'a'}", *short, "--desc=a/b")
    assert "--desc=a/b becomes part of a folder's name" in line


def test_a_run_of_before_is_not_gone_on_with(tmp_path):
    """Its data_name meant the set that is now called _sharp."""
    args = [f"--outdir={tmp_path}", *TOY, "--batch=500", "--duration=0.001"]
    good(toy_train.main, *args)
    path = tmp_path / "00000-circles-PRP" / "training_options.json"
    stored = json.loads(path.read_text())
    assert stored.pop("definition") == 2
    path.write_text(json.dumps(stored))
    said = "00000-circles-PRP was trained on circles_sharp, at its time called circles"
    assert said in error_line(toy_train.main, *args, f"--resume={path.parent}")
    assert f"{said}. A new one begins" in good(toy_train.main, *args, "--resume=latest")
    assert (tmp_path / "00001-circles-PRP").is_dir()
    assert "Run folder" in good(toy_train.main, *args, "--resume=latest")
    assert len(list(tmp_path.iterdir())) == 2


def test_names_of_what_is_known(images, tmp_path):
    """In training: --end_time, --img_size, --batch_pca, --cres=1-2, --t_sampling=normal."""
    start = [f"--outdir={tmp_path}", f"--data={images}", "--device=cpu"]
    found, said = options(
        train.main, *start, "--cres=1-2", "--end_time=10.01", "--img_size=8", "--img_ch=1",
        "--batch_pca=50000", "--t_sampling=normal",
    )  # fmt: skip
    assert [found[k] for k in ("cres", "tmax", "t_sampling")] == [[1, 2], 10.01, "lognormal"]
    assert "--batch_pca=50000 has no effect: the eigenbasis is computed from all samples" in said
    assert "--t_sampling=normal is lognormal here" in said
    assert options(train.main, *start, "--cres=2,1-3")[0]["cres"] == [2, 1, 2, 3]
    for wrong in ("--cres=3-", "--cres=0-2", "--cres=2-1"):
        assert "is not a list of positive integers" in error_line(train.main, *start, wrong)
    line = error_line(train.main, *start, "--img_size=32", "--cres=1,2")
    assert "--img_size=32 contradicts" in line
    assert "have img_size=8" in line
    assert "--img_ch=3" in error_line(train.main, *start, "--img_ch=3", "--cres=1,2")
