"""LoRA with dropout on a GPU: the mask is drawn again wherever it is needed, and nothing of x's size is kept beside x."""

from __future__ import annotations

import functools

import numpy as np

from tinylora import ops
from tinylora.backend import float32
from tinylora.kernels.cuda.compile import blocks, kernel, mask, packs, ready
from tinylora.kernels.cuda.elementwise import UNROLL
from tinylora.kernels.cuda.gemm import product
from tinylora.kernels.cuda.linear import handles
from tinylora.kernels.cuda.lora import narrow
from tinylora.kernels.cuda.sums import adds_inside
from tinylora.op import once
from tinylora.ops.nn import rows


@ops.dropout_lora_linear.tune("cupy")
def dropout_lora_linear(xp, x, weight, bias, A, B, scale, p, key):
    """As lora_linear, with M ∘ x for the product with A, and M in the pass that adds the two parts of dL/dx."""
    if A.dtype != float32 or B.dtype != float32:
        return NotImplemented
    if not (weight.size and A.size) or not handles(x, weight, bias):
        return NotImplemented if x.dtype == A.dtype else _plain(xp, x, weight, bias, A, B, scale, p, key)
    shape, drop = x.shape, mask(p, key)

    def dropped(x):
        x = ready(xp, x)
        y = xp.empty_like(x)
        kernel("elementwise", "dropout", x.dtype)(*blocks(-(-packs(x) // UNROLL)), (x, y, x.size, *drop))
        return rows(y)

    y, (again, low, small_A, small_B, (W,)) = narrow(xp, x, [scale], (weight, bias, A, B), dropped(x))
    g_B = once(lambda g: product(xp, rows(g), small_B))  # (N, r)

    @adds_inside
    def d_x(g, so_far=None):
        d = product(xp, rows(g), W.compute(), plus=None if so_far is None else rows(so_far))
        side = product(xp, g_B(g), small_A.T)
        kernel("elementwise", "add_dropped", d.dtype)(*blocks(-(-packs(d) // UNROLL)), (d, side, d, d.size, *drop))
        return d.reshape(shape)

    def d_weight(g):
        return product(xp, rows(g).T, rows(again.compute()))

    def d_bias(g):
        return g

    def d_A(g):
        return product(xp, dropped(again.compute()).T, g_B(g), dtype=np.float32)

    def d_B(g):
        return product(xp, low.T, rows(g), alpha=scale, dtype=np.float32)

    return y.reshape(*shape[:-1], y.shape[-1]), (d_x, d_weight, d_bias, d_A, d_B, None, None, None)


def _plain(xp, x, weight, bias, A, B, scale, p, key):
    """The definition in float32; all but A and B and their gradients are rounded to the dtype of x."""
    wide = (None if part is None else part.astype(float32) for part in (x, weight, bias))
    y, (*vjps, d_A, d_B, _, _, _) = ops.dropout_lora_linear.definition(xp, *wide, A, B, scale, p, key)
    of_others = [_rounded(vjp, x.dtype) for vjp in vjps]  # d_x, d_weight, d_bias
    return y.astype(x.dtype), (*of_others, _rounded(d_A, float32), _rounded(d_B, float32), None, None, None)


def _rounded(vjp, dtype):
    @functools.wraps(vjp)
    def rounded(g):
        return vjp(g.astype(float32)).astype(dtype, copy=False)

    return rounded
