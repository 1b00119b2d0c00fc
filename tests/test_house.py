"""The house itself: one list of dependencies, one licence, commands that exist."""

import re
import tomllib

import pytest
import yaml

from tests.helpers import ROOT

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
    files = [p for p in ROOT.rglob("*.*") if not {".venv", "out"} & set(p.parts)]
    assert named <= {p.name for p in files}


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    wanted = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= wanted <= targets
