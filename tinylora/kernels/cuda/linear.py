"""Products with a weight on a GPU: Linear, LoRA's Linear, and matrix products in general, all by cuBLAS.

An output that is a sum of products is written by the first and added onto by the next, while cuBLAS multiplies: the sum
takes no pass of its own, nor does a gradient that was there before. LoRA's two narrow matrices stay in float32 and are
rounded to the dtype of x for each product; their gradients are summed up in float32 and come back so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.compile import NAMES, kernel, or_null, ready
from tinylora.kernels.cuda.gemm import cublas_lt, product
from tinylora.op import once
from tinylora.ops.nn import rows
from tinylora.sums import adds


def _handles(x: Any, *others: Any) -> bool:
    """By nvmath, in one dtype that it and the kernels know."""
    alike = all(other is None or other.dtype == x.dtype for other in others)
    return alike and x.dtype in NAMES and x.size > 0 and cublas_lt() is not None


def _rows(so_far: Any) -> Any:
    return None if so_far is None else rows(so_far)


@ops.linear.tune("cupy")
def linear(xp, x, weight, bias=None):
    """The bias is copied into y first and the product added onto it."""
    if not _handles(x, weight, bias) or not weight.size:
        return NotImplemented
    shape, x = x.shape, rows(x)
    y = None
    if bias is not None:
        y = xp.empty((len(x), len(weight)), x.dtype)
        y[...] = bias
    y = product(xp, x, weight.T, out=y, plus=y)

    @adds
    def d_x(g, so_far=None):
        return product(xp, rows(g), weight, plus=_rows(so_far)).reshape(shape)

    def d_weight(g):
        return product(xp, rows(g).T, x)

    def d_bias(g):
        return g

    return y.reshape(*shape[:-1], len(weight)), (d_x, d_weight, d_bias)


@ops.lora_linear.tune("cupy")
def lora_linear(xp, x, weight, bias, A, B, scale):
    """Forward two products narrow in r and a wide one; backward one with W + ΔW, or where x has few rows one with each."""
    if A.dtype != np.float32 or B.dtype != np.float32 or not (weight.size and A.size):
        return NotImplemented
    if not _handles(x, weight, bias):
        return NotImplemented if x.dtype == A.dtype else _plain_lora_linear(xp, x, weight, bias, A, B, scale)
    shape, (d_out, d_in) = x.shape, weight.shape
    whole_packs = all(d * x.itemsize % 16 == 0 for d in (d_in, len(B))) and x.size + d_in * len(B) < 2**31
    forward = _wide if d_out >= 2 * d_in and whole_packs else _narrow
    bias = None if bias is None else ready(xp, bias)
    y, x, x_A, small_A, s_B = forward(xp, rows(x), weight, bias, ready(xp, A), ready(xp, B), scale)
    g_B = once(lambda g: product(xp, rows(g), s_B.T))  # (n, r)

    @adds
    def d_x(g, so_far=None):
        g, so_far = rows(g), _rows(so_far)
        if len(g) >= d_out:  # W + ΔW is (out, in), and one more pass over dL/dx (n, in)
            changed = product(xp, s_B.T, small_A.T, plus=weight)
            return product(xp, g, changed, plus=so_far).reshape(shape)
        d = product(xp, g_B(g), small_A.T, plus=so_far)
        return product(xp, g, weight, out=d, plus=d).reshape(shape)

    def d_weight(g):
        return product(xp, rows(g).T, x)

    def d_bias(g):
        return g

    def d_A(g):
        return product(xp, x.T, g_B(g), dtype=np.float32)

    def d_B(g):
        return product(xp, x_A.T, rows(g), alpha=scale, dtype=np.float32)

    return y.reshape(*shape[:-1], d_out), (d_x, d_weight, d_bias, d_A, d_B, None)


def _narrow(xp: Any, x: Any, weight: Any, bias: Any, A: Any, B: Any, scale: float) -> tuple[Any, ...]:
    """y = [x A, 1, 0] [s B; bias; 0] + x Wᵀ: the bias is one more row of B."""
    n, (d_out, d_in), r = len(x), weight.shape, len(B)
    small_A = _narrowed_later(xp, A, x.dtype)
    small_B, x_A = xp.empty((r + 8, d_out), x.dtype), xp.empty((n, r + 8), x.dtype)
    grid = min(256, math.ceil(max(d_in * r, (r + 8) * d_out, 8 * n) / 512))
    arguments = A, B, or_null(bias), scale, d_in, d_out, r, n, or_null(small_A), small_B, x_A
    kernel("lora", "factors", x.dtype)((grid,), (512,), arguments)
    small_A = A if small_A is None else small_A
    product(xp, x, small_A, out=x_A[:, :r])
    y = product(xp, x_A, small_B)
    return product(xp, x, weight.T, out=y, plus=y), x, x_A[:, :r], small_A, small_B[:r]


def _wide(xp: Any, x: Any, weight: Any, bias: Any, A: Any, B: Any, scale: float) -> tuple[Any, ...]:
    """y = [x, x A, 1, 0] [W, s Bᵀ, bias, 0]ᵀ: where y is much wider than x, to copy x costs less than to write y twice."""
    n, (d_out, d_in), r = len(x), weight.shape, len(B)
    x, weight, small_A = ready(xp, x), ready(xp, weight), _narrowed_later(xp, A, x.dtype)
    wide_x, wide_W = xp.empty((n, d_in + r + 8), x.dtype), xp.empty((d_out, d_in + r + 8), x.dtype)
    arguments = x, weight, or_null(bias), A, B, scale, n, d_in, d_out, r, wide_x, wide_W, or_null(small_A)
    kernel("lora", "widen", x.dtype)((1024,), (256,), arguments)
    small_A = A if small_A is None else small_A
    x, x_A = wide_x[:, :d_in], wide_x[:, d_in : d_in + r]
    product(xp, x, small_A, out=x_A)
    return product(xp, wide_x, wide_W.T), x, x_A, small_A, wide_W[:, d_in : d_in + r].T


def _narrowed_later(xp: Any, A: Any, dtype: Any) -> Any:
    """Room for A as `dtype`, if it is another one."""
    return xp.empty(A.shape, dtype) if A.dtype != dtype else None


def _plain_lora_linear(xp, x, weight, bias, A, B, scale):
    """The definition with A and B rounded to the dtype of x, and their gradients in float32."""
    small = A.astype(x.dtype), B.astype(x.dtype)
    y, (d_x, d_weight, d_bias, d_A, d_B, _) = ops.lora_linear.definition(xp, x, weight, bias, *small, scale)
    return y, (d_x, d_weight, d_bias, lambda g: d_A(g).astype(np.float32), lambda g: d_B(g).astype(np.float32), None)


@ops.matmul.tune("cupy")
def matmul(xp, a, b):
    """Two matrices, two stacks of them with the same leading axes, or a stack times one matrix. Other shapes are CuPy's."""
    if not _handles(a, b) or a.ndim < 2 or not b.size or (b.ndim != 2 and a.shape[:-2] != b.shape[:-2]):
        return NotImplemented
    shape, one = a.shape, b.ndim == 2
    a, b = (rows(a), b) if one else (_stack(a), _stack(b))
    y_shape = *shape[:-1], b.shape[-1]
    b_shape = b.shape if one else (*shape[:-2], *b.shape[-2:])

    def d_a(g):
        g = rows(g) if one else _stack(g)
        return product(xp, g, b.swapaxes(-1, -2)).reshape(shape)

    def d_b(g):
        g = rows(g) if one else _stack(g)
        if b.strides[-1] > b.strides[-2]:  # b stands by columns, and so does its gradient
            return product(xp, g.swapaxes(-1, -2), a).swapaxes(-1, -2).reshape(b_shape)
        return product(xp, a.swapaxes(-1, -2), g).reshape(b_shape)

    return product(xp, a, b).reshape(y_shape), (d_a, d_b)


def _stack(x):
    """(.., n, m) as (N, n, m)."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
