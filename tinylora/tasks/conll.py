"""Reads sentences whose words are tagged: CoNLL columns, or JSON objects with "tokens" and "tags"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinylora.tasks.entities import bio, misfit, spans
from tinylora.tasks.examples import Examples
from tinylora.tasks.tables import read_records, read_text

TAG = re.compile(r"O|[BIESLU]-\S+")
SCHEMES = ("BIO", "IOB1", "BIOES")
TOKEN_KEYS, TAG_KEYS = ("tokens", "words"), ("tags", "ner_tags", "labels")


class Sentence(NamedTuple):
    """Words, and a BIO tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


Tagged = list[tuple[int, str, str]]  # of a sentence: the line, the word and the tag


def read_sentences(path: str | Path) -> Examples:
    """The sentences in a file, with tags in the scheme BIO whatever the file's: IOB1, BIO, or BIOES (also BILOU).

    CoNLL: `word<TAB>tag` a line, a blank line between sentences; lines that begin with "-DOCSTART-" or "# " are left out.
    JSONL or JSON: objects with "tokens" and "tags". Raises ValueError that names the file and the line for a missing tag,
    other columns, a tag of no scheme, and a tag that cannot follow the one before it.
    """
    path = Path(path)
    from_json = path.suffix.lower() in (".jsonl", ".json", ".ndjson")
    sentences = list(_from_json(path) if from_json else _from_lines(path))
    if not sentences:
        raise ValueError(f"{path}: no sentence")
    tags = {tag for sentence in sentences for _, _, tag in sentence}
    if tags == {"O"} or len(tags) == 1:
        raise ValueError(f"{path}: one tag only, {tags.pop()!r}: there is nothing to tell apart")
    scheme = _scheme(path, sentences, tags)
    found = [Sentence(tuple(w for _, w, _ in s), tuple(bio(spans([t for *_, t in s]), len(s)))) for s in sentences]
    return Examples(found, [] if scheme == "BIO" else [f"the tags are in the scheme {scheme}"])


def _from_lines(path: Path) -> Iterator[Tagged]:
    sentence: Tagged = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            if sentence:
                yield sentence
            sentence = []
            continue
        if line.startswith("# ") and not sentence and "\t" not in line:
            continue
        cells = line.split("\t")
        if len(cells) == 1 and len(line.split()) > 1:
            raise ValueError(f"{path}: line {number} has spaces where a tab belongs between word and tag")
        if len(cells) != 2:
            raise ValueError(f"{path}: line {number} has {len(cells)} columns, and word and tag are two")
        word, tag = (cell.strip() for cell in cells)
        sentence.append((number, word, _checked(path, number, word, tag)))
    if sentence:
        yield sentence


def _from_json(path: Path) -> Iterator[Tagged]:
    for line, cells in read_records(path):
        words, tags = _list_of(path, line, cells, TOKEN_KEYS), _list_of(path, line, cells, TAG_KEYS)
        if len(words) != len(tags):
            raise ValueError(f"{path}: line {line} has {len(words)} tokens and {len(tags)} tags")
        if words:
            yield [(line, word, _checked(path, line, word, tag)) for word, tag in zip(words, tags, strict=True)]


def _list_of(path: Path, line: int, cells: dict[str, Any], keys: Sequence[str]) -> list[str]:
    found = next((cells[key] for key in keys if cells.get(key) is not None), None)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{path}: line {line} has no list of strings {keys[0]!r}")
    return found


def _checked(path: Path, line: int, word: str, tag: str) -> str:
    """The tag, in BIOES where it is in BILOU."""
    if not word.strip() or not tag:
        raise ValueError(f"{path}: line {line} has no {'tag' if word.strip() else 'word'}")
    if not TAG.fullmatch(tag):
        raise ValueError(f"{path}: line {line}: {tag!r} is no tag: they are O, B-TYPE, I-TYPE (BIO), also E- and S- (BIOES)")
    return {"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:]


def _scheme(path: Path, sentences: list[Tagged], tags: set[str]) -> str:
    """The first scheme that all sentences follow. Raises ValueError that names the first misfit of the nearest."""
    marks = {tag[0] for tag in tags}
    possible = ("BIOES",) if marks & set("ES") else ("BIO", "IOB1")
    first: dict[str, tuple[int, str]] = {}
    for scheme in possible:
        for sentence in sentences:
            before = "O"
            for line, _, tag in [*sentence, (sentence[-1][0], "", "O")]:
                if misfit(scheme, before, tag) and scheme not in first:
                    after = "the beginning of a sentence or O" if before == "O" else before
                    first[scheme] = line, f"{tag} cannot follow {after}"
                before = tag
        if scheme not in first:
            return scheme
    line, what = max(first.values())
    raise ValueError(f"{path}: line {line}: {what}")
