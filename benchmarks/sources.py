"""Which committed tables are older than the code that they measured.

A table names the digest of the files that its benchmark imports or runs, and what these import:
all but dnnlib (command lines, files, pictures), and but docstrings, comments and empty lines.

    python -m benchmarks.sources    # write the state of all tables into docs/benchmarks.md
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
MARK = re.compile(r"(<!-- tables -->\n).*?(<!-- end -->)", re.DOTALL)
MEASURED = ("torch_utils", "training", "flow", "metrics", "experiments", "benchmarks")
APART = {"benchmarks.sources", "benchmarks.common", "benchmarks.__main__"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
WHOLE = {"bench": "__main__", "cifar10_fid_smoke": "cifar10_fid"}  # tables of modules not so named


@cache
def named(path: Path) -> frozenset[Path]:
    """Files of this tree that a file imports, or names as a script to be run."""
    return frozenset(
        found for name in _names(ast.parse(path.read_text())) if (found := _file(name))
    )


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"\w+\.py", str(node.value)):
            yield str(node.value).removesuffix(".py")


def _file(module: str) -> Path | None:
    top = module.split(".")[0]
    if module in APART or (top not in MEASURED and "." in module):
        return None
    path = ROOT / module.replace(".", "/")
    found = (p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file())
    return next(found, None)


def digest(benchmark: str) -> str:
    """Of the files that a benchmark, a module of this folder, depends on; 12 digits."""
    if benchmark == "__main__":  # all that `make bench` runs
        from benchmarks.__main__ import BENCHMARKS

        start = [ROOT / "benchmarks" / f"{name}.py" for name in BENCHMARKS]
    else:
        start = [ROOT / "benchmarks" / f"{benchmark}.py"]
    files: set[Path] = set()
    todo = start
    while todo:
        files |= set(todo)
        todo = [p for path in todo for p in named(path) if p not in files]
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update("\n".join([str(path.relative_to(ROOT)), *_code(path), ""]).encode())
    return whole.hexdigest()[:12]


@cache
def _code(path: Path) -> list[str]:
    """Lines of a file without docstrings, comments and empty lines."""
    text = path.read_text()
    said: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            said |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = (line.rstrip() for n, line in enumerate(text.splitlines(), 1) if n not in said)
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def stale() -> dict[str, str]:
    """Names of the committed tables that are not of today's code -> why."""
    found = {}
    for path in sorted(RESULTS.glob("*.txt")):
        head = "\n".join(path.read_text().splitlines()[:4])
        stated = re.search(r"^sources ([0-9a-f]{12})$", head, re.M)
        if stated is None:
            found[path.stem] = "made before tables named their sources"
        elif stated[1] != digest(WHOLE.get(path.stem, path.stem)):
            found[path.stem] = f"of sources {stated[1]}"
    return found


def listed() -> str:
    """The tables, as a page has them: what, when and where measured, whether stale."""
    old, lines = stale(), ["| table | measured | state |", "|---|---|---|"]
    for path in sorted(RESULTS.glob("*.txt")):
        title, when = path.read_text().splitlines()[:2]
        state = f"**stale**: {old[path.stem]}" if path.stem in old else "of this code"
        lines.append(f"| `{path.stem}.txt`: {title} | {when} | {state} |")
    return "\n".join(lines)


def main() -> None:
    """Write the list."""
    text = MARK.sub(lambda m: f"{m[1]}{listed()}\n{m[2]}", PAGE.read_text())
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
