"""Finds the columns of text and label in a table, and reads their cells."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tinylora.tasks.tables import Table

LABEL_NAMES = ("label", "class", "category", "target")
TEXT_NAMES = ("text", "message", "sentence", "content")
# Names that are suggested, but not used without being asked for.
LIKELY_LABELS = set(
    """
    sentiment v1 intent topic rating stars score emotion tag type kind y polarity labels classes verdict genre department
    priority language spam is_spam toxic answer output group label_text coarse_label fine_label
""".split()
)
LIKELY_TEXTS = set(
    """
    review tweet body comment comments sms v2 question query utterance title headline description input document post email
    mail response statement phrase x subject abstract summary ticket reviews reviewtext text_a sentence1 news article
""".split()
)


class ColumnError(ValueError):
    """A file in which it is not clear which column is the text and which the label.

    `lacking` is "text" or "label"; `columns` are the names in the file; `suggested` has a likely name by role.
    """

    def __init__(self, what: str, lacking: str, columns: Sequence[str], suggested: dict[str, str]) -> None:
        hint = " and ".join(f"{name!r} as the {role}" for role, name in suggested.items())
        super().__init__(what + (f"; perhaps {hint}" if hint else ""))
        self.lacking, self.columns, self.suggested = lacking, list(columns), suggested


# ------------------------------------------------------------------------------------------- columns
def find_columns(table: Table, text: str | None, label: str | None) -> tuple[int, int, int]:
    """The columns of text and label, found by the names given or by the usual ones, and the index of the first row of data.

    Raises ColumnError. `names` of a JSON file are its header.
    """
    header, first = table.names, 0
    if header is None:
        header, first = [cell.strip() for cell in table.rows[0].cells], 1
    at = {"text": _position(table, header, text, TEXT_NAMES), "label": _position(table, header, label, LABEL_NAMES)}
    if len(header) == 2 and (text or label) and None in at.values():  # one is named: the other column is the other
        at = {role: found if found is not None else 1 - sum(i for i in at.values() if i) for role, found in at.items()}
    if at["text"] is not None and at["label"] is not None:
        if at["text"] == at["label"]:
            raise ValueError(f"{table.path}: the column {header[at['text']]!r} cannot be the text and the label")
        return at["text"], at["label"], first
    suggested = _suggestion(table, header, at, first)
    lacking = "text" if at["text"] is None else "label"
    if first == 0 or text or label or len(header) != 2 or any(found is not None for found in at.values()):
        what = f"no {lacking} column among {', '.join(header)[:200]}"
        raise ColumnError(f"{table.path}: {what}", lacking, header, suggested)
    different = [len({row.cells[i] for row in table.rows}) for i in (0, 1)]
    text_at, label_at = (1, 0) if different[0] <= different[1] else (0, 1)
    if _looks_like_header(table, header, text_at, label_at):
        what = f"the first line, {header[0]!r} and {header[1]!r}, looks like names of columns"
        raise ColumnError(f"{table.path}: {what}", lacking, header, suggested)
    return text_at, label_at, 0


def _position(table: Table, header: Sequence[str], given: str | None, usual: Sequence[str]) -> int | None:
    """The column of the name given, or of the first usual name that occurs; capitals count only where they decide."""
    exact = [i for i, name in enumerate(header) if name == (given or "").strip()]
    lower = [name.lower() for name in header]
    wanted = [given.strip().lower()] if given else usual
    found = next(([i for i, name in enumerate(lower) if name == w] for w in wanted if w in lower), [])
    if given and len(exact) == 1:
        return exact[0]
    if len(found) > 1:
        names = " and ".join(repr(header[i]) for i in found)
        raise ValueError(f"{table.path}: two columns of the same name: {names}")
    if given and not found:
        shown = ", ".join(header)[:200]
        raise ColumnError(f"{table.path}: no column {given!r}: there are {shown}", _role(usual), header, {})
    return found[0] if found else None


def _role(usual: Sequence[str]) -> str:
    return "text" if usual is TEXT_NAMES else "label"


def _looks_like_header(table: Table, header: Sequence[str], text_at: int, label_at: int) -> bool:
    """Whether both cells are names as columns have them, or the label occurs nowhere else, where others repeat, above a
    text of one word, where others have several."""
    known = [name.lower() in (LIKELY_LABELS if i == label_at else LIKELY_TEXTS) for i, name in enumerate(header)]
    swapped = [name.lower() in (LIKELY_TEXTS if i == label_at else LIKELY_LABELS) for i, name in enumerate(header)]
    if all(known) or all(swapped):
        return True
    below = [row.cells for row in table.rows[1:]]
    labels = [cells[label_at].strip() for cells in below]
    repeats = len(set(labels)) < len(labels) and header[label_at] not in labels
    words = sum(len(cells[text_at].split()) for cells in below)
    return repeats and len(header[text_at].split()) == 1 and words >= 2 * len(below)


def _suggestion(table: Table, header: Sequence[str], at: dict[str, int | None], first: int) -> dict[str, str]:
    """Columns that may be meant: by name, else the longest cells are the text, and what repeats most is the label."""
    rows = [["" if cell is None else str(cell) for cell in row.cells] for row in table.rows[first : first + 1000]]
    found: dict[str, int] = {role: i for role, i in at.items() if i is not None}
    for role, likely in (("text", LIKELY_TEXTS), ("label", LIKELY_LABELS)):
        named = [i for i, name in enumerate(header) if name.lower() in likely and i not in found.values()]
        if role not in found and named:
            found[role] = named[0]
    free = [i for i, name in enumerate(header) if name and i not in found.values()]
    if "text" not in found and free and rows:
        found["text"] = max(free, key=lambda i: sum(len(row[i]) for row in rows))
        free.remove(found["text"])
    different = {i: len({row[i] for row in rows}) for i in free}
    free = [i for i in free if 1 < different[i] < max(3, len(rows))]
    if "label" not in found and free:
        found["label"] = min(free, key=lambda i: different[i])
    return {role: header[found[role]] for role in ("text", "label") if role in found and at[role] is None}


# --------------------------------------------------------------------------------------------- cells
def text_of(cell: Any, what: str) -> str:
    """A cell as text without white space around it: a truth value as in JSON, a whole number without a decimal point, null
    and text without a visible character as "". Raises ValueError for a list or an object.

    >>> text_of(1.0, "label"), text_of(True, "label"), text_of("  hi\\u200b ", "text")
    ('1', 'true', 'hi\\u200b')
    """
    if isinstance(cell, list | dict):
        if isinstance(cell, list) and any(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in cell):
            raise ValueError(f"the {what} is a conversation, not one text")
        shown = json.dumps(cell, ensure_ascii=False)
        raise ValueError(f"the {what} is {'a list' if isinstance(cell, list) else 'an object'}: {shown[:60]}")
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        cell = int(cell)
    text = "" if cell is None else cell.strip() if isinstance(cell, str) else json.dumps(cell)
    return text if any(not c.isspace() and unicodedata.category(c) != "Cf" for c in text) else ""


def number_of(text: str) -> Decimal | None:
    """The value of a number in decimal notation; None for other text, and for codes that begin with 0, such as "007"."""
    return Decimal(text) if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", text) else None


class LabelReader:
    """Reads labels, and refuses two of the same meaning that are of different kinds or spellings."""

    def __init__(self) -> None:
        self._seen: dict[Any, tuple[str, str, int]] = {}  # meaning: kind, label, line

    def read(self, line: int, cell: Any) -> str:
        """The label in `cell`. Raises ValueError for true beside "true" or 1, 1 beside "1", "1.0" beside "1", and lists."""
        label = text_of(cell, "label")
        kind = "text" if isinstance(cell, str | None) else "truth value" if isinstance(cell, bool) else "number"
        meaning: Any = number_of(label)
        if meaning is None:
            meaning = label.lower() if label.lower() in ("true", "false") else label
        here = (kind, label, line)
        before = self._seen.setdefault(meaning, here)
        odd = self._seen.setdefault("a truth value or a number", here) if kind in ("truth value", "number") else here
        if before[:2] != here[:2] or odd[0] != kind:
            kind_before, other, at = before if before[:2] != here[:2] else odd
            raise ValueError(
                f"the label {label!r} ({kind}) may be the same as {other!r} ({kind_before}) in line {at}: write both alike"
            )
        return label
