"""One self-contained HTML page from folders of results: curves, pictures, tables, options."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.util import atomic_path
from experiments.report.page import page
from experiments.report.sections import collect

EXAMPLE = """
python report.py out --dest=out/report.html --title="Circles"
"""


@cli.command(EXAMPLE)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path())
@click.option("--dest", type=click.Path(), default="report.html", help="page to write")
@click.option("--title", default="Inflationary flows: results", help="its heading")
@click.option(
    "--max-mb",
    type=click.FloatRange(min=0.1),
    default=30.0,
    help="size that the page may have, MB; the largest pictures are left out first",
)
@cli.boolean("-n", "--dry-run", help="print what would be shown and stop")
def main(folders: tuple[str, ...], dest: str, title: str, max_mb: float, dry_run: bool) -> None:
    """Show the results in FOLDERs, and in the folders in them, on one page.

    Training runs, result files and pictures are shown: figures beside their yardsticks, tables,
    what ran, all options. The page loads nothing and runs nothing when it is opened.
    """
    roots = [Path(f) for f in folders]
    for root in roots:
        if not root.is_dir():
            what = "a file, not a folder" if root.exists() else "not there"
            raise UserError(f"FOLDER={root} is {what}; name a folder that a script wrote to")
    target = Path(dest)
    if target.is_dir():
        raise UserError(f"--dest={dest} is a folder; name a file such as {target / 'report.html'}")
    cli.check_writable(target.parent, "--dest")
    with cli.user_errors("FOLDER"):
        sections, problems = collect(roots)
    counts = Counter(s.envelope["kind"] for s in sections)
    print("; ".join(f"{kind}: {n}" for kind, n in counts.items()))
    if dry_run:
        return
    with cli.user_errors():
        html, left_out, problems = page(sections, title, roots, problems, round(max_mb * 1e6))
    with atomic_path(target) as temporary:
        temporary.write_bytes(html.encode())
    for problem in problems:
        print(f"Warning: {problem}")
    if left_out:
        print(f"Warning: {left_out} pictures were left out to stay within --max-mb={max_mb:g}")
    print(f"Report: {target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
