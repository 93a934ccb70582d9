"""The header of a GGUF file, checked whole before anything is allocated by what the file claims.

All numbers are little-endian; a string is a length (uint64) and its UTF-8 bytes:

    "GGUF"  version (uint32, 2 or 3)  n_tensors (uint64)  n_kv (uint64)
    n_kv times:       key (string)  type (uint32)  value
    n_tensors times:  name (string)  n_dims (uint32)  n_dims dims (uint64), fastest first  type (uint32)  offset (uint64)
    padding up to a multiple of general.alignment (32 if it is not given), from where the offsets count; then the data

A value is a number, a bool, a string, or an array: type of the items (uint32), how many (uint64), the items.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np

from tinylora.formats import LoadError
from tinylora.formats.gguf_blocks import BLOCKS

NUMBERS: dict[int, np.dtype] = {
    0: np.dtype("<u1"), 1: np.dtype("<i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"), 5: np.dtype("<i4"),
    6: np.dtype("<f4"), 10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8"),
}  # fmt: skip
BOOL, STRING, ARRAY = 7, 8, 9
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K", 14: "Q6_K", 30: "BF16",
}  # fmt: skip
LEAST = {BOOL: 1, STRING: 8, ARRAY: 12} | {
    number: dtype.itemsize for number, dtype in NUMBERS.items()
}  # bytes a value takes
LARGEST = 2**48  # elements
LONGEST_NAME = 65_535  # bytes of a key
DEEPEST = 4  # arrays of arrays
ALIGNMENT = 32


class Entry(NamedTuple):
    """One tensor: its type, its shape in row-major order, and where in the file its bytes begin and end."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(data: Any) -> tuple[dict[str, Any], dict[str, Entry]]:
    """The metadata and the tensors of a GGUF file, given its bytes (anything that slices to bytes, such as a memory map).

    Numbers, bools and strings come as Python's, arrays of numbers or bools as NumPy's, other arrays as lists. Raises
    LoadError that says what is wrong: magic, version, byte order, a count or length beyond the file, a type that is not
    known, text that is not UTF-8, a name twice, or data that is misaligned, overlaps, has gaps or ends beyond the file.
    """
    return _Header(data).read()


class _Header:
    """Reads on from a position, and asks at each step whether the file has what comes next."""

    def __init__(self, data: Any) -> None:
        self.data, self.size, self.at = data, len(data), 0

    def read(self) -> tuple[dict[str, Any], dict[str, Entry]]:
        self._magic_and_version()
        n_tensors, n_kv = self._number("<Q", "the number of tensors"), self._number("<Q", "the number of metadata entries")
        self._expect(n_kv, 8 + 4 + 1, "metadata entries")
        self._expect(n_tensors, 8 + 4 + 4 + 8, "tensors")
        metadata: dict[str, Any] = {}
        for i in range(n_kv):
            key = self._name(f"metadata entry {i}", metadata)
            metadata[key] = self._value(self._number("<I", key), key)
        claims: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for i in range(n_tensors):
            name = self._name(f"tensor {i}", claims)
            claims[name] = self._tensor(name)
        return metadata, self._placed(claims, _alignment(metadata))

    def _magic_and_version(self) -> None:
        magic = bytes(self.data[:4])
        if magic != b"GGUF":
            raise LoadError(f"it begins with {magic!r}, and not with b'GGUF'")
        self.at = 4
        version = self._number("<I", "the version")
        if version and version % 2**16 == 0:
            raise LoadError("it is big-endian; only little-endian files are read")
        if version not in (2, 3):
            raise LoadError(f"it has version {version}; known are 2 and 3")

    def _expect(self, count: int, least: int, what: str) -> None:
        if count * least > self.size - self.at:
            raise LoadError(f"it claims {count:,} {what}, and {self.size - self.at:,} bytes are left for them")

    def _number(self, kind: str, what: str) -> Any:
        end = self.at + struct.calcsize(kind)
        if end > self.size:
            raise LoadError(f"it ends in {what}")
        (number,) = struct.unpack_from(kind, self.data, self.at)
        self.at = end
        return number

    def _text(self, what: str) -> str:
        length = self._number("<Q", what)
        if length > self.size - self.at:
            raise LoadError(f"{what} claims {length:,} bytes of text, of {self.size - self.at:,} left")
        self.at += length
        try:
            return self.data[self.at - length : self.at].decode()
        except UnicodeDecodeError:
            raise LoadError(f"{what} is not UTF-8") from None

    def _name(self, what: str, taken: dict[str, Any]) -> str:
        name = self._text(f"the name of {what}")
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise LoadError(f"the name of {what} is {name[:40]!r}, which is no name")
        if name in taken:
            raise LoadError(f"the name {name} stands twice")
        return name

    def _value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in NUMBERS:
            return self._number("<" + NUMBERS[kind].char, key)
        if kind == BOOL:
            return bool(self._bools(1, key)[0])
        if kind == STRING:
            return self._text(key)
        if kind == ARRAY and depth < DEEPEST:
            return self._array(key, depth)
        raise LoadError(
            f"{key} " + (f"nests arrays deeper than {DEEPEST}" if kind == ARRAY else f"has the unknown type {kind}")
        )

    def _array(self, key: str, depth: int) -> Any:
        kind, count = self._number("<I", key), self._number("<Q", key)
        if kind not in LEAST:
            raise LoadError(f"{key} holds items of the unknown type {kind}")
        self._expect(count, LEAST[kind], f"items in {key}")
        if kind == BOOL:
            return self._bools(count, key)
        if kind == STRING:
            return [self._text(key) for _ in range(count)]
        if kind == ARRAY:
            return [self._value(ARRAY, key, depth + 1) for _ in range(count)]
        self.at += count * NUMBERS[kind].itemsize
        return np.frombuffer(self.data, NUMBERS[kind], count, self.at - count * NUMBERS[kind].itemsize).copy()

    def _bools(self, count: int, key: str) -> np.ndarray:
        self._expect(count, 1, f"items in {key}")
        found = np.frombuffer(self.data, "u1", count, self.at)
        if found.max(initial=0) > 1:
            raise LoadError(f"{key} is a bool, and {found.max()} is none")
        self.at += count
        return found.astype(bool)

    def _tensor(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        """Type, shape, offset and size in bytes, as the file claims them."""
        n_dims = self._number("<I", name)
        if n_dims > 4:
            raise LoadError(f"{name} has {n_dims:,} dimensions, and 4 is the most")
        shape = tuple(self._number("<Q", name) for _ in range(n_dims))[::-1]
        kind, offset = self._number("<I", name), self._number("<Q", name)
        if kind not in TYPES:
            raise LoadError(f"{name} has the type number {kind}; known are {', '.join(TYPES.values())}")
        block = BLOCKS[TYPES[kind]]
        if math.prod(max(n, 1) for n in shape) > LARGEST or math.prod(shape[-1:]) % block.length:
            raise LoadError(f"{name} has the shape {shape}, which no tensor of type {TYPES[kind]} has")
        return TYPES[kind], shape, offset, math.prod(shape) // block.length * block.dtype.itemsize

    def _placed(self, claims: dict[str, tuple[str, tuple[int, ...], int, int]], alignment: int) -> dict[str, Entry]:
        """Every tensor begins at the first multiple of the alignment after the one before it, and ends in the file."""
        start, at = _up(self.at, alignment), 0
        for name, (_, _, offset, size) in sorted(claims.items(), key=lambda item: item[1][2:]):
            if offset != at:
                raise LoadError(f"{name} begins at byte {offset:,} of the data, where byte {at:,} is next")
            if start + offset + size > self.size:
                raise LoadError(
                    f"{name} ends at byte {offset + size:,} of the data, which has {max(self.size - start, 0):,}"
                )
            at = _up(offset + size, alignment)
        return {
            name: Entry(kind, shape, start + offset, start + offset + size)
            for name, (kind, shape, offset, size) in claims.items()
        }


def _alignment(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment >= 2**32:
        raise LoadError(f"general.alignment is a power of two, not {str(alignment)[:40]}")
    return alignment


def _up(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
