"""Reads labelled messages, and splits them."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinylora.tasks.task import Examples, Splits, part_of

LABEL_NAMES = ("label", "class", "category", "target")
TEXT_NAMES = ("text", "message", "sentence", "content")


class Message(NamedTuple):
    """One example: the name of its class, and its text."""

    label: str
    text: str


# -------------------------------------------------------------------------------------------- reading
def read_messages(path: str | Path, text_column: str | None = None, label_column: str | None = None) -> list[Message]:
    """The messages in a TSV, CSV or JSONL file.

    Columns are found by the header ("label", "text" and the like) or by the names given; a file of two columns without a
    header has its labels in the column with fewer different values. Raises ValueError that names the file and the line.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path}: expected a .tsv, .csv or .jsonl file")
    raw = path.read_bytes()
    if b"\0" in raw:
        raise ValueError(f"{path}: a binary file, not text")
    try:
        content = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: line {raw[: error.start].count(10) + 1} is not UTF-8, at byte {error.start}") from None
    if not content.strip():
        raise ValueError(f"{path}: empty")
    rows = READERS[path.suffix.lower()](path, content)
    text_at, label_at, first = _columns(path, [row for _, row in rows], text_column, label_column)
    if first == len(rows):
        raise ValueError(f"{path}: a header and no message below it")
    messages = []
    for number, row in rows[first:]:
        if len(row) != len(rows[0][1]):
            raise ValueError(f"{path}: line {number} has {len(row)} columns, the first line {len(rows[0][1])}")
        message = Message(row[label_at].strip(), row[text_at].strip())
        if not message.label or not message.text:
            raise ValueError(f"{path}: line {number} has no {'text' if message.label else 'label'}")
        messages.append(message)
    return messages


Rows = list[tuple[int, list[str]]]  # with the line number of each row's end


def _tsv_rows(path: Path, content: str) -> Rows:
    """A CSV dialect without quoting: quotation marks are plain characters."""
    lines = enumerate(content.split("\n"), 1)
    return [(number, line.split("\t")) for number, line in lines if line.strip()]


def _csv_rows(path: Path, content: str) -> Rows:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num} is not readable as CSV ({error})") from None


def _json_rows(path: Path, content: str) -> Rows:
    """Rows of a JSONL file. The first object's keys are the header; missing keys and null become empty cells."""
    rows: Rows = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON ({error})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is not a JSON object")
        rows = rows or [(number, list(record))]
        cells = [record.get(key) for key in rows[0][1]]
        rows.append((number, ["" if cell is None else str(cell) for cell in cells]))
    return rows


READERS = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _json_rows}


def _columns(path: Path, rows: list[list[str]], text: str | None, label: str | None) -> tuple[int, int, int]:
    """The columns of text and label, and the index of the first row of data."""
    names = [cell.strip().lower() for cell in rows[0]]
    wanted_text = [text.lower()] if text else TEXT_NAMES
    wanted_label = [label.lower()] if label else LABEL_NAMES
    text_at = next((names.index(n) for n in wanted_text if n in names), None)
    label_at = next((names.index(n) for n in wanted_label if n in names), None)
    if text_at is not None and label_at is not None:
        return text_at, label_at, 1
    if text or label or text_at is not None or label_at is not None or len(names) != 2:
        lacking = "text" if text_at is None else "label"
        raise ValueError(f"{path}: no {lacking} column among {', '.join(rows[0])[:200]}: name it with --{lacking}-column")
    different = [len({row[i] for row in rows if len(row) == 2}) for i in (0, 1)]
    return (1, 0, 0) if different[0] <= different[1] else (0, 1, 0)


# ------------------------------------------------------------------------------------------- splitting
def split(messages: Sequence[Message], seed: int, valid: float = 0.1, test: float = 0.2) -> Splits:
    """Drop repeated texts, then split by `seed` into (train, valid, test), each class in the same proportions (stratified).

    Raises ValueError for a single class, or a class too small to occur in every part that is asked for.
    """
    first = {message.text: message for message in reversed(messages)}
    by_class: dict[str, list[Message]] = defaultdict(list)
    for message in sorted(first.values()):
        by_class[message.label].append(message)
    if len(by_class) < 2:
        raise ValueError(f"only one class, {next(iter(by_class))!r}: there is nothing to tell apart")
    rng = np.random.default_rng(seed)
    parts = Splits(Examples([]), Examples([]), Examples([]))
    for label, members in sorted(by_class.items()):
        n_test, n_valid = part_of(len(members), test), part_of(len(members), valid)
        if n_test + n_valid >= len(members):
            raise ValueError(f"class {label!r} has {len(members)} different messages, too few to train and to test on")
        shuffled = [members[i] for i in rng.permutation(len(members))]
        parts.test.extend(shuffled[:n_test])
        parts.valid.extend(shuffled[n_test : n_test + n_valid])
        parts.train.extend(shuffled[n_test + n_valid :])
    return parts
