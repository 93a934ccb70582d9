"""GELU, dropout, addition and embedding on a GPU: one pass over memory each, 16 bytes per thread at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.compile import NAMES, blocks, kernel, mask, packs, ready

UNROLL = 2  # 16-byte packs per thread, as in elementwise.cu


def _handles(x: Any) -> bool:
    return x.dtype in NAMES and x.size > 0


def _threads(x: Any) -> Any:
    return blocks(-(-packs(x) // UNROLL))


@ops.gelu.tune("cupy")
def gelu(xp, x):
    """Keeps only x: backward recomputes tanh, since it is bound by memory."""
    if not _handles(x):
        return NotImplemented
    x = ready(xp, x)
    y = xp.empty_like(x)
    kernel("elementwise", "gelu", x.dtype)(*_threads(x), (x, y, x.size))

    def d_x(g):
        d, g = xp.empty_like(x), ready(xp, g)
        kernel("elementwise", "gelu_backward", x.dtype)(*_threads(x), (x, g, d, x.size))
        return d

    return y, (d_x,)


@ops.add.tune("cupy")
def add(xp, a, b):
    """For arrays of one shape; declines broadcasting and numbers, where CuPy is as fast."""
    if not (hasattr(a, "shape") and hasattr(b, "shape") and a.shape == b.shape and a.dtype == b.dtype and _handles(a)):
        return NotImplemented
    a, b = ready(xp, a), ready(xp, b)
    y = xp.empty_like(a)
    kernel("elementwise", "add", a.dtype)(*_threads(a), (a, b, y, a.size))
    return y, (lambda g: g, lambda g: g)


@ops.dropout.tune("cupy")
def dropout(xp, x, p, key):
    """Keeps only the key: backward draws the mask again. A key on the device is read at each launch."""
    if not _handles(x):
        return NotImplemented

    def masked(x):
        x = ready(xp, x)
        y = xp.empty_like(x)
        kernel("elementwise", "dropout", x.dtype)(*_threads(x), (x, y, x.size, *mask(p, key)))
        return y

    return masked(x), (masked, None, None)


@ops.embedding.tune("cupy")
def embedding(xp, weight, ids):
    """An id outside the vocabulary gives NaN, since a CUDA graph cannot raise."""
    shape, dtype, width = weight.shape, weight.dtype, weight.shape[1]
    if not _handles(weight) or not ids.size or width * weight.itemsize % 16:
        return NotImplemented
    ids = ready(xp, ids.astype(np.int64, copy=False))
    y = xp.empty((*ids.shape, width), dtype)
    kernel("elementwise", "gather_rows", dtype)(*blocks(packs(y)), (ready(xp, weight), ids, y, y.size, width, shape[0]))

    def d_weight(g):
        d = xp.zeros(shape, np.float32)
        kernel("elementwise", "scatter_rows", dtype)(*blocks(g.size), (ready(xp, g), ids, d, g.size, width, shape[0]))
        return d.astype(dtype, copy=False)

    return y, (d_weight, None)
