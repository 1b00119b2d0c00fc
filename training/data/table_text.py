"""Text tables as people have them: encoding, separator, header and cells, told from evidence.

Python's csv splits the lines: `pandas.read_csv` pads short rows and shifts long ones silently.
Where the evidence allows two readings there is an `Ambiguous` error, which names the options.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.data.table_header import (
    INTEGER,
    Ambiguous,
    is_missing,
    is_number,
    is_text,
    judge,
)

SAMPLE = 500  # lines that separator and header are told from
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", " ": "spaces"}
REMARK = re.compile(r"#(?!\s*([,;|\t]|$))")
ALONE = "\x1f"  # separates nothing: a table of one column


@dataclass
class Cells:
    """The cells of a text table.

    Attributes:
        names: of the columns; "0", "1", ... without a header, "" for a cell that was empty.
        header: whether the names are the file's.
        rows: cells, stripped, [rows][columns].
        notes: what was found that a plain table of commas has not.
    """

    names: list[str]
    header: bool
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def read_cells(
    path: Path, header: bool | None, decimal: str | None, prior: bool | None = None
) -> Cells:
    """Split a text table into cells.

    Args:
        path: of the file.
        header: whether it has a header line; None to judge.
        decimal: "." or ","; None to judge.
        prior: what `header` is where the evidence allows both; None to refuse.

    Raises:
        ValueError: what is wrong with it, without its name.
    """
    text, notes = _decode(path.read_bytes())
    lines = [line for line in text.split("\n") if line.strip()]
    separator = None
    if lines and (told := re.fullmatch(r'"?sep=([;,|: ]|\t?)"?', lines[0])):
        separator, lines = told[1] or "\t", lines[1:]
    remarks = list(itertools.takewhile(REMARK.match, lines))
    lines = lines[len(remarks) :]
    if not lines:
        raise ValueError("holds no rows of numbers")
    separator = separator or _separator(lines, header, decimal)
    rows = [row for row in _split(lines, separator) if any(row)]
    if remarks and header is None and not any(map(is_text, rows[0])):
        names = _split([remarks[-1].lstrip("# ")], separator)[0]
        if len(names) == len(rows[0]) and all(map(is_text, names)):  # as numpy.savetxt writes
            remarks, rows, header = remarks[:-1], [names, *rows], True
    if remarks:
        notes.append(f"{len(remarks)} lines of remarks (#) left out")
    if separator not in (",", ALONE):
        notes.append(f"separated by {SEPARATORS.get(separator, repr(separator))}")
    first, body = _even(rows, separator, header)
    if header is None:
        below = "".join(lines[1:2]).count('"')
        named = lines[0].count('"') >= 2 * sum(map(bool, first)) > below
        header = named or judge(first, body[: min(SAMPLE, max(20, 10**5 // len(first)))], prior)
    if header and not body:
        raise ValueError("holds no rows of numbers")
    if header:
        return Cells([name.strip("'") for name in first], True, body, notes)
    return Cells([str(j) for j in range(len(first))], False, [first, *body], notes)


def _decode(raw: bytes) -> tuple[str, list[str]]:
    """Text of a file with lines ended by \\n, and a note on an encoding other than UTF-8."""
    encodings = ["utf-8-sig", "cp1252", "latin-1"]
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ["utf-16"]
    elif b"\0" in raw[:1000]:
        encodings = ["utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
            break
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2212", "-")
        return text, [] if encoding == "utf-8-sig" else [f"encoded in {encoding}"]
    raise ValueError("not a text table; save it as CSV in UTF-8")


def _split(lines: Sequence[str], separator: str, strict: bool = True) -> list[list[str]]:
    """Cells of lines, without the white space around them."""
    if separator == " ":
        lines = [" ".join(line.split()) for line in lines]
    reader = csv.reader(
        (line + "\n" for line in lines), delimiter=separator, skipinitialspace=True, strict=strict
    )
    try:
        return [[" ".join(cell.split()) for cell in row] for row in reader]
    except csv.Error as error:
        raise ValueError(f"not a text table (line {reader.line_num}: {error})") from None


def _separator(lines: Sequence[str], header: bool | None, decimal: str | None) -> str:
    """The separator by which all rows are of one width, and most columns are numbers."""
    sample = lines[: min(SAMPLE, max(20, 10**6 // len(lines[0])))]
    best, found = (False, -1, 0), ALONE
    for separator in SEPARATORS:
        rows = [row for row in _split(sample, separator, strict=False) if any(row)]
        body = rows[1:] or rows
        if not body or (width := _width(rows[0], body)) < 2:
            continue
        even = all(len(row) >= width and not any(row[width:]) for row in body)
        columns = [[r[j] for r in body if j < len(r) and not is_missing(r[j])]
                   for j in range(width)]  # fmt: skip
        numbers = [all(map(is_number, cells)) for cells in columns if cells]
        score = even, sum(numbers), -numbers.count(False)
        if score > best:
            best, found = score, separator
    if found not in (",", ALONE) or not any("," in line for line in sample):
        return found
    first = _split(lines[:1], ",")[0]
    named = header or (header is None and all(map(is_text, first)))
    below = sample if header is False else sample[1:] or sample
    rows = _split(below, ",", strict=False)
    if all(is_number(line.strip()) for line in below):
        return _comma(rows, len(first) if named else 0, decimal)
    digits = [row for row in rows if len(row) % 2 == 0 and "".join(row).isdigit()]
    if not named and len(digits) == len(rows) and any(map(zero_led, digits)):
        raise ValueError(
            f"{','.join(digits[0][:2])!r} looks like a decimal comma in a table that is separated "
            "by commas; separate it by semicolons"
        )
    return found


def _comma(rows: list[list[str]], names: int, decimal: str | None) -> str:
    """What the commas are where each line is a number if they are decimal: "5,01".

    Args:
        rows: cells between commas, without a header.
        names: cells of the header, 0 without one.
        decimal: what the user says.
    """
    if decimal is not None or names == 2:
        return ALONE if decimal == "," else ","
    pairs = [row for row in rows if len(row) == 2]
    if names == 1 and (len(pairs) < len(rows) or len({a for a, _ in rows}) < len(rows)):
        return ALONE  # row names are complete and come once
    longest = max((len(b) for _, b in pairs), default=0)
    if (
        names == 0
        and len(pairs) == len(rows) >= 50
        and not any(map(zero_led, rows))
        and longest > 1
    ):
        return ","  # one decimal number in ten has a 0 behind its comma
    raise Ambiguous(
        f"{','.join(rows[0])!r} is one number with a decimal comma (--decimal=,) or two columns "
        "(--decimal=.): say which"
    )


def zero_led(row: Sequence[str]) -> bool:
    """Whether a cell in second place of a pair begins with a 0, as decimals do."""
    return any(len(cell) > 1 and cell[0] == "0" for cell in row[1::2])


def _width(first: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    """Cells of most rows of the body; of as many, those of the first."""
    counts = Counter(map(len, body or [first]))
    return max(counts, key=lambda width: (counts[width], width == len(first)))


def _even(
    rows: list[list[str]], separator: str, header: bool | None
) -> tuple[list[str], list[list[str]]]:
    """The first row and the others, all of one width.

    Raises:
        ValueError: naming the row that is not.
    """
    first, body = rows[0], rows[1:]
    width = _width(first, body)
    for number, row in enumerate(body, start=2):
        if len(row) < width or any(row[width:]):
            raise ValueError(
                f"row {number} has {len(row)} columns, not {width}; mend it, or take out what is "
                "no row of the table"
            )
        del row[width:]
    if len(first) > width and not any(first[width:]):
        first = first[:width]
    elif len(first) == width - 1 and not any(row[-1] for row in body):
        first = [*first, ""]
    elif len(first) == width - 1 and header is not False and _row_names(body):
        first = ["", *first]  # as R writes them
    if len(first) != width:
        hint = "mend it, or take out what is no row of the table"
        if separator == "," and len(first) * 2 == width:
            hint = "if its numbers have decimal commas, separate them by semicolons"
        raise ValueError(f"row 1 has {len(first)} columns, the others {width}; {hint}")
    return first, body


def _row_names(body: list[list[str]]) -> bool:
    """Whether the first cells are names: each once, and no decimal numbers."""
    names = [row[0] for row in body]
    decimal = any(is_number(c) and not INTEGER.fullmatch(c) for c in names)
    return len(set(names)) == len(names) and not decimal and not any(map(is_missing, names))
