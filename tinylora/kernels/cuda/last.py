"""Selection of one position per row, and its attention, with one launch forward and one backward.

Rows are selected by kernels in elementwise.cu; last.cu is compiled for each head size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cpu.attention import by_input
from tinylora.kernels.cuda.compile import NAMES, THREADS, blocks, kernel, mask, or_null, packs, ready
from tinylora.kernels.cuda.sums import adds_inside


@ops.rows_at.tune("cupy")
def rows_at(xp, x, last):
    """A position outside its row gives NaN, since a CUDA graph cannot raise."""
    if x.ndim != 3 or last.shape != x.shape[:1] or x.dtype not in NAMES or not x.size or x.shape[2] * x.itemsize % 16:
        return NotImplemented
    shape, dtype = x.shape, x.dtype
    last = ready(xp, last.astype(np.int64, copy=False))
    y = xp.empty((shape[0], shape[2]), dtype)
    kernel("elementwise", "rows_at", dtype)(*blocks(packs(y)), (ready(xp, x), last, y, y.size, *shape[1:]))

    @adds_inside
    def d_x(g, so_far=None):
        so_far = None if so_far is None else ready(xp, so_far.astype(dtype, copy=False))
        d = xp.empty(shape, dtype)
        arguments = ready(xp, g), last, or_null(so_far), d, d.size, *shape[1:]
        kernel("elementwise", "rows_at_backward", dtype)(*blocks(packs(d)), arguments)
        return d

    return y, (d_x, None)


@ops.attention_at.tune("cupy")
def attention_at(xp, q, k, v, last, p=0.0, key=0):
    """Keeps q, k, v and P (B, H, T) in float32. Declines more than 1024 features a head."""
    if q.ndim == 3 and k.ndim == 4 and k.shape == v.shape and 0 < k.shape[1] < q.shape[1] and q.shape[1] % k.shape[1] == 0:
        return _with_shared_heads(xp, q, k, v, last, p, key)
    if q.ndim != 3 or k.ndim != 4 or k.shape != v.shape or (len(k), k.shape[1], k.shape[3]) != q.shape:
        return NotImplemented
    if q.dtype not in NAMES or not q.dtype == k.dtype == v.dtype or not k.size or last.shape != q.shape[:1]:
        return NotImplemented
    (B, H, T, D), item, dtype = k.shape, q.itemsize, q.dtype
    if D > 1024:
        return NotImplemented
    q, k, v = ready(xp, q), _in_rows(xp, k), _in_rows(xp, v)  # (B, H, D), (B, T, H D) twice
    last = ready(xp, last.astype(np.int64, copy=False))
    y, P = xp.empty((B, H, D), dtype), xp.empty((B, H, T), np.float32)
    lanes = min(32, 1 << (-(-D * item // 16) - 1).bit_length())  # a power of two, for a tree reduction
    choice = {"D": D, "LANES": lanes, "ALIGNED": int(D * item % 16 == 0)}
    options = H, T, k.strides[1] // item, v.strides[1] // item, *mask(p, key)
    kernel("last", "attention_at", dtype, **choice)((B * H,), (THREADS,), (q, k, v, last, y, P, *options))

    def gradients(g):
        d_q, d_kv, dP = xp.empty((B, H, D), dtype), xp.empty((B, T, 2, H, D), dtype), xp.empty_like(P)
        arguments = q, k, v, last, P, ready(xp, g), dP, d_q, d_kv, *options
        kernel("last", "attention_at_backward", dtype, **choice)((B * H,), (THREADS,), arguments)
        return d_q, d_kv[:, :, 0].transpose(0, 2, 1, 3), d_kv[:, :, 1].transpose(0, 2, 1, 3)

    return y, (*by_input(gradients), None)


def _with_shared_heads(xp: Any, q: Any, k: Any, v: Any, last: Any, p: float, key: Any) -> Any:
    """Every key head (B, Hkv, T, D) repeated for its queries. cuBLAS, which the definition calls, cannot be captured."""
    (B, Hkv, T, D), G = k.shape, q.shape[1] // k.shape[1]
    result = attention_at(xp, q, xp.repeat(k, G, axis=1), xp.repeat(v, G, axis=1), last, p, key)
    if result is NotImplemented:
        return NotImplemented
    y, (d_q, d_k, d_v, _) = result

    def summed(d):
        return lambda g: d(g).reshape(B, Hkv, G, T, D).sum(axis=2)

    return y, (d_q, summed(d_k), summed(d_v), None)


def _in_rows(xp: Any, x: Any) -> Any:
    """x (B, H, T, D) as (B, T, H D): a view if its rows are evenly spaced and 16-byte aligned, else a copy."""
    B, H, T, D = x.shape
    x = x.transpose(0, 2, 1, 3).reshape(B, T, H * D)  # a view if the heads of a row are adjacent
    evenly = x.strides[2] == x.itemsize and x.strides[0] == x.shape[1] * x.strides[1] and x.strides[1] > 0
    return x if evenly and not (x.strides[1] % 16 or x.data.ptr % 16) else x.copy(order="C")
