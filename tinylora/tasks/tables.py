"""Reads TSV, CSV, JSONL and JSON files as rows or records with their line numbers; knows nothing of what they mean."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tinylora.formats import strict_json


class Row(NamedTuple):
    """The cells of one row, and the line in the file that it begins on."""

    line: int
    cells: list[Any]


class Record(NamedTuple):
    """One row or JSON object as a dictionary, and the line in the file that it begins on."""

    line: int
    cells: dict[str, Any]


@dataclass
class Table:
    """Rows of equal length. `names` are the keys of a JSON file's objects; None for TSV and CSV, which may have a header.

    Cells of TSV and CSV are strings, those of JSON any value, None where an object lacks the key. `notes` say, each in a
    sentence, how the file was read where that is not plain.
    """

    path: Path
    rows: list[Row]
    names: list[str] | None = None
    notes: list[str] = field(default_factory=list)


SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json")


def read_table(path: str | Path) -> Table:
    """The rows of a TSV, CSV, JSONL or JSON file. Empty rows are left out, and columns that are empty throughout at the end.

    - TSV: quotation marks are plain characters, unless the file doubles them as spreadsheets and pandas do.
    - CSV: separated by commas, semicolons, tabs or vertical bars, whichever fits; `sep=;` as the first line says which.
    - JSONL: an object per line or several lines. JSON: a list of objects, or one object that contains such a list.
    - Encodings: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Raises ValueError that names the file and the line, OSError if there is no such file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a .tsv, .csv, .jsonl or .json file")
    content = read_text(path)
    if suffix not in (".tsv", ".csv"):
        return _json_table(path, content)
    table = (_tsv_table if suffix == ".tsv" else _csv_table)(path, content)
    if not table.rows:
        raise ValueError(f"{path}: empty")
    return table


def read_records(path: str | Path) -> list[Record]:
    """The objects of a JSONL or JSON file; the rows of a TSV or CSV file by the names in its header.

    Raises ValueError as read_table does, and for a header in which a name stands twice.
    """
    table = read_table(path)
    if table.names is not None:
        return [Record(line, dict(zip(table.names, cells, strict=True))) for line, cells in table.rows]
    header, *rows = table.rows
    names = [name.strip() for name in header.cells]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise ValueError(f"{table.path}: line {header.line}: two columns are named {twice!r}")
    return [Record(line, {n: cell for n, cell in zip(names, cells, strict=True) if n}) for line, cells in rows]


# ----------------------------------------------------------------------------------------------- text
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_text(path: str | Path) -> str:
    """The text of a file, gzipped or not, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Line ends are `\\n` or `\\r\\n`.

    Raises ValueError that names the file, and the line that is not in its encoding, or that says it is empty.
    """
    path = Path(path)
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        content = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{path}: not {encoding.upper()}, as its first bytes say, at byte {error.start}") from None
        if b"\0" in raw:
            raise ValueError(f"{path}: a binary file, not text") from None
        line, odd = raw[: error.start].count(10) + 1, raw[error.start : error.start + 1].decode("cp1252", "replace")
        hint = f"it may be Windows-1252, where that byte is {odd!r}: save it as UTF-8"
        raise ValueError(f"{path}: line {line} is not UTF-8, at byte {error.start}; {hint}") from None
    if "\0" in content:
        utf16 = raw[:64].count(0) * 3 > min(len(raw), 64)
        why = "it may be UTF-16 without a byte order mark: save it as UTF-8" if utf16 else "a binary file, not text"
        raise ValueError(f"{path}: {why}")
    content = content.rstrip("\x1a")  # DOS marks the end of a file so
    if not content.strip():
        raise ValueError(f"{path}: empty")
    return content if "\n" in content else content.replace("\r", "\n")  # old Macintosh files end lines so


# ----------------------------------------------------------------------------------------- TSV and CSV
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def _tsv_table(path: Path, content: str) -> Table:
    lines = [Row(n, line.removesuffix("\r").split("\t")) for n, line in enumerate(content.split("\n"), 1) if line.strip()]
    if _quotes_are_doubled(content):
        quoted = _try_csv(content, "\t")
        if not isinstance(quoted, str) and _is_regular(quoted):
            return Table(path, quoted, notes=["quotation marks around cells were read as a spreadsheet writes them"])
    rows = _trimmed(lines)
    return Table(path, _regular(path, rows, "a tab inside a text counts as a separator"))


def _quotes_are_doubled(content: str) -> bool:
    """Whether a cell is `"...""..."`, or a quoted cell continues on another line: nobody types that as plain text."""
    opens = r'(?:^|\t)"(?:[^"\t\n]|"")*'
    return bool(re.search(opens + r'""(?:[^"\t\n]|"")*"(?:\t|\r?$)|' + opens + r"$", content, re.MULTILINE))


def _csv_table(path: Path, content: str) -> Table:
    """Try the separators that occur in the first row, then other ways of quoting, until all rows have the same length."""
    declared = re.match(r'"?sep=(.)"?\r?\n', content)
    if declared:
        content, delimiters = content[declared.end() :], [declared[1]]
    else:
        first = content.lstrip().partition("\n")[0]
        delimiters = [d for d in DELIMITERS if d in first] or [","]
    skipped = 1 if declared else 0
    read = {d: _try_csv(content, d, skipped) for d in delimiters}
    fitting = {d: rows for d, rows in read.items() if not isinstance(rows, str) and _is_regular(rows)}
    wide = {d: rows for d, rows in fitting.items() if rows and len(rows[0].cells) > 1}
    if len(wide) > 1:
        names = " or ".join(DELIMITERS[d] for d in wide)
        raise ValueError(f"{path}: separated by {names}? Both fit: make sep={min(wide)} the first line, or quote the texts")
    chosen = list(wide or fitting)[:1] or delimiters
    spaced = any(re.search(f'{re.escape(d)} +"', content) for d in chosen)  # the quotation marks may be part of the text
    for options, note in OTHER_QUOTING if spaced or not fitting else ():
        for rows in (_try_csv(content, d, skipped, **options) for d in chosen):
            if not isinstance(rows, str) and _is_regular(rows) and (not fitting or "skipinitialspace" in options):
                return Table(path, _regular(path, rows, ""), notes=[note])
    if fitting:
        notes = [] if declared or chosen[0] == "," else [f"separated by {DELIMITERS[chosen[0]]}"]
        return Table(path, _regular(path, fitting[chosen[0]], ""), notes=notes)
    delimiter = max(delimiters, key=lambda d: isinstance(read[d], list))
    rows = read[delimiter]
    if isinstance(rows, str):
        raise ValueError(f"{path}: {rows}")
    separators = DELIMITERS.get(delimiter, repr(delimiter))
    hint = f"read as separated by {separators}: a text with one inside needs quotation marks around it"
    if len(rows[0].cells) == 1:
        hint = "the first line must be the header or the first row: remove what stands above it"
    return Table(path, _regular(path, rows, hint))


OTHER_QUOTING: list[tuple[dict[str, Any], str]] = [
    ({"skipinitialspace": True}, "spaces before quotation marks were left out"),
    ({"escapechar": "\\"}, "a backslash before a quotation mark was read as part of the quoting"),
    ({"escapechar": "\\", "skipinitialspace": True}, "backslashes and spaces before quotation marks were left out"),
]

_field_size = threading.Lock()


def _try_csv(content: str, delimiter: str, skipped: int = 0, **options: Any) -> list[Row] | str:
    """The rows that are not empty, or what is wrong with which line. `skipped` lines stood before `content`."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True, **options)
    rows, begin = [], 1
    with _field_size:  # the module allows cells of 131,072 characters; the limit belongs to the whole process
        limit = csv.field_size_limit()
        csv.field_size_limit(max(limit, len(content)))
        try:
            for cells in reader:
                rows.append(Row(begin + skipped, cells))
                begin = reader.line_num + 1
        except csv.Error as error:
            return f"line {begin + skipped} is not readable as CSV ({error})"
        finally:
            csv.field_size_limit(limit)
    return _trimmed(rows)


def _trimmed(rows: Sequence[Row]) -> list[Row]:
    """Without empty rows, and without the columns at the end that are empty in every row."""
    full = [row for row in rows if any(cell.strip() for cell in row.cells)]
    if not full:
        return []
    used = max(max(i for i, cell in enumerate(row.cells, 1) if cell.strip()) for row in full)
    return [Row(line, cells[:used]) for line, cells in full]


def _is_regular(rows: Sequence[Row]) -> bool:
    return len({len(row.cells) for row in rows}) <= 1 or _has_row_names(rows)


def _has_row_names(rows: Sequence[Row]) -> bool:
    """Whether every row but the header begins with its number, as R writes tables."""
    width = len(rows[0].cells) + 1
    below = rows[1:]
    if not below or any(len(row.cells) != width or not row.cells[0].strip().isdecimal() for row in below):
        return False
    numbers = [int(row.cells[0]) for row in below]
    return len(set(numbers)) == len(numbers)


def _regular(path: Path, rows: list[Row], hint: str) -> list[Row]:
    """The rows if all have the length of the first. Raises ValueError for the first that has not."""
    if len(rows) > 1 and _has_row_names(rows):
        return [rows[0], *[Row(line, cells[1:]) for line, cells in rows[1:]]]
    for line, cells in rows:
        if len(cells) != len(rows[0].cells):
            say = f"line {line} has {len(cells)} columns, the first line {len(rows[0].cells)}"
            raise ValueError(f"{path}: {say}{f' ({hint})' if hint else ''}")
    return rows


# ---------------------------------------------------------------------------------------- JSONL and JSON
def _json_table(path: Path, content: str) -> Table:
    """The union of all objects' keys, in the order of their first occurrence, are the columns."""
    records = list(_objects(path, content))
    if not records:
        raise ValueError(f"{path}: a list without an object in it")
    names = list(dict.fromkeys(name for _, found in records for name in found))
    return Table(path, [Row(line, [found.get(name) for name in names]) for line, found in records], names)


LIST = re.compile(r'\s*(?:\{\s*"(?:data|rows|examples|records|items|train)"\s*:\s*)?\[')
SPACE = re.compile(r"[ \t\r\n]*")


def _objects(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file and the lines that they begin on: one after another, or in a list."""
    opening = LIST.match(content)
    for line, value in _values(path, content, opening.end() if opening else 0, opening is not None):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: line {line} is not a JSON object")
        yield line, value


def _values(path: Path, content: str, at: int, in_list: bool) -> Iterator[tuple[int, Any]]:
    """The JSON values from position `at` on: separated by white space, or by commas up to the `]` of a list."""
    line, counted, first = 1, 0, True

    def skip_space(at: int) -> int:
        nonlocal line, counted
        at = SPACE.match(content, at).end()  # type: ignore[union-attr]
        line, counted = line + content.count("\n", counted, at), at
        return at

    while (at := skip_space(at)) < len(content) and not (in_list and content[at] == "]"):
        if in_list and not first:
            if content[at] != ",":
                raise ValueError(f"{path}: line {line} is not JSON (expected a comma or the end of the list)")
            at = skip_space(at + 1)
        try:
            value, at = strict_json.DECODER.raw_decode(content, at)
        except json.JSONDecodeError as error:
            inside = (
                f"{error.msg} at column {error.colno}" if error.lineno == line else f"{error.msg} in line {error.lineno}"
            )
            raise ValueError(f"{path}: line {line} is not JSON ({inside})") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {line} is not readable as JSON ({error})") from None
        first = False
        yield line, value
    closing = content[at:].split()
    if in_list and closing not in (["]"], ["]", "}"], ["]}"]):
        what = "something follows the list" if closing else "the list does not end"
        raise ValueError(f"{path}: line {line} is not JSON ({what})")
