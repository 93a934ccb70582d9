"""RMS norm on a GPU: each row is read once forward, and once backward with its gradient."""

from __future__ import annotations

import math

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.again import cheap
from tinylora.kernels.cuda.compile import NAMES, THREADS, blocks, kernel, or_null, ready, spaced
from tinylora.kernels.cuda.sums import adds_inside

WIDEST = 4 * THREADS  # 16-byte packs in a row


@ops.rms_norm.tune("cupy")
def rms_norm(xp, x, weight, eps):
    """Keeps x, and 1 / √(mean x² + ε) of each row; y is cheap to compute again. Declines rows of odd size or too long."""
    width = x.shape[-1] if x.ndim else 0
    fits = x.size and x.dtype in NAMES and getattr(weight, "dtype", None) == x.dtype and weight.shape == (width,)
    pack = 16 // x.itemsize
    if not fits or width % pack or width // pack > WIDEST:
        return NotImplemented
    lanes = 32 if width // pack <= 96 else min(THREADS, 32 * math.ceil(width / pack / 32))
    count = {"LANES": lanes, "PACKS": math.ceil(width / pack / lanes)}
    x, w, rows = ready(xp, x), ready(xp, weight), x.size // width
    inverse, grid = xp.empty(rows, np.float32), blocks(lanes * rows, 128 if lanes == 32 else lanes)

    def normalised(_=None):
        y = xp.empty_like(x)
        kernel("rms", "rms_norm", x.dtype, **count)(*grid, (x, w, y, inverse, rows, width, float(eps)))
        return y

    @adds_inside
    def d_x(g, so_far=None):
        d, (g, step) = xp.empty_like(x), spaced(g)
        so_far = or_null(None if so_far is None else ready(xp, so_far.astype(x.dtype, copy=False)))
        kernel("rms", "rms_norm_backward", x.dtype, **count)(*grid, (x, g, w, inverse, so_far, d, rows, width, step))
        return d

    def d_weight(g):
        n = x.reshape(rows, width).astype(np.float32, copy=False) * inverse[:, None]
        return (g.reshape(rows, width) * n).sum(axis=0).astype(g.dtype, copy=False)

    return cheap(normalised(), normalised), (d_x, d_weight)
