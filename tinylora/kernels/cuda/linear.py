"""Products with a weight, and matrix products in general, on a GPU by cuBLAS."""

from __future__ import annotations

import math
from typing import Any

from tinylora import ops
from tinylora.kernels.cuda.compile import NAMES
from tinylora.kernels.cuda.gemm import cublas_lt, product
from tinylora.kernels.cuda.sums import adds_inside
from tinylora.ops.nn import rows


def handles(x: Any, *others: Any) -> bool:
    """By nvmath, in one dtype that it and the kernels know."""
    alike = all(other is None or other.dtype == x.dtype for other in others)
    return alike and x.dtype in NAMES and x.size > 0 and cublas_lt() is not None


@ops.linear.tune("cupy")
def linear(xp, x, weight, bias=None):
    """The bias is copied into y first and the product added onto it."""
    if not handles(x, weight, bias) or not weight.size:
        return NotImplemented
    shape, x = x.shape, rows(x)
    y = None
    if bias is not None:
        y = xp.empty((len(x), len(weight)), x.dtype)
        y[...] = bias
    y = product(xp, x, weight.T, out=y, plus=y)

    @adds_inside
    def d_x(g, so_far=None):
        return product(xp, rows(g), weight, plus=None if so_far is None else rows(so_far)).reshape(shape)

    def d_weight(g):
        return product(xp, rows(g).T, x)

    def d_bias(g):
        return g

    return y.reshape(*shape[:-1], len(weight)), (d_x, d_weight, d_bias)


@ops.matmul.tune("cupy")
def matmul(xp, a, b):
    """Two matrices, two stacks of them with the same leading axes, or a stack times one matrix. Other shapes are CuPy's."""
    if not handles(a, b) or a.ndim < 2 or not b.size or (b.ndim != 2 and a.shape[:-2] != b.shape[:-2]):
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
        return product(xp, a.swapaxes(-1, -2), g).reshape(b_shape)

    return product(xp, a, b).reshape(y_shape), (d_a, d_b)


def _stack(x):
    """(.., n, m) as (N, n, m)."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
