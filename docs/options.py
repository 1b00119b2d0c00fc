"""Lists of options in the pages of docs/, made from --help.

    python -m docs.options            # write them
    python -m docs.options --check    # name the pages that differ, exit code 1

A page says which options matter: <!-- options: fid.py calc --images --ref --> ... <!-- end -->. On
the site (`make docs`) its page also ends with every option, as --help prints them.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for mkdocs, which loads this file as a hook
MARK = re.compile(r"(<!-- options: ([^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def context(words: list[str]) -> click.Context:
    """What click knows of a command, such as ["fid.py", "calc"]."""
    script, *rest = words
    name = script.removesuffix(".py").replace("/", ".")
    command: click.Command = importlib.import_module(name).main
    how: dict[str, Any] = {"terminal_width": 96, "show_default": True}
    found = click.Context(command, info_name=script, **how)
    for word in rest:
        assert isinstance(command, click.Group), script
        command = command.commands[word]
        found = click.Context(command, found, word, **how)
    return found


def listed(words: list[str]) -> str:
    """The options of a marker, in its order, as --help has them.

    Raises:
        KeyError: for an option that the command does not have.
    """
    names = [w for w in words if w.startswith("--")]
    where = context([w for w in words if not w.startswith("--")])
    options = {o: p for p in where.command.params for o in p.opts}
    lines = []
    for name in names:
        record: Any = options[name].get_help_record(where)
        left, right = (" ".join(str(part).split()) for part in record)
        lines.append(f"- `{left}`: {right}")
    return "\n".join(lines)


def written(text: str) -> str:
    """A page with its lists."""
    return MARK.sub(lambda m: f"{m[1]}{listed(m[2].split())}\n{m[3]}", text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Hook of mkdocs: every option of the commands that a page is about, at its end."""
    commands = [
        [w for w in m[2].split() if not w.startswith("--")] for m in MARK.finditer(markdown)
    ]
    parts = [f"`{' '.join(c)} --help`\n\n```text\n{context(c).get_help()}\n```" for c in commands]
    return markdown + ("\n\n## Every option\n\n" + "\n\n".join(parts) if parts else "")


def main() -> None:
    """Write the lists, or compare."""
    check, differ = "--check" in sys.argv[1:], []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        new = written(text)
        if new != text:
            differ.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    print("\n".join(differ) or "all as --help has it")
    sys.exit(1 if check and differ else 0)


if __name__ == "__main__":
    main()
