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

from tinylora.backend import Array, array_module, float32, is_cupy
from tinylora.kernels.cuda.compile import kernel
from tinylora.kernels.cuda.live import fixed, live
from tinylora.op import this_thread

CHUNK = 4096  # elements that one block works through, as in many.cu
Row = tuple[Array, Array, dict[str, Any], dict[str, Any]]  # a weight, its gradient, its state, the options of its group


def handles(arrays: Sequence[Array]) -> bool:
    """All on the GPU, in float32, in row order, and kernels are not turned off."""
    return this_thread.tuned and all(is_cupy(x) and x.dtype == float32 and x.flags.c_contiguous for x in arrays)


def adam(rows: Sequence[Row], apart: bool) -> list[Array] | None:
    """The new values of all weights by Adam, with the weight decay `apart` from the gradient (AdamW) or added to it.

    None where `handles` says no. The state's m and v are overwritten. Inside a captured step so are the weights, since the
    next replay reads what this one wrote.
    """
    weights, gradients = [w for w, *_ in rows], [g for _, g, *_ in rows]
    if not rows or not handles([*weights, *gradients]):
        return None
    xp = array_module(weights[0])
    for w, _, state, _ in rows:
        if "m" not in state:
            state.update(step=0, m=xp.zeros_like(w), v=xp.zeros_like(w))

    groups = {id(group): group for *_, group in rows}
    states = [(state, id(group)) for *_, state, group in rows]

    def coefficients() -> Array:
        """Of every row. Those of a group at one step are the same, and worked out once."""
        found: dict[tuple[int, int], int] = {}
        of_row = []
        for state, group in states:
            t = state["step"] = state["step"] + 1
            of_row.append(found.setdefault((group, t), len(found)))
        return np.array([_coefficients(t, groups[group], apart) for group, t in found])[of_row]

    new = weights if xp.cuda.get_current_stream().is_capturing() else _like(xp, weights)
    table = _table(xp, new, weights, gradients, [row[2]["m"] for row in rows], [row[2]["v"] for row in rows])
    sizes, chunks, count = _chunks(xp, tuple(w.size for w in weights))
    kernel("many", "adam")((count,), (256,), (table, sizes, chunks, live(xp, coefficients, (len(rows), 7), np.float64)))
    return new


def _coefficients(t: int, group: dict[str, Any], apart: bool) -> list[float]:
    """What many.cu multiplies by in step t."""
    (b1, b2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
    keep, added = (1 - lr * decay, 0.0) if apart else (1.0, decay)
    return [lr / (1 - b1**t), 1 / (1 - b2**t), keep, added, group["eps"], b1, b2]


def norm(arrays: Sequence[Array]) -> Array | None:
    """√ Σ x² over the elements of all arrays, as a 0-d array; None where `handles` says no."""
    if not handles(arrays):
        return None
    xp = array_module(arrays[0])
    sizes, chunks, count = _chunks(xp, tuple(x.size for x in arrays))
    partial, out = xp.empty(count, np.float32), xp.empty((), np.float32)
    kernel("many", "squares")((count,), (256,), (_table(xp, arrays), sizes, chunks, partial))
    kernel("many", "root_of_sum")((1,), (1024,), (partial, count, out))
    return out


def scaled(arrays: Sequence[Array], factor: Array) -> list[Array] | None:
    """Every array times the 0-d array `factor`; None where `handles` says no."""
    if not handles([*arrays, factor]):
        return None
    xp = array_module(factor)
    new = _like(xp, arrays)
    sizes, chunks, count = _chunks(xp, tuple(x.size for x in arrays))
    kernel("many", "scale")((count,), (256,), (_table(xp, new, arrays), sizes, chunks, factor))
    return new


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
