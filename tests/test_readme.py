"""Every command of README and docs is accepted as printed, and their Python runs.

They are run for real, in their order, by test_readme_runs.py.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from torch.distributed.run import get_args_parser

import dataset_tool
import toy_train
from docs.options import written
from tests import forked
from tests.documents import TEXTS, commands, joined
from tests.helpers import ROOT
from tests.image_fixtures import write_cifar
from tests.image_networks import untrained

# Modules that compute for minutes: what makes them quick enough for a test.
SMOKE = {"experiments.density.langevin": ["--total_samples=20", "--steps=2", "--no-plot"]}


def is_script(command):
    return re.search(r" [\w/]+\.py( |$)", command)


ALL = [(name, c) for name, text in TEXTS.items() for c in commands(text)]
COMMANDS = [(n, c) for n, c in ALL if is_script(c)]
MODULES = [(n, c) for n, c in ALL if re.match(r"python -m (?!venv)", c)]
EXAMPLES = {  # of a document together, as its later ones go on with what the first made
    name: "\n".join(found)
    for name, text in TEXTS.items()
    if (found := re.findall(r"```python\n(.*?)```", text, re.S))
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the README's paths exist."""
    folder = tmp_path_factory.mktemp("readme")
    np.savetxt(folder / "wine.csv", np.random.default_rng(0).random((20, 13)), delimiter=",")
    wine = [f"--data={folder / 'wine.csv'}", "--dims_to_keep=3"]
    np.savetxt(folder / "incomplete.csv", [[0.5] * 6 + [np.nan] * 7], delimiter=",")
    circles = ["--data_name=circles"]
    for data in ([*circles], [*circles, "--dims_to_keep=1"], wine, [*circles]):
        args = [f"--outdir={folder / 'out'}", *data, "--duration=0.003", "--batch=500"]
        result = CliRunner().invoke(toy_train.main, [*args, "--no-plot"])
        assert result.exit_code == 0, result.output
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    archive = folder / "downloads/cifar10/cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    write_cifar(archive, images, [k % 10 for k in range(600)])
    for source, dest in ((archive, "cifar10-32x32.zip"), ("digits", "digits-8x8.zip")):
        args = [f"--source={source}", f"--dest={folder / 'datasets' / dest}", "--no-plot"]
        result = CliRunner().invoke(dataset_tool.main, args)
        assert result.exit_code == 0, result.output
    cifar = folder / "datasets/cifar10-32x32.zip"
    untrained(folder / "networks/network.pkl", cifar, keep=3072, gamma0=1.6e-6)
    (folder / "ml-fine-tmp").mkdir()
    shutil.copy(folder / "networks/network.pkl", folder / "ml-fine-tmp/network-snapshot-000001.pkl")
    for k in range(8):
        for path, size in ((f"downloads/afhqv2/train/{'cat' if k % 2 else 'dog'}", 64),
                           ("fid-tmp", 32), ("out/demo-images/generated-PRP", 8)):  # fmt: skip
            (folder / path).mkdir(parents=True, exist_ok=True)
            tile = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
            tile.convert("L" if size == 8 else "RGB").save(folder / path / f"{k:06d}.png")
    shutil.copy(folder / "datasets/digits-8x8.zip", folder / "out/demo-images/digits-8x8.zip")
    (folder / "fid-refs").mkdir()
    np.savez(folder / "fid-refs/cifar10-32x32.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    args = [f"--outdir={folder / 'out/gmm1d'}", "--data_name=gmm1d", "--duration=0.001"]
    result = CliRunner().invoke(toy_train.main, [*args, "--batch=500", "--no-plot"])
    assert result.exit_code == 0, result.output
    for name, number in (("circles", 0), ("wine", 2)):
        (run,) = folder.glob(f"out/0000{number}-*")
        shutil.copytree(run, folder / "out" / name)
    shutil.copy(folder / "wine.csv", folder / "wine-known.csv")
    gaps = np.where(np.arange(13) < 3, np.nan, 0.5)
    np.savetxt(folder / "wine-incomplete.csv", [gaps, gaps[::-1]], delimiter=",")
    (folder / "seen.csv").write_text("0.3,\n,-1.0\n")
    (folder / "x0.csv").write_text("0.3,\n-1.2,\n")
    digits = folder / "datasets/digits-8x8.zip"
    (folder / "out/digits").mkdir()
    untrained(folder / "out/digits/network-snapshot-000001.pkl", digits, 64, gamma0=1.6e-6)
    shutil.copy(folder / "networks/network.pkl", folder / "net.pkl")
    shutil.copy(folder / "networks/network.pkl", folder / "networks/images.pkl")
    for run, name in (("00000-circles-PRP", "circles"), ("00002-wine-PRRto3D", "wine")):
        shutil.copytree(folder / "out" / run, folder / "out" / name / run)
    (folder / "out/cifar10").mkdir()
    name = "network-snapshot-000001.pkl"
    shutil.copy(folder / "networks/network.pkl", folder / "out/cifar10" / name)
    states = np.zeros((2, 3, 2))
    np.savez(folder / "results.npz", tilde_xs=states, xs=states)
    return folder


def test_the_page_has_the_published_command():
    published = "torchrun --rdzv_endpoint=0.0.0.0:29501 toy_train.py --outdir=out "
    published += "--data_name=circles --data_dim=2 --dims_to_keep=2 --tmax=7.01"
    assert ("scripts/toy_train.md", published) in COMMANDS


def test_no_command_is_overlooked():
    """Every line of code that starts a program is one of those checked below, or named here."""
    shell = re.compile(r"^ {4}(?:[A-Z_]+=\S+ )*(\w+) ", re.M)
    for name, text in TEXTS.items():
        code = "\n".join(joined(text))
        begun = [
            m[1] for m in shell.finditer(code) if m[1] in ("python", "torchrun", "pip", "make")
        ]
        ours = sum(n == name and "`" not in c for n, c in ALL)
        makes = begun.count("make") + begun.count("pip")
        assert len(begun) - makes <= ours, name
    assert {n for n, _ in COMMANDS} >= {"README.md", "faq.md", "likelihood.md", "scaling.md"}


def test_every_script_has_a_page_and_its_options_are_those_of_help():
    """If this fails: python -m docs.options."""
    pages = {name for name in TEXTS if name.startswith("scripts/")}
    assert pages >= {f"scripts/{path.stem}.md" for path in ROOT.glob("*.py")}
    differ = [name for name, text in TEXTS.items() if written(text) != text]
    assert not differ, differ


def test_a_list_of_options_is_that_of_help():
    text = "<!-- options: fid.py calc --num --max-mb -->\nold\n<!-- end -->"
    with pytest.raises(KeyError, match="--max-mb"):
        written(text)
    _, line, _ = written(text.replace(" --max-mb", "")).splitlines()
    assert line.startswith("- `--num INTEGER RANGE`: ")


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.slow
def test_the_site_is_built_and_a_dead_link_is_an_error(tmp_path):
    pytest.importorskip("material", reason="pip install '.[docs]'")
    for name in ("docs", "mkdocs.yml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}

    def build():
        command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True,
                              check=False)  # fmt: skip

    done = build()
    assert done.returncode == 0, done.stderr
    assert "--save_dtype" in (tmp_path / "site/scripts/pfODE_int.html").read_text()
    with open(tmp_path / "docs/faq.md", "a") as file:
        file.write("\n[nowhere](nowhere.md)\n")
    done = build()
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_command(document, command, place, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(command.replace("/networks/network.pkl", "out"))
    script = next(w for w in words if w.endswith(".py"))
    if "toy" in command:  # the published lines call any network networks/network.pkl
        words = [w.replace("networks/network.pkl", "out") for w in words]
    launcher, args = words[1 : words.index(script)], words[words.index(script) + 1 :]
    if words[0] == "torchrun":
        launched = get_args_parser().parse_args([*launcher, script, *args])
        assert launched.training_script == script
        assert launched.training_script_args == args
    main = importlib.import_module(script.removesuffix(".py")).main
    before = sorted(place.rglob("*"))
    result = CliRunner().invoke(main, [*args, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("document", "command"),
    [pytest.param(*m, marks=pytest.mark.slow) if "digit_quality" in m[1] else m for m in MODULES],
)
def test_module(document, command, place):
    _, _, module, *args = shlex.split(command)
    if module.startswith("benchmarks."):  # minutes: there, and with something to run
        assert callable(importlib.import_module(module).main)
        return
    done = forked.run_script(["-m", module, *args, *SMOKE.get(module, [])], place=place)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", EXAMPLES)
def test_python_examples(document, place, monkeypatch):
    monkeypatch.chdir(place)
    code = EXAMPLES[document]
    dim = 1 if "gmm1d" in code else 2
    rng = np.random.default_rng(0)
    names = {
        "x": rng.standard_normal((10, dim)),
        "cov": 0.01 * np.eye(dim),
        "truths": rng.standard_normal((100, dim)),
        "posterior_draws": lambda y, n, seed: np.random.default_rng(seed).normal(size=(n, dim)),
    }
    exec(code, names)
    if document == "README.md":
        assert names["x"].shape == names["z"].shape == (1000, 2)
    if document == "python.md":
        assert names["x"].shape == (1000, 2)
        assert names["z"].shape == names["u"].shape == (10, 2)


def test_documents_name_files_that_exist():
    for name, text in TEXTS.items():
        if name == "README.md":
            continue  # see test_house
        named = set(re.findall(r"`((?:training|experiments|torch_utils|docs)/[\w./-]+)`", text))
        assert all((ROOT / path).exists() for path in named), name


def test_the_job_script_is_shell(tmp_path):
    (script,) = re.findall(r"```bash\n(.*?)```", TEXTS["scaling.md"], re.S)
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
