"""Layer norm on a GPU: a row is read once forward, and once more with its gradient on the way back."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.compile import NAMES, blocks, kernel, or_null, ready
from tinylora.kernels.cuda.sums import adds_inside

MOST = 128  # numbers of a row that one of its 32 threads can hold in registers
WARPS = 4  # rows in a block


@ops.layer_norm.tune("cupy")
def layer_norm(xp, x, weight, bias, eps):
    """Keeps x, and mean and 1 / √(variance + ε) of each row. Declines rows that are odd in size or too long."""
    width = x.shape[-1] if x.ndim else 0
    arrays = [a for a in (weight, bias) if hasattr(a, "dtype")]
    plain = all(hasattr(a, "dtype") or a == one for a, one in ((weight, 1), (bias, 0)))
    if not (x.size and x.dtype in NAMES and plain and all(a.dtype == x.dtype and a.shape == (width,) for a in arrays)):
        return NotImplemented
    pack = 16 // x.itemsize
    if width % pack or width > 32 * (MOST if x.itemsize == 2 else MOST // 2):
        return NotImplemented
    count = {"PACKS": -(-width // (32 * pack))}
    x, rows = ready(xp, x), x.size // width
    y, stats = xp.empty_like(x), xp.empty((rows, 2), np.float32)
    w, b = (ready(xp, a) if hasattr(a, "dtype") else np.uint64(0) for a in (weight, bias))
    grid = blocks(32 * rows, 32 * WARPS)
    kernel("norm", "layer_norm", x.dtype, **count)(*grid, (x, w, b, y, stats, rows, width, float(eps)))

    @adds_inside
    def d_x(g, so_far=None):
        d, g = xp.empty_like(x), ready(xp, g)
        so_far = None if so_far is None else ready(xp, so_far.astype(x.dtype, copy=False))
        kernel("norm", "layer_norm_backward", x.dtype, **count)(*grid, (x, g, w, stats, or_null(so_far), d, rows, width))
        return d

    def d_weight(g):
        n = (x.reshape(rows, width).astype(np.float32, copy=False) - stats[:, :1]) * stats[:, 1:]
        return (g.reshape(rows, width) * n).sum(axis=0).astype(g.dtype, copy=False)

    def d_bias(g):
        return g

    return y, (d_x, d_weight, d_bias)
