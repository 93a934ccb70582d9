"""Parses untrusted JSON: one object of limited size, no repeated keys, no NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tinylora.formats import LoadError, MissingFileError

LIMIT = 4 << 20  # bytes: more than any configuration, and little enough to parse in memory


def parse(content: bytes, where: str) -> dict[str, Any]:
    """The object in `content`. Raises LoadError, whose message begins with `where`, if it is not a valid object.

    >>> parse(b'{"r": 8, "r": 16}', "adapter_config.json")
    Traceback (most recent call last):
    tinylora.formats.LoadError: adapter_config.json: not readable as JSON (the key 'r' stands twice)
    """
    try:
        found = DECODER.decode(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise LoadError(f"{where}: not a JSON object")
    return found


def read(path: Path) -> dict[str, Any]:
    """The object in a file of at most LIMIT bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise LoadError(f"{path}: not readable ({error})") from None
    if len(content) > LIMIT:
        raise LoadError(f"{path}: more than {LIMIT:,} bytes of JSON")
    return parse(content, str(path))


def read_optional(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one if the file does not exist."""
    return read(path) if path.is_file() else {}


def text_of(found: dict[str, Any]) -> str:
    """An object as JSON text."""
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
