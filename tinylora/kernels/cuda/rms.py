"""RMS norm on a GPU: each row is read once forward, and once backward with its gradient."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.again import cheap
from tinylora.kernels.cuda.compile import NAMES, blocks, kernel, or_null, ready
from tinylora.kernels.cuda.norm import MOST, WARPS
from tinylora.kernels.cuda.sums import adds_inside


@ops.rms_norm.tune("cupy")
def rms_norm(xp, x, weight, eps):
    """Keeps x, and 1 / √(mean x² + ε) of each row; y is cheap to compute again. Declines rows of odd size or too long."""
    width = x.shape[-1] if x.ndim else 0
    fits = x.size and x.dtype in NAMES and getattr(weight, "dtype", None) == x.dtype and weight.shape == (width,)
    pack = 16 // x.itemsize
    if not fits or width % pack or width > 32 * (MOST if x.itemsize == 2 else MOST // 2):
        return NotImplemented
    count = {"PACKS": -(-width // (32 * pack))}
    x, w, rows = ready(xp, x), ready(xp, weight), x.size // width
    inverse, grid = xp.empty(rows, np.float32), blocks(32 * rows, 32 * WARPS)

    def normalised():
        y = xp.empty_like(x)
        kernel("norm", "rms_norm", x.dtype, **count)(*grid, (x, w, y, inverse, rows, width, width, float(eps)))
        return y

    @adds_inside
    def d_x(g, so_far=None):
        d, g = xp.empty_like(x), ready(xp, g)
        so_far = None if so_far is None else ready(xp, so_far.astype(x.dtype, copy=False))
        kernel("norm", "rms_norm_backward", x.dtype, **count)(*grid, (x, g, w, inverse, or_null(so_far), d, rows, width))
        return d

    def d_weight(g):
        n = x.reshape(rows, width).astype(np.float32, copy=False) * inverse[:, None]
        return (g.reshape(rows, width) * n).sum(axis=0).astype(g.dtype, copy=False)

    return cheap(normalised(), normalised), (d_x, d_weight)
