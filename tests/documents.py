"""The commands in README and docs, as a reader would copy them."""

from __future__ import annotations

import re

from tests.helpers import ROOT

DOCS = ROOT / "docs"
TEXTS = {"README.md": (ROOT / "README.md").read_text()}  # and docs/, by path there
TEXTS |= {p.relative_to(DOCS).as_posix(): p.read_text() for p in sorted(DOCS.rglob("*.md"))}
PREFIX = r"(?:OMP_NUM_THREADS=1 )?(?:srun )?"
PROGRAM = r"(?:python|torchrun) "


def joined(text: str) -> list[str]:
    """Lines of a text, those that a backslash continues in one."""
    return re.sub(r" \\\n\s+", " ", text).splitlines()


def commands(text: str) -> list[str]:
    """Commands on lines of their own, in order, without PREFIX; then those within `...`."""
    line = rf"\s*{PREFIX}({PROGRAM}.*)"
    found = [m[1].strip() for x in joined(text) if (m := re.fullmatch(line, x))]
    return [*found, *re.findall(r"`(python -m [^`]+)`", text)]


def shell_lines(text: str) -> list[str]:
    """What one would paste into a shell from indented blocks, in order: our commands, mkdir, cp."""
    start = re.compile(rf"    (?:{PREFIX}{PROGRAM}|mkdir |cp )")
    return [x.strip() for x in joined(text) if start.match(x)]
