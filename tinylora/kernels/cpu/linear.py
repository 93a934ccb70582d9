"""Linear layers with multithreaded products, and LoRA by the cheaper of two formulas."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cpu.products import Rectangle, product
from tinylora.kernels.cpu.threads import parts, spread
from tinylora.op import once
from tinylora.ops.nn import rows

ROWS = 64  # rows of a result processed at once, while they are in the core's cache


def plain(*arrays: Any) -> bool:
    """Whether all are NumPy arrays (not meta) of one dtype, float32 or float64; None is ignored."""
    given = [x for x in arrays if x is not None]
    return all(type(x) is np.ndarray for x in given) and {x.dtype.char for x in given} in ({"f"}, {"d"})


@ops.linear.tune("numpy")
def linear(xp, x, weight, bias=None):
    """The definition with multithreaded products."""
    if not plain(x, weight, bias):
        return NotImplemented
    shape, x = x.shape, rows(x)

    def d_x(g):
        return product(rows(g), weight).reshape(shape)

    def d_weight(g):
        return product(rows(g).T, x)

    def d_bias(g):
        return g

    return product(x, weight.T, bias).reshape(*shape[:-1], len(weight)), (d_x, d_weight, d_bias)


@ops.lora_linear.tune("numpy")
def lora_linear(xp, x, weight, bias, A, B, scale):
    """y = x (Wᵀ + A · sB) + b and dL/dx = g (W + (sB)ᵀ Aᵀ): two products with a matrix plus one of rank r."""
    if not plain(x, weight, bias, A, B):
        return NotImplemented
    shape, x, s_B = x.shape, rows(x), scale * B
    x_A = product(x, A)
    y = changed_product(x, weight.T, x_A, A, s_B, bias)
    g_B = once(lambda g: product(rows(g), s_B.T))

    def d_x(g):
        return changed_product(rows(g), weight, g_B(g), s_B.T, A.T).reshape(shape)

    def d_weight(g):
        return product(rows(g).T, x)

    def d_bias(g):
        return g

    def d_A(g):
        return product(x.T, g_B(g))

    def d_B(g):
        return product((scale * x_A).T, rows(g))

    return y.reshape(*shape[:-1], len(weight)), (d_x, d_weight, d_bias, d_A, d_B, None)


@ops.quantized_linear.tune("numpy")
def quantized_linear(xp, x, bias, *parts, weight):
    """The definition, its products on several threads."""
    if not plain(x, bias):
        return NotImplemented
    shape, dtype = x.shape, x.dtype

    def W():
        return weight(xp, *parts).astype(dtype, copy=False)

    def d_x(g):
        return product(rows(g), W()).reshape(shape)

    def d_bias(g):
        return g

    y = product(rows(x), W().T, bias)
    return y.reshape(*shape[:-1], y.shape[1]), (d_x, d_bias, *[None] * len(parts))


def changed_product(x: Any, W: Any, x_P: Any, P: Any, Q: Any, bias: Any = None) -> Any:
    """x (W + P Q) + b for matrices x (N, k), W (k, m), P (k, r) and Q (r, m), where x P is given.

    Forming W + P Q takes r k m multiplications and passes over (k, m); adding (x P) Q takes r N m, and passes over (N, m).
    The first is less if N ≥ k. Neither is kept.
    """
    if len(x) >= len(W):
        return product(x, changed(W, P, Q), bias)
    if len(x) == 1:
        return product(x, W, bias) + x_P @ Q

    def side(y: Any, place: Rectangle) -> None:
        i, j = place
        for start in range(i.start, i.stop, ROWS):
            block = slice(start, min(start + ROWS, i.stop))
            y[block, j] += x_P[block] @ Q[:, j]

    return product(x, W, bias, side)


def changed(W: Any, P: Any, Q: Any) -> Any:
    """W + P Q, in W's memory layout."""
    if not W.flags.c_contiguous:
        return changed(W.T, Q.T, P.T).T if W.flags.f_contiguous else W + P @ Q
    total = np.empty_like(W)

    def part(i: slice) -> None:
        for start in range(i.start, i.stop, ROWS):
            block = slice(start, min(start + ROWS, i.stop))
            np.matmul(P[block], Q, out=total[block])
            total[block] += W[block]

    spread(part, parts(len(W), least=ROWS))
    return total
