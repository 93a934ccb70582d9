"""Computes definitions in float32 for inputs in float16 and bfloat16."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tinylora.backend.arrays import float32, is_floating
from tinylora.backend.sums import is_half

Definition = Callable[..., tuple[Any, tuple[Any, ...]]]  # (output, a vjp or None per input)


def in_float32(definition: Definition) -> Definition:
    """The definition in float32 for inputs in float16 or bfloat16, its results rounded to the dtype of the first.

    Sums in these dtypes lose most of their digits, and squares soon overflow.
    """

    @functools.wraps(definition)
    def exact(xp: Any, *inputs: Any, **options: Any) -> tuple[Any, tuple[Any, ...]]:
        for x in inputs:
            if is_half(x):
                break
        else:
            return definition(xp, *inputs, **options)
        dtypes = [x.dtype if hasattr(x, "dtype") and is_floating(x.dtype) else None for x in inputs]
        first = next(d for d in dtypes if d is not None)
        out, vjps = definition(xp, *map(_widened, inputs), **options)
        return _rounded(out, first), tuple(vjp and _rounding(vjp, d) for vjp, d in zip(vjps, dtypes, strict=False))

    return exact


def _widened(x: Any) -> Any:
    if isinstance(x, dict):
        return {i: _widened(part) for i, part in x.items()}
    return x.astype(float32) if is_half(x) else x


def _rounded(x: Any, dtype: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_rounded(part, dtype) for part in x)
    return x.astype(dtype) if x.dtype == float32 else x


def _rounding(vjp: Callable[[Any], Any], dtype: Any) -> Callable[[Any], Any]:
    return lambda g: _rounded(vjp(_widened(g)), dtype)
