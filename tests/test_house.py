"""The house itself: one list of dependencies, one licence, commands that exist."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT

FILES = [
    p
    for top in ROOT.iterdir()
    if top.name not in {".venv", ".git", "out"}
    for p in (top.rglob("*.*") if top.is_dir() else [top])
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_environment_repeats_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["experiments"] + extras["fid"]
    plain = [p for p in pip if not p.startswith(("-c", "git+"))]
    assert sorted(plain) == sorted(wanted)
    assert "-c constraints.txt" in pip
    assert [p for p in pip if p.startswith("git+")] == [
        "git+https://github.com/AdamCobb/hamiltorch.git"
    ]
    assert any(d == "python=3.11" for d in environment["dependencies"])


def test_dockerfile_repeats_pyproject():
    text = (ROOT / "Dockerfile").read_text()
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["experiments"] + extras["fid"]
    least = next(p.removeprefix("torch>=") for p in wanted if p.startswith("torch>="))
    assert sorted(re.findall(r'"([a-z0-9-]+[>=]=[\d.]+)"', text)) == sorted(
        p for p in wanted if p != f"torch>={least}"
    )
    (base,) = re.findall(r"^FROM pytorch/pytorch:([\d.]+)-cuda", text, re.M)
    assert [int(k) for k in base.split(".")] >= [int(k) for k in least.split(".")]


def test_constraints_pin_torch():
    assert (ROOT / "constraints.txt").read_text().split() == ["torch==2.13.0"]


def test_licence_is_said_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert citation["version"] == PROJECT["project"]["version"]


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_documents_name_files_that_exist(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(r"\b[\w-]+\.(?:py|md|toml|yml|txt)\b", text))
    assert named
    assert named <= {p.name for p in FILES}


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    wanted = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= wanted <= targets


def test_what_the_type_checker_overlooks_says_why():
    ignored = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in FILES
        if path.suffix == ".py" and path != Path(__file__)
        for line in path.read_text().splitlines()
        if re.search(r"# type: ignore(\[[^]]*\])?(?!.*# \w)", line)
    ]
    assert not ignored
