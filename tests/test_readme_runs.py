"""Every command of README and docs does what it says: all are run, in order, in an empty folder.

A shell runs them as they are printed, but for options at the end that make them quick. What a
reader brings, CIFAR-10 and AFHQv2, are random images in the published formats; the features of the
FID come from a tiny network.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import dataset_tool
import gen_fid_samples
from tests.documents import TEXTS, shell_lines
from tests.helpers import ROOT
from tests.image_fixtures import write_cifar
from tests.image_networks import good, untrained
from tests.scripts.test_fid import Tiny

pytestmark = pytest.mark.slow

DETECTOR = "--detector=tiny.pt --detector-input=pixels"
# Begin of a command, launcher left out -> options that make it quick. The first that fits counts.
QUICK = {
    "toy_train.py": "--duration=0.06 --batch=500 --tick=20",
    "toy_pfODE_int.py": "--total_samples=60",
    "toy_MCMC_exps.py --outdir=out/posterior": "--gt_n=20 --mcmc_n=20 --burn=5 --chains=2",
    "toy_MCMC_exps.py --outdir=mcmc-tmp": "--gt_n=20 --mcmc_n=20 --burn=5 --chains=2",
    "toy_MCMC_exps.py --outdir=mcmc-sbc": "--sims=10 --sim_n=10",
    "toy_MCMC_exps.py": "--sims=10",
    "run_toy_alphashape_mesh_exps.py": "--test_pts=200",
    "calc_net_residuals_autocorrelations.py extracttoys": "--n_samples=50",
    "calc_net_residuals_autocorrelations.py calctoys": "--n_samples=50",
    "calc_net_residuals_autocorrelations.py": "--n_samples=20 --n_time_pts=4",
    "calc_posterior.py": "--n=20 --particles=16 --count=2 --steps=2",
    "calc_nll.py toys": "--total_samples=50",
    "calc_nll.py net": "--total_samples=4",
    "dataset_tool.py": "",
    "train.py": "--duration=0.002 --batch=64 --tick=1 --cbase=8 --cres=1,2 --num_blocks=1",
    "pfODE_int.py": "--bs=4",
    "gen_fid_samples.py": "--seeds=0-9",
    "fid.py": DETECTOR,
    "calc_roundtrip_mse.py": "--total_samples=8",
    "reproduce.py": "--dry-run",  # minutes; its own tests run it
    "report.py": "",
    "-m metrics.digit_quality": "",
    "-m experiments.density.langevin": "--total_samples=20 --steps=2",
    "-m torch_utils.checkpoint": "",
    "-c": "",
}
# What would take minutes, or is of another machine.
LEFT_OUT = ("-m benchmarks.",)
MACHINES = {"--nproc_per_node=8": "--nproc_per_node=2", "--nnodes=4": "--nnodes=1",
            "endpoint=node0:29501": "endpoint=localhost:0",
            "--source=cifar10 ": "--source=downloads/cifar10/cifar-10-python.tar.gz "}  # fmt: skip
LAUNCHER = re.compile(r"(?:OMP_NUM_THREADS=1 )?(?:python|torchrun(?: --\S+)*) ")


def quickened(line: str) -> str | None:
    """A line of a document with options that make it quick; None if it is left out."""
    if line.startswith(("mkdir ", "cp ")):
        return line
    for there, here in MACHINES.items():
        line = line.replace(there, here)
    launcher = LAUNCHER.match(line)
    assert launcher, line
    command = line[launcher.end() :]
    if command.startswith(LEFT_OUT):
        return None
    options = next((o for start, o in QUICK.items() if command.startswith(start)), None)
    assert options is not None, f"no quick options for {line}"
    return f"{line} {options}".strip()


def run(folder: Path, line: str) -> None:
    """Run a line in a shell, with this Python's commands."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, check=False,
        timeout=600, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture
def place(tmp_path):
    """A folder with the suite's scripts, and with what a reader brings."""
    for path in ROOT.glob("*.py"):
        (tmp_path / path.name).symlink_to(path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    archive = tmp_path / "downloads/cifar10/cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    write_cifar(archive, images, [k % 10 for k in range(200)])
    for k in range(8):
        path = tmp_path / f"downloads/afhqv2/train/{'cat' if k % 2 else 'dog'}/{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    torch.jit.script(Tiny(0)).save(str(tmp_path / "tiny.pt"))
    return tmp_path


def demo_images(folder: Path) -> None:
    """What `make demo-images` leaves, by a network that has learned nothing."""
    data = folder / "out/demo-images/digits-8x8.zip"
    data.parent.mkdir(parents=True)
    good(dataset_tool.main, "--source=digits", f"--dest={data}", "--no-plot")
    network = untrained(folder / "digits.pkl", data, keep=64)
    made = folder / "out/demo-images/generated-PRP"
    good(gen_fid_samples.main, f"--network={network}", f"--save_dir={made}", "--seeds=0-19")


def run_all(place: Path, text: str, name: str) -> None:
    """Everything of a document that is to be pasted, its Python too."""
    for line in shell_lines(text):
        if (quick := quickened(line)) is not None:
            run(place, quick)
    for k, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.S)):
        path = place / f"{Path(name).stem}_{k}.py"
        given = "import numpy as np\nx = np.random.standard_normal((10, 2))\n"
        path.write_text(given + code)
        run(place, f"python {path.name}")


def test_the_readme_from_its_first_line_to_its_last(place):
    run_all(place, TEXTS["README.md"], "README.md")
    pictures = {p.relative_to(place).parts[1] for p in place.glob("out/**/*.png")}
    assert pictures >= {"wine", "circles", "wine-flow", "imputed", "cifar10", "cifar10-flow"}
    assert (place / "out/report.html").exists()


def in_menu_order() -> list[str]:
    """The pages on scripts, as the menu of the site has them."""
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    parts = [part for part in menu if isinstance(part, dict)]
    pages = [page for part in parts for under in part.values() for page in under]
    return [p for p in pages if p.startswith("scripts/") or p == "python.md"]


def test_the_pages_from_the_first_to_the_last(place):
    """In the order of the menu, each on what those before it made."""
    demo_images(place)
    pages = in_menu_order()
    assert set(pages) >= {name for name in TEXTS if name.startswith("scripts/")}
    for page in pages:
        run_all(place, TEXTS[page], page)
    pictures = {p.relative_to(place).parts[0] for p in place.rglob("*.png")}
    assert pictures >= {"out", "mcmc-tmp", "mcmc-sbc", "mcmc-tarp", "toy_mesh_exps-tmp"}
    assert len(list(place.glob("net_outputs-tmp/*_time*.npz"))) == 4
    assert list(place.glob("nll-tmp/*.json"))
    assert list(place.glob("mse-tmp/*_Roundtrip_MSE_42seed_*.json"))


# What other documents take for granted: lines of those pages, in that order.
BEFORE = {
    "faq.md": (r"toy_train.*--data_name=circles.*keep=2", "mkdir", "cp .*circles", "wine"),
    "inference.md": (),
    "scaling.md": (
        "dataset_tool.*cifar10", "mkdir", "train.*--rho=2", "cp .*cifar10", "fid.py ref"
    ),
}  # fmt: skip
OTHERS = [n for n in TEXTS if n != "README.md" and n not in in_menu_order()]


@pytest.mark.parametrize("document", OTHERS)
def test_the_other_documents(document, place):
    lines = [line for page in in_menu_order() for line in shell_lines(TEXTS[page])]
    before = [next(x for x in lines if re.search(p, x)) for p in BEFORE.get(document, ())]
    if document == "scaling.md":  # its networks/network.pkl is of images
        before.append("cp networks/images.pkl networks/network.pkl")
    for line in [*before, *shell_lines(TEXTS[document])]:
        quick = quickened(line)
        if quick is not None:
            run(place, quick)
