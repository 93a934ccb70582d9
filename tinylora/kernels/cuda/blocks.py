"""Attention by matrix products, in blocks of query rows of a few heads.

For exact float32, and dropout with the same mask on every device, which cuDNN does not support. Scores exist for one block
at a time, so memory is linear in the sequence length; q, k, v and one number per row are kept for backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import float32
from tinylora.kernels.cpu.attention import by_input
from tinylora.kernels.cuda.compile import NAMES, kernel
from tinylora.kernels.cuda.compile import mask as dropped
from tinylora.kernels.cuda.gemm import product

ROWS = 256  # query rows in a block: keys masked for all of them are skipped
SCORES = 2**26  # scores in a block, about

Block = tuple[slice, slice, int]  # slices of (batch · heads) and of query rows, and the number of keys these see


@ops.attention.tune("cupy")
def attention(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """The definition, with softmax, mask and dropout as one kernel between two products.

    Declines masks, other dtypes than the kernels', k and v that differ in shape or from q in batch, heads or dtype, and
    causal queries that come before the first key.
    """
    if mask is not None or q.ndim != 4 or q.dtype not in NAMES or not q.dtype == k.dtype == v.dtype:
        return NotImplemented
    (B, H, T, D), S = q.shape, k.shape[2]
    if k.shape != (B, H, S, D) or v.shape != k.shape or 0 in (q.size, k.size) or (causal and S < T):
        return NotImplemented
    scale, dtype = 1 / math.sqrt(D), q.dtype
    q, k, v = (x.reshape(B * H, -1, D) for x in (q, k, v))
    lse = xp.empty((B * H, T), np.float32)
    drop = dropped(p, key)

    def each() -> Iterator[tuple[Any, Any, Any, Any]]:
        """For every block: heads, query rows, keys, and (scores, a launcher of kernels on them)."""
        for heads, rows, n in _blocks(B * H, T, S, causal):
            s = product(xp, q[heads, rows], k[heads, :n].swapaxes(-1, -2), alpha=scale, dtype=float32)
            where = s.shape[1], n, rows.start, heads.start, T, S, int(causal)

            def run(name: str, *arrays: Any, s: Any = s, where: Any = where) -> None:
                threads = min(256, max(32, -(-where[1] // 64) * 32))
                kernel("softmax", name, dtype)((s.size // where[1],), (threads,), (s, *arrays, *where, *drop))

            yield heads, rows, slice(n), (s, run)

    y = xp.empty((B * H, T, D), dtype)
    for heads, rows, keys, (s, run) in each():
        PM = xp.empty(s.shape, dtype)
        run("weights", PM, lse)
        product(xp, PM, v[heads, keys], out=y[heads, rows])

    def gradients(g: Any) -> Any:
        g = g.reshape(B * H, T, D)
        d_q, d_k, d_v = xp.empty(q.shape, dtype), xp.zeros(k.shape, dtype), xp.zeros(v.shape, dtype)
        for heads, rows, keys, (s, run) in each():
            dP = product(xp, g[heads, rows], v[heads, keys].swapaxes(-1, -2), dtype=float32)
            PM, dS = xp.empty(s.shape, dtype), xp.empty(s.shape, dtype)
            run("weights_backward", dP, lse, PM, dS)
            some_v, some_k = d_v[heads, keys], d_k[heads, keys]
            product(xp, PM.swapaxes(-1, -2), g[heads, rows], out=some_v, plus=some_v)
            product(xp, dS.swapaxes(-1, -2), q[heads, rows], out=some_k, alpha=scale, plus=some_k)
            product(xp, dS, k[heads, keys], out=d_q[heads, rows], alpha=scale)
        return [d.reshape(B, H, -1, D) for d in (d_q, d_k, d_v)]

    return y.reshape(B, H, T, D), by_input(gradients)


def _blocks(heads: int, T: int, S: int, causal: bool) -> Iterator[Block]:
    for start in reversed(range(0, T, ROWS)):  # widest first: later blocks reuse its memory
        rows = slice(start, min(start + ROWS, T))
        n = S - T + rows.stop if causal else S
        some = max(1, SCORES // ((rows.stop - start) * n))
        for h in range(0, heads, some):
            yield slice(h, min(h + some, heads)), rows, n
