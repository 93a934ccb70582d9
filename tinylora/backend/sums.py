"""The one place that adds up: float16 and bfloat16 in float32, and long axes in blocks, so that few digits are lost.

NumPy adds pairwise along the axis whose elements lie next to each other, and one by one along the others: the mean of a
million rows of 0.1 would be 0.101. A thread of CuPy's adds every 512th row, which loses two digits of seven. Higham 1993,
"The accuracy of floating point summation", section 3.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tinylora.backend.arrays import Array, array_module, float32, is_cupy, is_floating
from tinylora.backend.meta import MetaArray

BLOCK = 16  # numbers that are added one by one
FEW = 2 * BLOCK  # up to here blocks do not pay
GPU_BLOCK = 1024  # numbers that the 512 threads of a block on a GPU add
SHORT, SMALL = 128, 2**13  # rows and elements of a matrix whose rows BLAS adds, four at a time: half the time of NumPy


def is_half(x: Any) -> bool:
    """Is it an array of float16 or bfloat16?"""
    return getattr(x, "itemsize", 0) == 2 and is_floating(x.dtype)


def wide(x: Array) -> Array:
    """x in float32 at least."""
    return x.astype(float32) if is_half(x) else x


def total(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """Σ x over an axis, a tuple of them, or all (None), in the dtype of x."""
    if is_half(x):
        return total(x.astype(float32), axis, keepdims).astype(x.dtype)
    if x.dtype.kind != "f" or isinstance(x, MetaArray):
        return x.sum(axis=axis, keepdims=keepdims)
    if is_cupy(x):
        return _on_a_gpu(x, range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis, keepdims)
    if axis in (0, (0,)) and x.ndim == 2 and not keepdims and len(x) <= SHORT and x.size <= SMALL:
        return _ones(len(x), x.dtype.char) @ x
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    reduced = [a % x.ndim for a in axes]
    flags = x.flags
    if len(reduced) == x.ndim and (flags.c_contiguous or flags.f_contiguous):
        return x.sum(axis=axis, keepdims=keepdims)  # one long row
    shape, strides = x.shape, x.strides
    nearest = min(range(x.ndim), key=lambda a: abs(strides[a]) if shape[a] > 1 else math.inf, default=0)
    if math.prod([shape[a] for a in reduced if a != nearest]) <= FEW:
        return x.sum(axis=axis, keepdims=keepdims)
    for a in sorted(reduced, key=lambda a: a != nearest):
        x = x.sum(axis=a, keepdims=True) if a == nearest else _in_blocks(np, x, a, BLOCK, FEW)
    return x if keepdims else x.reshape([n for a, n in enumerate(x.shape) if a not in reduced])


@functools.cache
def _ones(n: int, dtype: str) -> np.ndarray:
    return np.ones(n, dtype)


def _on_a_gpu(x: Array, axes: Any, keepdims: bool) -> Array:
    """Long axes in blocks, in which a thread adds a few numbers only."""
    reduced = tuple(a % x.ndim for a in axes)
    if math.prod([x.shape[a] for a in reduced]) <= 4 * GPU_BLOCK:
        return x.sum(axis=reduced, keepdims=keepdims)
    for a in reduced:
        x = _in_blocks(array_module(x), x, a, GPU_BLOCK, 4 * GPU_BLOCK)
    return x if keepdims else x.reshape([n for a, n in enumerate(x.shape) if a not in reduced])


def _in_blocks(xp: Any, x: Array, axis: int, block: int, few: int) -> Array:
    """Σ x over an axis that is kept with size 1: sums of blocks, and sums of those, until there are `few`."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    while (n := x.shape[axis]) > few:
        whole = n - n % block
        head: tuple[Any, ...] = (slice(None),) * axis
        blocks = x[(*head, slice(whole))].reshape(*before, whole // block, block, *after)  # a view
        sums = xp.empty((*before, -(-n // block), *after), x.dtype)
        blocks.sum(axis=axis + 1, out=sums[(*head, slice(whole // block))])
        if whole < n:
            x[(*head, slice(whole, None))].sum(axis=axis, out=sums[(*head, -1)])
        x = sums
    return x.sum(axis=axis, keepdims=True)


def largest(x: Array, axis: Any, keepdims: bool, initial: float) -> Array:
    """The largest element along axis; `initial` where there are none. (CuPy's max does not take `initial`.)"""
    if x.size or isinstance(x, MetaArray):
        return x.max(axis=axis, keepdims=keepdims)
    shape = np.empty(x.shape, bool).max(axis=axis, keepdims=keepdims, initial=False).shape
    return array_module(x).full(shape, initial, x.dtype)


def running(x: Array, axis: int) -> Array:
    """Σ of the elements up to each one along an axis, accumulated in float64."""
    return x.cumsum(axis=axis, dtype=np.float64).astype(x.dtype) if is_floating(x.dtype) else x.cumsum(axis=axis)


def scatter_sum(shape: tuple[int, ...], index: Any, values: Array) -> Array:
    """Zeros of `shape`, to which `values` are added at `index`, arrays that may name an element several times.

    `index` is an array, or a tuple of arrays and full slices.
    """
    xp, dtype, values = array_module(values), values.dtype, wide(values)
    if xp is not np:
        sums = xp.zeros(shape, values.dtype)
        xp.add.at(sums, index, values)
        return sums.astype(dtype, copy=False)
    index = index if isinstance(index, tuple) else (index,)
    at = [a for a, i in enumerate(index) if isinstance(i, np.ndarray)]
    others = [a for a in range(len(shape)) if a not in at]
    arrays = np.broadcast_arrays(*(index[a] % max(shape[a], 1) for a in at))
    rows = np.ravel_multi_index(arrays, [max(shape[a], 1) for a in at]).reshape(-1)
    first = at[0] if at[-1] - at[0] == len(at) - 1 else 0  # where NumPy puts the axes of the arrays
    there = range(first, first + arrays[0].ndim)
    values = values.transpose([*there, *(a for a in range(values.ndim) if a not in there)])
    rows, values = _few_of_each(rows, values.reshape(rows.size, math.prod(shape[a] for a in others)))
    sums = np.zeros((math.prod(shape[a] for a in at), values.shape[1]), values.dtype)
    np.add.at(sums, rows, values)
    order = [*at, *others]
    sums = sums.reshape([shape[a] for a in order]).transpose([order.index(a) for a in range(len(shape))])
    return sums.astype(dtype, copy=False)


def _few_of_each(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same sums with fewer terms: values of one row are added in blocks until no row has more than a few."""
    while len(rows) > FEW and np.bincount(rows).max() > FEW:
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])  # where a row begins
        place = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
        starts = np.flatnonzero(place % BLOCK == 0)
        rows, values = rows[starts], np.add.reduceat(values, starts, axis=0)
    return rows, values
