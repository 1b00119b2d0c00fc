"""Sections of a report to one page of HTML that loads nothing and trusts nothing in it."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from experiments.report.files import text
from experiments.report.pictures import embed
from experiments.report.sections import Section

HERE = Path(__file__).parent
MAX_DETAIL = 100_000  # characters of what unfolds


def page(
    sections: Sequence[Section],
    title: str,
    roots: Sequence[Path],
    problems: Sequence[str],
    max_bytes: int,
) -> tuple[str, int, list[str]]:
    """The whole page, of sections by chapter, within so many bytes.

    Returns:
        HTML; how many pictures were left out; all sentences about what could not be used.

    Raises:
        ValueError: if the page is too large without any picture.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    environment.filters |= {"date": _date, "said": text, "plain": _plain}
    css = (HERE / "style.css").read_text()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    render = functools.partial(
        environment.get_template("page.html").render,
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        css=Markup(css),
        title=title,
        roots=[str(r) for r in roots],
        sections=sections,
        newest=max(s.date for s in sections),
        max_mb=f"{max_bytes / 1e6:g}",
    )
    shown = [p for s in sections for p in s.pictures]
    bare = len(render(problems=problems, pictures={}, left_out=0).encode())
    room = max_bytes - bare - 1000 * len(shown) - 1000
    if room < 0:
        raise ValueError(
            f"the page has {bare / 1e6:.1f} MB without its pictures: raise --max-mb, or name "
            "fewer folders"
        )
    pictures, more = embed(shown, room)
    left_out = sum(p.data is None for p in pictures.values())
    told = [*problems, *more]
    return render(problems=told, pictures=pictures, left_out=left_out), left_out, told


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _plain(value: Any) -> str:
    """What unfolds: text as it is, values one a line."""
    if not isinstance(value, str):
        value = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return value if len(value) <= MAX_DETAIL else value[:MAX_DETAIL] + "\n… (cut here)"
