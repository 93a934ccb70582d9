"""Joins the gradients of an op's outputs, without a copy if they are adjacent in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinylora.backend import Array, array_module, is_cupy


def joined(lead: tuple[int, ...], widths: Sequence[int], parts: Mapping[int, Array]) -> Array:
    """(*lead, Σ widths) from gradients (*lead, widths[i]) by number i: a view if they are adjacent in memory, else a copy.

    Attention's gradients of query, key and value are adjacent. A missing gradient is zeros.
    """
    some = next(iter(parts.values()))
    xp, item = array_module(some), some.itemsize
    shape, starts = (*lead, sum(widths)), [sum(widths[:i]) for i in range(len(widths))]
    if len(parts) == len(widths) and all(_steps(p) == _steps(some) and _owner(p) is _owner(some) for p in parts.values()):
        first = parts[0]
        in_line = all(_address(parts[i]) == _address(first) + start * item for i, start in enumerate(starts))
        if in_line and some.strides[-1] == item and all(s >= item * shape[-1] for s in _steps(some)):
            return xp.lib.stride_tricks.as_strided(first, shape, some.strides)
    out = xp.empty(shape, some.dtype)
    for i, (start, width) in enumerate(zip(starts, widths, strict=True)):
        out[..., start : start + width] = parts.get(i, 0)
    return out


def _steps(x: Array) -> list[int]:
    """Strides of all axes but the last; an axis of one has none that counts."""
    return [stride for stride, size in zip(x.strides[:-1], x.shape[:-1], strict=True) if size > 1]


def _address(x: Array) -> int:
    return x.data.ptr if is_cupy(x) else x.ctypes.data


def _owner(x: Array) -> Any:
    """The owner of its memory: adjacent arrays of different owners cannot be one view."""
    return x.data.mem if is_cupy(x) else x if x.base is None else x.base
