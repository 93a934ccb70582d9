"""Elementwise ops in fewer passes over memory.

A chain such as GELU is bound by memory, not by arithmetic. In blocks, with scratch arrays that stay in the core's
cache, it reads its inputs and writes its output once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import mix, total
from tinylora.kernels.cpu.blocks import BLOCK, in_blocks
from tinylora.kernels.cpu.linear import plain
from tinylora.op import once
from tinylora.ops.nn import SQRT_2_OVER_PI


@ops.gelu.tune("numpy")
def gelu(xp, x):
    """y = x s with s = (1 + t)/2, so that dy/dx = s + x s (1 - s) · 2 du/dx. Keeps only x, and computes s twice."""
    if not plain(x):
        return NotImplemented
    shape, x = x.shape, x.reshape(-1)
    y = np.empty_like(x)

    def forward(b, s):
        gate(x[b], np.multiply(x[b], x[b], out=s))
        np.multiply(s, x[b], out=y[b])

    in_blocks(forward, x.shape, x.dtype, buffers=1)

    def d_x(g):
        g, d = g.reshape(-1), np.empty_like(x)

        def backward(b, s, v):
            np.multiply(x[b], x[b], out=s)
            np.minimum(s, 1e4, out=s)  # beyond, 1 - s is 0, and x² might be infinite
            np.multiply(s, 6 * 0.044715 * SQRT_2_OVER_PI, out=v)
            v += 2 * SQRT_2_OVER_PI
            gate(x[b], s)
            v *= s  # before multiplying by x: s or 1 - s is 0 where x³ would overflow
            np.subtract(1, s, out=d[b])
            v *= d[b]
            v *= x[b]
            v += s
            np.multiply(v, g[b], out=d[b])

        in_blocks(backward, x.shape, x.dtype, buffers=2)
        return d.reshape(shape)

    return y.reshape(shape), (d_x,)


def gate(x: Any, s: Any) -> None:
    """Overwrite s, which holds x², by (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    s *= 0.044715 * SQRT_2_OVER_PI
    s += SQRT_2_OVER_PI
    s *= x
    np.tanh(s, out=s)
    s += 1
    s *= 0.5


@ops.swiglu.tune("numpy")
def swiglu(xp, gate, up):
    """Keeps only gate and up, computes s twice, and both gradients in one pass. Declines broadcasting."""
    if not plain(gate, up) or gate.shape != up.shape:
        return NotImplemented
    shape, gate, up = gate.shape, gate.reshape(-1), up.reshape(-1)
    y = np.empty_like(gate)

    def forward(b):
        sigmoid(gate[b], y[b])
        y[b] *= gate[b]
        y[b] *= up[b]

    in_blocks(forward, gate.shape, gate.dtype)

    @once
    def gradients(g):
        g, d_gate, d_up = g.reshape(-1), np.empty_like(gate), np.empty_like(up)

        def backward(b, s, v):
            sigmoid(gate[b], s)
            np.multiply(gate[b], s, out=v)
            np.multiply(v, g[b], out=d_up[b])
            np.multiply(v, s, out=d_gate[b])
            v += s
            v -= d_gate[b]  # s (1 + u (1 - s)) = u s + s - u s s
            v *= up[b]
            np.multiply(v, g[b], out=d_gate[b])

        in_blocks(backward, gate.shape, gate.dtype, buffers=2)
        return d_gate.reshape(shape), d_up.reshape(shape)

    def d_gate(g):
        return gradients(g)[0]

    def d_up(g):
        return gradients(g)[1]

    return y.reshape(shape), (d_gate, d_up)


def sigmoid(x: Any, s: Any) -> None:
    """s = 1 / (1 + e⁻ˣ), where e⁻ˣ may overflow to infinity."""
    np.negative(x, out=s)
    np.exp(s, out=s)
    s += 1
    np.divide(1, s, out=s)


@ops.dropout.tune("numpy")
def dropout(xp, x, p, key):
    """The definition's mask, drawn in blocks and kept at one byte per element."""
    if not plain(x) or p == 1:
        return NotImplemented
    shape, x = x.shape, x.reshape(-1)
    mask = np.empty(x.size, bool)
    limit, scale = np.uint64(int(p * 2**64)), 1 / (1 - p)

    def scaled(array):
        out = np.empty_like(array)

        def apply(b):
            np.multiply(array[b], mask[b], out=out[b])
            out[b] *= scale

        in_blocks(apply, array.shape, array.dtype)
        return out

    def draw(b):
        np.greater_equal(mix(np.arange(b.start, b.stop, dtype=np.uint64), key), limit, out=mask[b])

    in_blocks(draw, x.shape, x.dtype)
    return scaled(x).reshape(shape), (lambda g: scaled(g.reshape(-1)).reshape(shape), None, None)


@ops.pow.tune("numpy")
def pow(xp, a, b):
    """Squares and cubes by multiplication: NumPy takes a hundred times as long for a power in float32. Declines the rest."""
    if not plain(a) or type(b) not in (int, float) or b not in (2, 3):
        return NotImplemented

    def d_a(g):
        return g * (2 * a) if b == 2 else g * (3 * a * a)

    return a * a if b == 2 else a * a * a, (d_a, None)


@ops.sum.tune("numpy")
def sum(xp, x, axis=None, keepdims=False):
    """The full sum of a small array, whose gradient is faster to fill than to broadcast. Declines the rest."""
    if axis is not None or keepdims or not plain(x) or x.size > BLOCK // 16:
        return NotImplemented
    shape = x.shape
    return total(x), (lambda g: np.full(shape, g),)
