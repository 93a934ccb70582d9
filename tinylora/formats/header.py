"""Parses the header of a safetensors file, and checks all of it before any array is allocated.

The file is 8 bytes of length n (little-endian), n bytes of JSON, then the bytes of the arrays, and nothing else:
{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, .., "__metadata__": {"any": "text"}}.
The format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tinylora.formats import LoadError, strict_json

ITEM_SIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
LARGEST = 2**48  # elements


class Entry(NamedTuple):
    """One array: its dtype as the file spells it, its shape, and where in the file its bytes begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(read: Any, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries by name, and the metadata, of a file of `size` bytes, of which `read(n)` gives the next n.

    Raises LoadError that says what is wrong: a length beyond the file or above the limit, invalid JSON, a repeated key,
    an invalid name, a dtype that is not known, bytes that do not fit the shape, or arrays with holes or overlaps.
    """
    if size < 8:
        raise LoadError(f"it has {size} bytes, and the length of the header alone takes 8")
    length = int.from_bytes(read(8), "little")
    if length > min(size - 8, strict_json.LIMIT):
        raise LoadError(f"the header claims {length:,} bytes, of {size - 8:,} there and {strict_json.LIMIT:,} at most")
    content = read(length)
    if not content.startswith(b"{"):
        raise LoadError("the header is not a JSON object")
    found = strict_json.parse(content, "the header")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise LoadError("__metadata__ must hold texts alone")
    entries = {name: _entry(name, about, 8 + length) for name, about in found.items()}
    _refuse_gaps(entries, 8 + length, size)
    return entries, metadata


def _entry(name: str, about: Any, start: int) -> Entry:
    if not name or not name.isprintable() or "/" in name or "\\" in name:
        raise LoadError(f"{name!r} is no name of an array")
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise LoadError(f"{name} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise LoadError(f"{name} has the dtype {str(dtype)[:20]!r}; known are {', '.join(ITEM_SIZE)}")
    if not _naturals(shape) or len(shape) > 32 or math.prod(max(n, 1) for n in shape) > LARGEST:
        raise LoadError(f"{name} has the shape {str(shape)[:60]}, which no array has")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise LoadError(f"{name} has the data_offsets {str(offsets)[:60]}: expected where it begins and ends")
    begin, end = offsets
    if math.prod(shape) * ITEM_SIZE[dtype] != end - begin:
        raise LoadError(f"{name} is {dtype} of shape {tuple(shape)}, which {end - begin} bytes do not hold")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def _refuse_gaps(entries: dict[str, Entry], start: int, size: int) -> None:
    """Every byte after the header belongs to exactly one array."""
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != at:
            raise LoadError(f"{name} begins at byte {entry.begin - start:,} of the data, where byte {at - start:,} is next")
        at = entry.end
    if at != size:
        raise LoadError(f"the arrays end at byte {at - start:,} of the data, which has {size - start:,}")
