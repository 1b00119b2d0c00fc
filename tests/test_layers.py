"""The house: imports only go down, without circles, in folders that one can survey."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import ROOT

# Lowest first; folders of one layer may import each other. Scripts are the highest: those at the
# root, and what `python -m PACKAGE` runs.
LAYERS = (("dnnlib",), ("torch_utils",), ("training",), ("flow", "metrics"), ("experiments",))
PACKAGES = tuple(name for layer in LAYERS for name in layer)
KNOWN: dict[str, set[str]] = {}


def level(module: str) -> int:
    """Number of a module's layer, from 0."""
    if module.endswith(".__main__"):
        return len(LAYERS)
    top = module.split(".")[0]
    return next((i for i, layer in enumerate(LAYERS) if top in layer), len(LAYERS))


def name_of(path: Path) -> str:
    """The module that a file is: a/b.py is a.b, a/__init__.py is a."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    """Every product module, parsed."""
    files = [*ROOT.glob("*.py"), *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))]
    return {name_of(p): ast.parse(p.read_text()) for p in files}


def names(node: ast.AST, module: str) -> list[str]:
    """What an import statement names: modules, and perhaps things in them."""
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    if isinstance(node, ast.ImportFrom):
        above = module.split(".")[: -node.level] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{base}.{a.name}" for a in node.names]
    return []


@cache
def imports() -> frozenset[tuple[str, str]]:
    """(importer, imported) among the modules, imports within functions too."""
    pairs = {
        (module, name if name in modules() else name.rpartition(".")[0])
        for module, tree in modules().items()
        for node in ast.walk(tree)
        for name in names(node, module)
    }
    return frozenset((a, b) for a, b in pairs if b in modules() and a != b)


def reached(start: str) -> set[str]:
    """Modules that a module imports, those that these import, and so on."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        new = {b for a, b in imports() if a == module} - seen
        seen |= new
        todo += new
    return seen


def upward() -> set[str]:
    return {f"{a} -> {b}" for a, b in imports() if level(a) < level(b)}


def circles() -> set[str]:
    """Each group of modules that all reach each other."""
    reach = {module: reached(module) for module in modules()}
    turning = [a for a in reach if a in reach[a]]
    return {" ".join(sorted(b for b in reach[a] if a in reach[b])) for a in turning}


def scripts_of_scripts() -> set[str]:
    return {f"{a} -> {b}" for a, b in imports() if level(a) == level(b) == len(LAYERS)}


def outside() -> set[str]:
    return {
        f"{module} -> {name.split('.')[0]}"
        for module, tree in modules().items()
        for node in ast.walk(tree)
        for name in names(node, module)
        if name.split(".")[0] in ("benchmarks", "tests")
    }


def missing() -> set[str]:
    return {
        f"{module} -> {name}"
        for module, tree in modules().items()
        for node in ast.walk(tree)
        for name in names(node, module)
        if name.split(".")[0] in PACKAGES and not {name, name.rpartition(".")[0]} & modules().keys()
    }


def crowded() -> set[str]:
    folders = [ROOT, *(p for n in PACKAGES for p in (ROOT / n, *(ROOT / n).rglob("*/")))]
    return {
        str(p.relative_to(ROOT))
        for p in folders
        if len([f for f in p.glob("*.py") if f.name != "__init__.py"]) > 20
    }


RULES = {
    "imports that go up": upward,
    "circles": circles,
    "scripts that import scripts": scripts_of_scripts,
    "product that imports benchmarks or tests": outside,
    "imports of what is not there": missing,
    "folders of more than 20 modules": crowded,
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule):
    found, known = RULES[rule](), KNOWN.get(rule, set())
    assert not found - known, f"new {rule}"
    assert not known - found, f"mended {rule}: take them out of KNOWN"
