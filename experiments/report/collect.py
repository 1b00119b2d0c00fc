"""Finding what the scripts wrote: result folders to sections of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.report.entry import KINDS, Entry
from experiments.report.files import Folder, folders
from experiments.report.readers import READERS


def collect(roots: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """Everything that can be shown of folders and the folders in them.

    Args:
        roots: as the user named them.

    Returns:
        sections, by chapter, in the order of the roots and then of names; and sentences about files
        that could not be used.

    Raises:
        ValueError: naming a folder that holds no results.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for root in roots:
        here: list[Entry] = []
        found = [f for f in folders(root, str(root)) if f.path.resolve() not in seen]
        for folder in found:
            seen.add(folder.path.resolve())
            here += read_folder(folder, READERS)
            problems += folder.problems
        if found and not here:
            why = "".join(f"; {p}" for folder in found for p in folder.problems[:1])
            raise ValueError(
                f"{root} holds no results that a report knows: name a run folder, or a folder "
                f"that one of the scripts wrote to{why}"
            )
        entries += here
    entries.sort(key=lambda e: KINDS.index(e.kind))  # stable: roots and names keep their order
    _tell_apart(entries)
    shown: set[Path] = set()
    for entry in entries:
        if entry.folder is not None:
            _leave_to_runs(entry, seen)
        entry.pictures = [p for p in entry.pictures if p[0].resolve() not in shown]
        shown |= {p.resolve() for p, _ in entry.pictures}
    return [e for e in entries if e.pictures or e.kind != "Other pictures"], problems


def _leave_to_runs(table: Entry, seen: set[Path]) -> None:
    """Take the pictures of runs that have a section of their own out of a table's."""
    own = [p for p in table.pictures if p[0].parent == table.folder or p[0].parent not in seen]
    if len(own) < len(table.pictures):
        table.facts.append(("pictures", "with the runs, below"))
    table.pictures = own


def _tell_apart(entries: Sequence[Entry]) -> None:
    """Add the folder to titles that occur more than once in a chapter, with as many of the folders
    above it as tell them apart.
    """
    alike: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        alike.setdefault((entry.kind, entry.title), []).append(entry)
    for group in alike.values():
        if len(group) == 1:
            continue
        parents = [Path(entry.source).parent for entry in group]
        deepest = max(len(parent.parts) for parent in parents)
        depth = next(
            (n for n in range(1, deepest) if len({p.parts[-n:] for p in parents}) == len(group)), 1
        )
        for entry, parent in zip(group, parents, strict=True):
            entry.title += f" in {Path(*parent.parts[-depth:]) if parent.parts else parent}"


def read_folder(
    folder: Folder, readers: Sequence[Callable[[Folder], Iterator[Entry]]]
) -> list[Entry]:
    """Sections of the files that lie in one folder itself."""
    return [entry for reader in readers for entry in reader(folder)]
