"""Joins the gradients of an op's outputs, without a copy if they are adjacent in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinylora.backend import Array, array_module, is_cupy


def joined(shape: tuple[int, ...], parts: Mapping[int, Array]) -> Array:
    """(.., k, out) from gradients (.., out) by number: a view if they are adjacent in memory, else a copy.

    Attention's gradients of query, key and value are adjacent. A missing gradient is zeros.
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
    """The owner of its memory: adjacent arrays of different owners cannot be one view."""
    return x.data.mem if is_cupy(x) else x if x.base is None else x.base
