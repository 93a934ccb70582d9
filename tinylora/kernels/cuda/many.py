"""Ops on many arrays in one launch: Adam, and gradient clipping.

LoRA trains a hundred small matrices or more. Separately they cost hundreds of launches with hardly any arithmetic; here one
launch processes all of them by a table of addresses on the device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from tinylora import ops
from tinylora.backend import Array, float32, is_cupy
from tinylora.kernels.cuda.compile import kernel
from tinylora.kernels.cuda.live import fixed, live

CHUNK = 4096  # elements per block, as in many.cu


def handles(arrays: Sequence[Array]) -> bool:
    """Whether all are on the GPU, in float32 and in row order, and not all empty: a launch needs a block."""
    return any(x.size for x in arrays) and all(is_cupy(x) and x.dtype == float32 and x.flags.c_contiguous for x in arrays)


@ops.adam.tune("cupy")
def adam(xp, *arrays, numbers, apart):
    """One launch. Overwrites the weights, m and v."""
    n = len(arrays) // 4
    weights, gradients, ms, vs = (arrays[i * n : (i + 1) * n] for i in range(4))
    if not handles(arrays):
        return NotImplemented

    def coefficients() -> Array:
        """Factors for every row; rows with the same numbers share them."""
        rows = numbers()
        place = {row: i for i, row in enumerate(dict.fromkeys(rows))}
        factors = np.array([_coefficients(*row, apart=apart) for row in place])
        return factors[[place[row] for row in rows]] if len(place) > 1 else factors  # one row is broadcast

    table = _table(xp, weights, weights, gradients, ms, vs)
    sizes, chunks, count = _chunks(xp, tuple(w.size for w in weights))
    kernel("many", "adam")((count,), (256,), (table, sizes, chunks, live(xp, coefficients, (n, 7), np.float64)))
    return (*weights, *ms, *vs), (None,) * len(arrays)


def _coefficients(t: int, lr: float, b1: float, b2: float, eps: float, decay: float, *, apart: bool) -> list[float]:
    """The factors that many.cu uses in step t."""
    keep, added = (1 - lr * decay, 0.0) if apart else (1.0, decay)
    return [lr / (1 - b1**t), 1 / (1 - b2**t), keep, added, eps, b1, b2]


@ops.clip_norm.tune("cupy")
def clip_norm(xp, *gradients, max_norm):
    """A launch for the sums of squares, one for their root, and one that scales all arrays in place."""
    if not handles(gradients):
        return NotImplemented
    sizes, chunks, count = _chunks(xp, tuple(x.size for x in gradients))
    partial, norm = xp.empty(count, np.float64), xp.empty((), np.float32)
    kernel("many", "squares")((count,), (256,), (_table(xp, gradients), sizes, chunks, partial))
    kernel("many", "root_of_sum")((1,), (1024,), (partial, count, norm))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    kernel("many", "scale")((count,), (256,), (_table(xp, gradients, gradients), sizes, chunks, factor))
    return (norm, *gradients), (None,) * len(gradients)


def _table(xp: ModuleType, *columns: Sequence[Array]) -> Array:
    addresses = [[x.data.ptr for x in row] for row in zip(*columns, strict=True)]
    return fixed(xp, addresses, np.int64)


@functools.lru_cache(maxsize=64)
def _chunks(xp: ModuleType, sizes: tuple[int, ...]) -> tuple[Array, Array, int]:
    """On the device: sizes, and (array, start) of every chunk; and the number of chunks."""
    chunks = [(i, start) for i, size in enumerate(sizes) for start in range(0, size, CHUNK)]
    return xp.asarray(np.array(sizes, np.int64)), xp.asarray(np.array(chunks, np.int64)), len(chunks)
