"""One self-contained HTML page from folders of results: curves, pictures, tables, options."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import click

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.util import atomic_path
from experiments.report.collect import collect
from experiments.report.page import page

EXAMPLE = """
python report.py out --dest=out/report.html --title="Circles"
"""


@cli.command(EXAMPLE)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path())
@click.option("--dest", type=click.Path(), default="report.html", help="page to write")
@click.option("--title", default="Inflationary flows: results", help="its heading")
@click.option(
    "--max-mb",
    "max_mb",
    type=click.FloatRange(min=0.1),
    default=30.0,
    help="size that the page may have, MB; the largest pictures are left out first",
)
@cli.dry_run_option
def main(
    folders: tuple[str, ...], dest: str, title: str, max_mb: float, dry_run: bool
) -> None:  # fmt: skip
    """Show the results in FOLDERs, and in the folders in them, on one page.

    Training runs, simulations, coverage, posteriors, calibration, likelihood, sample quality,
    round-trip errors, residual correlations and the tables of reproduce.py are recognised; other
    results and pictures are shown as they are. The page loads nothing when it is opened, and runs
    nothing that came from a folder.
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
        entries, problems = collect(roots)
    counts = Counter(e.kind for e in entries)
    print("; ".join(f"{kind}: {n}" for kind, n in counts.items()))
    if dry_run:
        return
    with cli.user_errors():
        html, left_out, problems = page(entries, title, roots, problems, round(max_mb * 1e6))
    with atomic_path(target) as temporary:
        temporary.write_bytes(html.encode())
    for problem in problems:
        print(f"Warning: {problem}")
    if left_out:
        print(f"Warning: {left_out} pictures were left out to stay within --max-mb={max_mb:g}")
    print(f"Report: {target} ({os.path.getsize(target) / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
