"""Gradients of the outputs of one op, put side by side without a copy where they lie so already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinylora.backend import Array, array_module, is_cupy


def joined(shape: tuple[int, ...], parts: Mapping[int, Array]) -> Array:
    """(.., k, out) from gradients (.., out) by number: where they lie if they lie side by side, else copied.

    Attention's gradients of query, key and value lie so. Zeros stand where none is given.
    """
    some, k = next(iter(parts.values())), shape[-2]
    xp, size = array_module(some), some.itemsize * shape[-1]
    if len(parts) == k and all(p.strides == some.strides and _owner(p) is _owner(some) for p in parts.values()):
        first = parts[0]
        in_line = all(_address(parts[i]) == _address(first) + i * size for i in range(k))
        if in_line and some.strides[-1] == some.itemsize and all(s >= size * k for s in some.strides[:-1]):
            return xp.lib.stride_tricks.as_strided(first, shape, (*some.strides[:-1], size, some.itemsize))
    out = xp.empty(shape, some.dtype)
    for i in range(k):
        out[..., i, :] = parts.get(i, 0)
    return out


def _address(x: Array) -> int:
    return x.data.ptr if is_cupy(x) else x.ctypes.data


def _owner(x: Array) -> Any:
    """Whose memory it is: neighbours of different owners are no parts of one array."""
    return x.data.mem if is_cupy(x) else x if x.base is None else x.base
