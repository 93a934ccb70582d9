"""A head and its cross-entropy on a GPU, in tiles of logits: nothing of the size tokens × classes is ever held.

dL/dx = Σ softmax(z)ⱼ Wⱼ - W[target] is attention with W as keys and as values, so it is computed together with the loss by
the same running softmax: e^(z - most) of each tile is multiplied by W at once, and what was added before is scaled when a
larger logit appears. Dao et al. 2022, "FlashAttention"; Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language
Models".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import float32
from tinylora.kernels.cuda.compile import NAMES, THREADS, blocks, kernel, or_null, packs, ready
from tinylora.kernels.cuda.gemm import product

TILE = 2**25  # bytes of logits in a tile: they stay in the cache
SUMS = 20 * 2**20  # bytes of float32 sums beside it
KEEP = 4  # packs of a row in a thread, as in loss.cu


@ops.linear_cross_entropy.tune("cupy")
def linear_cross_entropy(xp, x, weight, target, ignore_index=-100, d_x_too=True):
    """Keeps dL/dx (N, C); for dL/dW also x, with which it computes the logits a second time.

    An invalid target gives NaN, since a CUDA graph cannot raise. Declines other dtypes than the kernels'.
    """
    if x.dtype not in NAMES or weight.dtype != x.dtype or not x.size or not weight.size:
        return NotImplemented
    (n, C), classes, dtype = x.shape, len(weight), x.dtype
    x, weight, target = ready(xp, x), ready(xp, weight), ready(xp, target.astype(np.int64, copy=False))
    R, V = tile(n, C, classes, dtype.itemsize)
    lse, w, losses = xp.empty((3, n), np.float32)
    loss, total = xp.empty((), np.float32), xp.empty((), np.float32)
    d = xp.empty((n, C), dtype) if d_x_too else None
    z, state = xp.empty((R, V), dtype), xp.empty((R, 4), np.float32)
    sums = xp.empty((R, C), np.float32) if d_x_too else None

    def logits(z: Any, rows: slice, some: slice) -> Any:
        return product(xp, x[rows], weight[some].T, out=z[: rows.stop - rows.start, : some.stop - some.start])

    for rows in pieces(n, R):
        count = rows.stop - rows.start
        mine = None if sums is None else sums[:count]
        for some in pieces(classes, V):
            e = logits(z, rows, some)
            arguments = e, V, e.shape[1], target[rows], some.start, state, or_null(mine), C
            threads = 32 * -(-packs(e[:1]) // (32 * KEEP))
            kernel("loss", "tile_of_logits", dtype)((count,), (threads,), arguments)
            if mine is not None:
                product(xp, e, weight[some], out=mine, plus=mine if some.start else None)
        inputs = state, target[rows], weight, ignore_index, classes, or_null(mine), C
        outputs = lse[rows], w[rows], losses[rows], or_null(None if d is None else d[rows])
        kernel("loss", "end_of_rows", dtype)((count,), (THREADS,), (*inputs, *outputs))
    kernel("loss", "total_loss")((1,), (THREADS,), (losses, w, n, 1, loss, total))
    del z, sums, state

    def d_x(g):
        y = xp.empty_like(d)
        kernel("loss", "scale_by", dtype)(*blocks(packs(d)), (d, g, total, y, y.size))
        return y

    def d_weight(g):
        z, found = xp.empty((R, V), dtype), xp.empty(weight.shape, dtype)
        sums, by = xp.empty((V, C), float32), g / total
        for some in pieces(classes, V):
            mine = sums[: some.stop - some.start]
            for rows in pieces(n, R):
                dz = logits(z, rows, some)
                arguments = dz, V, dz.shape[1], target[rows], some.start, lse[rows], w[rows]
                kernel("loss", "tile_of_gradients", dtype)((len(dz),), (THREADS,), arguments)
                product(xp, dz.T, x[rows], out=mine, plus=mine if rows.start else None)
            found[some] = mine * by
        return found

    return loss, (d_x if d_x_too else None, d_weight, None)


def tile(n: int, C: int, classes: int, item: int) -> tuple[int, int]:
    """Rows and classes in a tile: as many rows as have room for their sums, in equal parts; the rest is classes."""
    parts = math.ceil(n / max(128, SUMS // (4 * C)))
    rows = 128 * math.ceil(n / parts / 128)
    width = min(THREADS * KEEP * 16 // item, max(128, TILE // (rows * item) // 128 * 128))
    return min(n, rows), min(width, 128 * math.ceil(classes / 128))


def pieces(size: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover 0 .. size."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
