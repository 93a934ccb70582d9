"""Layer norm and RMS norm in blocks of rows."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.kernels.cpu.blocks import in_blocks
from tinylora.kernels.cpu.linear import plain
from tinylora.ops.nn import rows


@ops.layer_norm.tune("numpy")
def layer_norm(xp, x, weight, bias, eps):
    """The definition, with means as products with a vector of 1/C. The rounding error of a mean is subtracted again, so
    that equal numbers give 0. Declines rows without features, and numbers whose squares overflow.
    """
    if not plain(x, weight, bias) or not x.size or weight.shape != x.shape[-1:]:
        return NotImplemented
    shape, x, C = x.shape, rows(x), x.shape[-1]
    n, y = np.empty_like(x, order="C"), np.empty_like(x, order="C")
    inverse = np.empty((len(x), 1), x.dtype)
    even = np.full((C, 1), 1 / C, x.dtype)

    def forward(b, scratch):
        np.subtract(x[b], x[b] @ even, out=n[b])
        n[b] -= n[b] @ even
        np.multiply(n[b], n[b], out=scratch)
        np.add(scratch @ even, eps, out=inverse[b])
        np.sqrt(inverse[b], out=inverse[b])
        np.divide(1, inverse[b], out=inverse[b])
        n[b] *= inverse[b]
        np.multiply(n[b], weight, out=y[b])
        y[b] += bias

    in_blocks(forward, x.shape, x.dtype, buffers=1)
    if not inverse.all():
        return NotImplemented

    def d_x(g):
        g, d = rows(g), np.empty_like(n)

        def backward(b, scratch):
            h = np.multiply(g[b], weight, out=d[b])
            np.multiply(h, n[b], out=scratch)
            along = scratch @ even
            h -= h @ even
            np.multiply(n[b], along, out=scratch)
            h -= scratch
            h *= inverse[b]

        in_blocks(backward, n.shape, n.dtype, buffers=1)
        return d.reshape(shape)

    def d_weight(g):
        return g * n.reshape(shape)

    def d_bias(g):
        return g

    return y.reshape(shape), (d_x, d_weight, d_bias)


@ops.rms_norm.tune("numpy")
def rms_norm(xp, x, weight, eps):
    """Keeps x and 1 / √(mean x² + ε) of each row. Declines rows without features, and numbers whose squares overflow."""
    if not plain(x, weight) or not x.size or weight.shape != x.shape[-1:]:
        return NotImplemented
    shape, x, C = x.shape, rows(x), x.shape[-1]
    y, inverse = np.empty_like(x, order="C"), np.empty((len(x), 1), x.dtype)

    def forward(b):
        some, out = x[b], y[b]
        root = np.vecdot(some, some)
        root *= 1 / C
        root += eps
        np.sqrt(root, out=root)
        np.divide(1, root, out=inverse[b, 0])
        np.multiply(some, inverse[b], out=out)
        out *= weight

    in_blocks(forward, x.shape, x.dtype)
    if not inverse.all():
        return NotImplemented

    def d_x(g):
        g, d = rows(g), np.empty_like(x, order="C")

        def backward(b, scratch):
            h = np.multiply(g[b], weight, out=d[b])
            along = np.vecdot(h, x[b])[:, None]
            along *= inverse[b] * inverse[b] * (1 / C)
            np.multiply(x[b], along, out=scratch)
            h -= scratch
            h *= inverse[b]

        in_blocks(backward, x.shape, x.dtype, buffers=1)
        return d.reshape(shape)

    def d_weight(g):
        return g * (x * inverse).reshape(shape)

    return y.reshape(shape), (d_x, d_weight)
