"""Guesses from a file which task its examples are for."""

from __future__ import annotations

from pathlib import Path

from tinylora.tasks.conll import TAG, TAG_KEYS, TOKEN_KEYS
from tinylora.tasks.tables import SUFFIXES, read_records, read_text

CHAT_KEYS = ("messages", "conversations", "instruction", "prompt")
PLAIN = ("", ".txt", ".text", ".md", ".rst", ".raw", ".gz", ".log")
SEVERAL = 200  # lines that are looked at


def guess_task(path: str | Path) -> str:
    """The name of the task that the file's layout fits.

    Tags behind tabs are for "tag"; JSON objects with "tokens" are for "tag", with "messages", "instruction" or "prompt" for
    "chat", and with nothing but "text" for "text"; other tables are for "classify", and plain text for "text". Raises
    ValueError for a file of another kind.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        keys = read_records(path)[0].cells.keys()
        if keys & set(CHAT_KEYS):
            return "chat"
        if keys & set(TOKEN_KEYS) and keys & set(TAG_KEYS):
            return "tag"
        return "text" if keys == {"text"} else "classify"
    rows = [line.rstrip("\r").split("\t") for line in read_text(path).split("\n")[:SEVERAL] if line.strip()]
    if rows and all(len(row) == 2 and (TAG.fullmatch(row[1].strip()) or not row[0].strip()) for row in rows):
        return "tag"
    if suffix not in (*SUFFIXES, *PLAIN):
        raise ValueError(f"{path}: expected a .tsv, .csv, .jsonl, .json, .conll or .txt file, or to be told the task")
    return "classify" if suffix in SUFFIXES else "text"
