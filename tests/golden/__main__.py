"""Runs real commands in a checkout and compares what two checkouts leave, to the bit.

python -m tests.golden run --checkout=../old --out=old.json
python -m tests.golden run --checkout=. --out=new.json
python -m tests.golden compare old.json new.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.golden.commands import COMMANDS, QUICK
from tests.golden.digest import Digests, differences, of_folders, rounded
from tests.golden.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run the commands; writes FILE.json and FILE.npz")
    runs.add_argument("--checkout", type=Path, default=Path(), help="tree whose scripts are run")
    runs.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    runs.add_argument("--quick", action="store_true", help="only those of `make test`")
    runs.add_argument("--only", metavar="NAME,...", help="only these, and what they need")
    runs.add_argument("--keep", type=Path, metavar="FOLDER", help="new, where their files stay")
    runs.add_argument("--rounded", action="store_true", help="for other machines, without bits")
    both = commands.add_parser(
        "compare", help="print every difference; exit code 1 if there is one"
    )
    both.add_argument("files", type=Path, nargs=2, metavar="FILE.json")
    options = parser.parse_args()
    if options.command == "compare":
        return compare(*options.files)
    names = options.only.split(",") if options.only else QUICK if options.quick else COMMANDS
    if unknown := set(names) - set(COMMANDS):
        runs.error(f"--only: no command {' '.join(unknown)}, there are {' '.join(COMMANDS)}")
    checkout = options.checkout.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.keep or Path(scratch) / "work").resolve()
        codes = run(checkout, work, names)
        folders = {name: work / name for name in codes}
        digests, arrays = of_folders(folders, {str(work): "WORK", str(checkout): "TREE"})
        failed = {name: code for name, code in codes.items() if code}
        for name, code in failed.items():
            digests[f"{name}: exit code"] = code
            print(f"{name}: exit code {code}\n{(work / f'{name}.log').read_text()[-2000:]}")
    if options.rounded:
        digests = rounded(digests)
    else:
        np.savez(options.out.with_suffix(".npz"), **arrays)
    write(options.out, digests)
    print(f"{len(digests)} arrays and numbers: {options.out}")
    return int(bool(failed))


def write(path: Path, digests: Digests) -> None:
    """One entry a line, so that a commit shows what changed."""
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(digests.items()))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def compare(one: Path, two: Path) -> int:
    a, b = (json.loads(p.read_text()) for p in (one, two))
    arrays = [np.load(p) if p.exists() else {} for p in (x.with_suffix(".npz") for x in (one, two))]
    lines = differences(a, b, *arrays)
    print(*lines, f"{len(a.keys() | b.keys())} arrays and numbers, {len(lines)} differ", sep="\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
