"""Reads labelled messages, and splits them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinylora.tasks.columns import LabelReader, find_columns, number_of, text_of
from tinylora.tasks.examples import Examples, Splits, part_of
from tinylora.tasks.tables import read_table


class Message(NamedTuple):
    """One example: the name of its class, and its text."""

    label: str
    text: str


# -------------------------------------------------------------------------------------------- reading
class Reading(Examples):
    """The messages of a file in its order, the line of each, and notes on how the file was read."""

    def __init__(self, messages: Iterable[Message] = (), lines: Iterable[int] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(messages, notes)
        self.lines = list(lines)


def read_messages(path: str | Path, text_column: str | None = None, label_column: str | None = None) -> Reading:
    """The messages in a TSV, CSV, JSONL or JSON file (see tables.read_table).

    Columns are found by the header ("label", "text" and the like) or by the names given; a file of two columns without a
    header has its labels in the column with fewer different values. Raises ColumnError if it is not clear which columns are
    meant, and ValueError that names the file and the line for a message without text or label, or for a label that may be
    the same as another: true beside "true", 1.0 beside 1 in a CSV file.
    """
    table = read_table(path)
    text_at, label_at, first = find_columns(table, text_column, label_column)
    if first == len(table.rows):
        raise ValueError(f"{table.path}: a header and no message below it")
    found = Reading(notes=table.notes)
    labels = LabelReader()
    for line, cells in table.rows[first:]:
        try:
            text, label = text_of(cells[text_at], "text"), labels.read(line, cells[label_at])
        except ValueError as error:
            raise ValueError(f"{table.path}: line {line}: {error}") from None
        if not label or not text:
            raise ValueError(f"{table.path}: line {line} has no {'text' if label else 'label'}")
        found.append(Message(label, text))
        found.lines.append(line)
    if table.names is None and first == 0:
        found.notes.append(f"no header: column {label_at + 1} is the label, column {text_at + 1} the text")
    found.notes += _notes(found)
    return found


def _notes(messages: Reading) -> Iterator[str]:
    """What a reader of the file should know about its labels and repeated texts."""
    counts = Counter(message.label for message in messages)
    same: dict[str, list[str]] = defaultdict(list)
    for label in class_names(messages):
        same[label.casefold()].append(f"{label!r} ({counts[label]:,})")
    yield from (f"classes that differ only in case: {', '.join(names)}" for names in same.values() if len(names) > 1)
    by_text = _labels_by_text(messages)
    if repeated := len(messages) - len(by_text):
        yield f"{repeated:,} of {len(messages):,} messages repeat the text of another: each text is used once"
    if mixed := [text for text, labels in by_text.items() if len(labels) > 1]:
        shown = ", ".join(f"{label} {n:,}" for label, n in by_text[mixed[0]].most_common())
        lines = [n for n, message in zip(messages.lines, messages, strict=True) if message.text == mixed[0]]
        where = f"{_shortened(mixed[0])} ({shown}; lines {', '.join(map(str, lines[:4]))}{', ..' if len(lines) > 4 else ''})"
        yield f"{len(mixed):,} texts have several labels, of which the most frequent counts: {where}"


def _labels_by_text(messages: Iterable[Message]) -> dict[str, Counter[str]]:
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    for message in messages:
        by_text[message.text][message.label] += 1
    return by_text


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


# ------------------------------------------------------------------------------------------- splitting
def class_names(messages: Iterable[Message]) -> tuple[str, ...]:
    """The labels that occur, sorted: as numbers if all are numbers, else as text.

    >>> class_names([Message(label, "") for label in ("10", "9", "0")])
    ('0', '9', '10')
    """
    labels = {message.label for message in messages}
    values = {label: number_of(label) for label in labels}
    if None in values.values():
        return tuple(sorted(labels))
    return tuple(sorted(labels, key=lambda label: (values[label], label)))


def unique(messages: Sequence[Message]) -> list[Message]:
    """Each text once, sorted, with the most frequent of its labels.

    Raises ValueError for a text that has two labels equally often.
    """
    found = []
    for text, labels in sorted(_labels_by_text(messages).items()):
        (label, most), *others = labels.most_common()
        if others and others[0][1] == most:
            lines = [n for n, m in zip(getattr(messages, "lines", ()), messages, strict=False) if m.text == text]
            where = f" in lines {', '.join(map(str, lines[:6]))}" if lines else ""
            raise ValueError(f"the text {_shortened(text)}{where} is {label!r} as often as {others[0][0]!r}: keep one label")
        found.append(Message(label, text))
    return found


def split(messages: Sequence[Message], seed: int, valid: float = 0.1, test: float = 0.2) -> Splits:
    """Keep each text once (see unique), then split by `seed`, each class in the same proportions (stratified).

    Raises ValueError for a single class, or a class too small to occur in every part that is asked for.
    """
    by_class: dict[str, list[Message]] = defaultdict(list)
    for message in sorted(unique(messages)):
        by_class[message.label].append(message)
    if len(by_class) < 2:
        raise ValueError(f"only one class, {next(iter(by_class))!r}: there is nothing to tell apart")
    rng = np.random.default_rng(seed)
    parts = Splits(Examples([], getattr(messages, "notes", ())), Examples([]), Examples([]))
    for label, members in sorted(by_class.items()):
        n_test, n_valid = part_of(len(members), test), part_of(len(members), valid)
        if n_test + n_valid >= len(members):
            raise ValueError(f"class {label!r} has {len(members)} different messages, too few to train and to test on")
        shuffled = [members[i] for i in rng.permutation(len(members))]
        parts.test.extend(shuffled[:n_test])
        parts.valid.extend(shuffled[n_test : n_test + n_valid])
        parts.train.extend(shuffled[n_test + n_valid :])
    return parts
