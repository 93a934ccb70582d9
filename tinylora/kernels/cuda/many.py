"""Many arrays in one launch: Adam on all parameters, the joint norm of all gradients, and all of them scaled.

LoRA trains a hundred small matrices and more. One after another they cost a hundred times several launches and hardly any
arithmetic; here a table of addresses goes to the device, and one launch works through all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import Array, float32, is_cupy
from tinylora.kernels.cuda.compile import kernel
from tinylora.kernels.cuda.live import fixed, live

CHUNK = 4096  # elements that one block works through, as in many.cu


def handles(arrays: Sequence[Array]) -> bool:
    """All on the GPU, in float32 and in row order, and not all of them empty: there is no launch of no blocks."""
    return any(x.size for x in arrays) and all(is_cupy(x) and x.dtype == float32 and x.flags.c_contiguous for x in arrays)


@ops.adam.tune("cupy")
def adam(xp, *arrays, numbers, apart):
    """In one launch. Overwrites m and v, and the weights while a step is being captured."""
    n = len(arrays) // 4
    weights, gradients, ms, vs = (arrays[i * n : (i + 1) * n] for i in range(4))
    if not handles(arrays):
        return NotImplemented

    def coefficients() -> Array:
        """Of every row; those of the rows that have the same numbers are worked out once."""
        rows = numbers()
        found = {row: _coefficients(*row, apart=apart) for row in dict.fromkeys(rows)}
        return np.array([found[row] for row in rows])

    new = weights if xp.cuda.get_current_stream().is_capturing() else _like(xp, weights)
    table = _table(xp, new, weights, gradients, ms, vs)
    sizes, chunks, count = _chunks(xp, tuple(w.size for w in weights))
    kernel("many", "adam")((count,), (256,), (table, sizes, chunks, live(xp, coefficients, (n, 7), np.float64)))
    return (*new, *ms, *vs), (None,) * len(arrays)


def _coefficients(t: int, lr: float, b1: float, b2: float, eps: float, decay: float, *, apart: bool) -> list[float]:
    """What many.cu multiplies by in step t."""
    keep, added = (1 - lr * decay, 0.0) if apart else (1.0, decay)
    return [lr / (1 - b1**t), 1 / (1 - b2**t), keep, added, eps, b1, b2]


@ops.clip_norm.tune("cupy")
def clip_norm(xp, *gradients, max_norm):
    """A launch for the sums of squares, one for their root, and one that scales all arrays."""
    if not handles(gradients):
        return NotImplemented
    sizes, chunks, count = _chunks(xp, tuple(x.size for x in gradients))
    partial, norm = xp.empty(count, np.float32), xp.empty((), np.float32)
    kernel("many", "squares")((count,), (256,), (_table(xp, gradients), sizes, chunks, partial))
    kernel("many", "root_of_sum")((1,), (1024,), (partial, count, norm))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    scaled = _like(xp, gradients)
    kernel("many", "scale")((count,), (256,), (_table(xp, scaled, gradients), sizes, chunks, factor))
    return (norm, *scaled), (None,) * len(gradients)


def _like(xp: ModuleType, arrays: Sequence[Array]) -> list[Array]:
    """A new array for each, all in one piece of memory."""
    starts = np.cumsum([0, *(-(-x.size // 64) * 64 for x in arrays)]).tolist()
    memory: Any = xp.empty(starts[-1], np.float32)
    return [memory[i : i + x.size].reshape(x.shape) for x, i in zip(arrays, starts, strict=False)]


def _table(xp: ModuleType, *columns: Sequence[Array]) -> Array:
    addresses = [[x.data.ptr for x in row] for row in zip(*columns, strict=True)]
    return fixed(xp, addresses, np.int64)


@functools.lru_cache(maxsize=64)
def _chunks(xp: ModuleType, sizes: tuple[int, ...]) -> tuple[Array, Array, int]:
    """On the device: the sizes, and (array, start) of every chunk; and how many chunks there are."""
    chunks = [(i, start) for i, size in enumerate(sizes) for start in range(0, size, CHUNK)]
    return xp.asarray(np.array(sizes, np.int64)), xp.asarray(np.array(chunks, np.int64)), len(chunks)
