"""Sections of a report to one page of HTML that loads nothing and trusts nothing in it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from experiments.report.chart import drawing
from experiments.report.entry import Entry, Table, number, text
from experiments.report.pictures import Embedded, embed
from experiments.report.style import CSS, SCRIPT

MAX_DETAIL = 100_000  # characters of what unfolds
# A number as text: -1.5e-3, 12.65 ± .07, 1,000 (a remark), 95%
FIGURE = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?%?( ?(±|\+-) ?[\d.,]+)?( \(.*\))?")
TIGHT, WIDE = 22, 40  # characters of a value: up to the first it stays on one line, above the
# second it has a line of its own
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<header>
<h1>{{ title }}</h1>
<p class="soft">{{ entries | length }} results from {{ roots | join(", ") }}; the newest file is of
{{ newest | date }}.</p>
</header>
{{ notes(problems) }}
<nav aria-label="Contents"><div class="box"><table class="contents">
<thead><tr><th>Result</th><th>In short</th><th>Written</th></tr></thead><tbody>
{% for kind, members in chapters %}
<tr><th colspan="3" scope="rowgroup"><a href="#k{{ loop.index }}">{{ kind }}</a></th></tr>
{% for id, e in members %}
<tr><td><a href="#{{ id }}">{{ e.title }}</a></td><td>{{ e.headline }}</td>
<td class="soft day">{{ (e.date | date)[:10] }}</td></tr>
{% endfor %}{% endfor %}
</tbody></table></div></nav>
{% for kind, members in chapters %}
<section><h2 id="k{{ loop.index }}">{{ kind }}</h2>
{% for id, e in members %}
<article id="{{ id }}">
<h3>{{ e.title }}</h3>
<p class="soft">{{ e.source }}, {{ e.date | date }}</p>
{{ notes(e.notes) }}
{% for t in e.tables %}{{ table(t) }}{% endfor %}
<div class="beside">
{% for c in e.curves %}{{ chart(c | drawing) }}{% endfor %}
{% if e.facts %}<dl class="facts">{% for name, value in e.facts %}
<div class="{{ value | breadth }}"><dt>{{ name }}</dt>
<dd>{{ value | said }}</dd></div>{% endfor %}</dl>{% endif %}
</div>
{% if e.pictures %}<div class="pictures">{% for path, caption in e.pictures %}
{{ picture(pictures.get(path), caption) }}{% endfor %}</div>{% endif %}
{% for name, value in e.details.items() %}
<details{% if e.kind == "Benchmarks" %} open{% endif %}><summary>{{ name }}</summary>
<pre tabindex="0">{{ value | plain }}</pre></details>
{% endfor %}
</article>
{% endfor %}</section>
{% endfor %}
<footer><p>{{ embedded }} pictures inside{% if left_out %}, {{ left_out }} left out{% endif %};
the page is kept within {{ max_mb }} MB (--max-mb). Made by <code>report.py</code>; this page
loads nothing from elsewhere.</p></footer>
</main>
<script>{{ script }}</script>
</body>
</html>
"""
MACROS = """
{% macro notes(lines) %}
{% if lines %}<div class="notes">{% for n in lines %}<p>{{ n }}</p>{% endfor %}</div>
{% endif %}{% endmacro %}
{% macro table(t) %}
<div class="box"><table>{% if t.caption %}<caption>{{ t.caption }}</caption>{% endif %}
<thead><tr>{% for c in t.columns %}<th{{ t | align(loop.index0) }}>{{ c }}</th>{% endfor %}</tr>
</thead>
<tbody>{% for row in t.rows %}<tr>{% for v in row %}
<td{{ t | align(loop.index0) }}>{{ v | said }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
{% endmacro %}
{% macro picture(p, caption) %}{% if p %}<figure{% if p.width <= 720 %} class="half"{% endif %}>
{% if p.data %}<img src="{{ p.data }}" width="{{ p.width + 10 }}" height="{{ p.height + 10 }}"
alt="{{ caption }}">{% else %}<p class="soft">{{ p.name }} is left out: {{ p.bytes | size }}</p>
{% endif %}<figcaption>{{ caption }}</figcaption></figure>{% endif %}{% endmacro %}
{% macro chart(c) %}
<div class="plotted"><h4>{{ c.title }}</h4><div class="chart">
<svg class="plot" viewBox="0 0 {{ c.width }} {{ c.height }}" role="img" tabindex="0"
aria-label="{{ c.title }}: {{ c.summary }}" data-x="{{ c.positions }}" data-said="{{ c.said }}">
{% set x0, y0, x1, y1 = c.frame %}
{% for y, label in c.yticks %}
<line class="grid" x1="{{ x0 }}" x2="{{ x1 }}" y1="{{ y }}" y2="{{ y }}"/>
<text x="{{ x0 - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ label }}</text>{% endfor %}
{% for x, label in c.xticks %}
<line class="grid" x1="{{ x }}" x2="{{ x }}" y1="{{ y0 }}" y2="{{ y1 }}"/>
<text x="{{ x }}" y="{{ y1 + 18 }}" text-anchor="middle">{{ label }}</text>{% endfor %}
<text x="{{ (x0 + x1) / 2 }}" y="{{ c.height - 6 }}" text-anchor="middle">{{ c.labels[0] }}</text>
<line class="cursor" x1="0" x2="0" y1="{{ y0 }}" y2="{{ y1 }}"/>
{% for l in c.lines %}<polyline class="{{ l.style }}" points="{{ l.points }}"/>{% endfor %}
</svg>
<div class="legend"><span>{{ c.labels[1] }}:</span>{% for l in c.lines %}
<span><svg viewBox="0 0 24 8"
aria-hidden="true"><line class="{{ l.style }}" x1="0" x2="24" y1="4" y2="4" stroke-width="3"/></svg>
{{ l.name }}</span>{% endfor %}</div>
<div class="readout" aria-live="polite"></div></div></div>
{% endmacro %}
"""


def page(
    entries: Sequence[Entry],
    title: str,
    roots: Sequence[Path],
    problems: Sequence[str],
    max_bytes: int,
) -> tuple[str, int, list[str]]:
    """The whole page.

    Args:
        entries: its sections, by chapter.
        title: heading.
        roots: folders that they were read from, as named.
        problems: sentences about what could not be used.
        max_bytes: size that the page may have.

    Returns:
        HTML; how many pictures were left out; all problems.

    Raises:
        ValueError: if the page is too large without any picture.
    """
    shown = [p for e in entries for p in e.pictures]
    bare = _render(entries, title, roots, problems, {}, 0, max_bytes)
    room = max_bytes - len(bare.encode()) - 1000 * len(shown) - 1000
    if room < 0:
        raise ValueError(
            f"the page has {len(bare.encode()) / 1e6:.1f} MB without its pictures: raise "
            "--max-mb, or name fewer folders"
        )
    pictures, more = embed(shown, room)
    left_out = sum(p.data is None for p in pictures.values())
    told = [*problems, *more]
    return _render(entries, title, roots, told, pictures, left_out, max_bytes), left_out, told


def _render(
    entries: Sequence[Entry],
    title: str,
    roots: Sequence[Path],
    problems: Sequence[str],
    pictures: dict[Path, Embedded],
    left_out: int,
    max_bytes: int,
) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "date": _date, "said": text, "plain": _plain, "align": _align, "size": _size,
        "breadth": _breadth, "drawing": drawing,
    }  # fmt: skip
    numbered = [(f"r{k}", e) for k, e in enumerate(entries, 1)]
    chapters = [(k, list(g)) for k, g in itertools.groupby(numbered, key=lambda m: m[1].kind)]
    return (
        environment.from_string(MACROS + PAGE)
        .render(
            policy=f"default-src 'none'; img-src data:; style-src {_digest(CSS)}; "
            f"script-src {_digest(SCRIPT)}; base-uri 'none'; form-action 'none'",
            css=Markup(CSS),
            script=Markup(SCRIPT),
            title=title,
            roots=[str(r) for r in roots],
            entries=entries,
            newest=max(e.date for e in entries),
            chapters=chapters,
            problems=problems,
            pictures=pictures,
            embedded=sum(p.data is not None for p in pictures.values()),
            left_out=left_out,
            max_mb=f"{max_bytes / 1e6:g}",
        )
        .lstrip()
    )


def _digest(content: str) -> str:
    """How a policy names the one script, or style, that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _breadth(value: Any) -> str:
    """How much room a value needs beside its name."""
    length = len(text(value))
    return "tight" if length <= TIGHT else "wide" if length > WIDE else ""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _plain(value: Any) -> str:
    """What unfolds: text as it is, values one a line."""
    if isinstance(value, dict):
        value = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return value if len(value) <= MAX_DETAIL else value[:MAX_DETAIL] + "\n… (cut here)"


def _align(table: Table, column: int) -> Markup:
    """The class of a column: "num" where all values are numbers, "long" where one needs room."""
    cells = [row[column] for row in table.rows if column < len(row) and row[column] is not None]
    numeric = [c for c in cells if number(c) is not None or FIGURE.fullmatch(str(c))]
    if cells and len(numeric) == len(cells):
        return Markup(' class="num"')
    longest = max((len(text(c)) for c in cells), default=0)
    return Markup(' class="long"') if longest > TIGHT else Markup("")
