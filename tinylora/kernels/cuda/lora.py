"""LoRA on a GPU: a Linear with its low-rank change, or several of one input at once.

Where an output is a sum of products, cuBLAS adds each to the one before, so the sum needs no pass of its own; nor does
adding to an earlier gradient. A and B stay in float32 and are rounded to the dtype of x for each product; their gradients
are accumulated and returned in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinylora import ops
from tinylora.backend import float32
from tinylora.kernels.cuda.compile import kernel, or_null, ready
from tinylora.kernels.cuda.gemm import product
from tinylora.kernels.cuda.joined import joined
from tinylora.kernels.cuda.linear import handles
from tinylora.kernels.cuda.sums import adds_inside
from tinylora.op import once
from tinylora.ops.nn import rows

MOST = 3  # layers at once, as in lora.cu


class Factors(NamedTuple):
    """Operands of the products of k layers of rank r, in x's dtype; k is mostly 1."""

    x: Any  # (n, in)
    low: Any  # (n, k r): x A
    A: Any  # (in, k r)
    B: Any  # (k out, k r): block diagonal, s Bᵀ of each layer
    W: Any  # (k out, in)


@ops.lora_linear.tune("cupy")
def lora_linear(xp, x, weight, bias, A, B, scale):
    """Forward: one or two products of width r and a wide one. Backward: one with W + ΔW, or one with W and one with A."""
    if A.dtype != float32 or B.dtype != float32:
        return NotImplemented
    if not (weight.size and A.size) or not handles(x, weight, bias):
        return NotImplemented if x.dtype == A.dtype else _plain_lora_linear(xp, x, weight, bias, A, B, scale)
    (d_out, d_in), layer = weight.shape, (weight, bias, A, B)
    forward = _wide if d_out >= 2 * d_in and _whole_packs(x, d_in, len(B)) else _narrow
    y, f = forward(xp, rows(x), scale, layer)
    (d_x, d_A, d_B), x_rows = _gradients(xp, x.shape, scale, f), f.x

    def d_weight(g):
        return product(xp, rows(g).T, x_rows)

    def d_bias(g):
        return g

    return y.reshape(*x.shape[:-1], d_out), (d_x, d_weight, d_bias, d_A, d_B, None)


@ops.lora_linears.tune("cupy")
def lora_linears(xp, x, scales, *layers):
    """Computes all layers as one layer of their total width. Outputs are views of (.., k, out).

    Each x A is multiplied by zeros for the other layers, so a NaN in one is a NaN in all.
    """
    each = [layers[i : i + 4] for i in range(0, len(layers), 4)]
    if len(set(scales)) > 1 or not fit(x, each):
        return NotImplemented
    (d_out, d_in), r, k = each[0][0].shape, len(each[0][3]), len(each)
    y, f = _wide(xp, rows(x), scales[0], *each)
    y = y.reshape(*x.shape[:-1], k, d_out)
    (of_all_x, of_all_A, of_all_B), x_rows = _gradients(xp, x.shape, scales[0], f), f.x
    side_by_side = once(functools.partial(joined, y.shape))  # (.., k, out) from the gradients of the outputs

    @adds_inside
    def d_x(g, so_far=None):
        return of_all_x(side_by_side(g), so_far)

    def by_layer(d):
        """(in, k r) -> (k, in, r)"""
        return xp.ascontiguousarray(d.reshape(d_in, k, r).transpose(1, 0, 2))

    def own(d):
        """(k r, k out) -> (k, r, out), the diagonal blocks."""
        blocks = xp.lib.stride_tricks.as_strided(d, (k, r, d_out), ((r * k + 1) * d_out * 4, k * d_out * 4, 4))
        return xp.ascontiguousarray(blocks)

    d_As = once(lambda g: by_layer(of_all_A(side_by_side(g))))
    d_Bs = once(lambda g: own(of_all_B(side_by_side(g))))

    def of_layer(i):
        def d_weight(g):
            return product(xp, rows(side_by_side(g)[..., i, :]).T, x_rows)

        def d_bias(g):
            return side_by_side(g)[..., i, :]

        def d_A(g):
            return d_As(g)[i]

        def d_B(g):
            return d_Bs(g)[i]

        return d_weight, d_bias, d_A, d_B

    outputs = tuple(y[..., i, :] for i in range(k))
    return outputs, (d_x, None, *(vjp for i in range(k) for vjp in of_layer(i)))


def fit(x: Any, layers: Sequence[tuple[Any, ...]]) -> bool:
    """Whether these layers W, b, A, B of x can run at once: they must have the same shapes and dtypes."""
    (d_out, d_in), bias, r = layers[0][0].shape, layers[0][1], layers[0][2].shape[-1]
    if not 1 < len(layers) <= MOST or not (d_out and d_in and r) or x.shape[-1:] != (d_in,):
        return False
    alike = all(
        W.shape == (d_out, d_in) and A.shape == (d_in, r) and B.shape == (r, d_out) and A.dtype == B.dtype == float32
        and (b is None) == (bias is None) and (b is None or b.shape == (d_out,)) and handles(x, W, b)
        for W, b, A, B in layers
    )  # fmt: skip
    return alike and _whole_packs(x, d_in, r)


def _whole_packs(x: Any, d_in: int, r: int) -> bool:
    """Whether rows of d_in and r numbers fill 16-byte packs, and x is small enough for lora.cu's 32-bit indices."""
    return d_in * x.itemsize % 16 == r * x.itemsize % 16 == 0 and x.size + d_in * r < 2**31 and x.size // d_in < 2**24


def _gradients(xp: Any, shape: tuple[int, ...], scale: float, f: Factors) -> tuple[Callable[..., Any], ...]:
    """vjps: d_x, and d_A (in, k r) and d_B (k r, k out) of all layers together. Each holds only the arrays it needs."""
    x, low, A, B, W = f
    n, outputs = len(x), len(W)
    flat = once(lambda g: g.reshape(n, outputs))  # (n, k out)
    g_B = once(lambda g: product(xp, flat(g), B))  # (n, k r)

    @adds_inside
    def d_x(g, so_far=None):
        so_far = None if so_far is None else rows(so_far)
        if n >= outputs:  # W + ΔW is (out, in), and one more pass over dL/dx (n, in)
            changed = product(xp, B, A.T, plus=W)
            return product(xp, flat(g), changed, plus=so_far).reshape(shape)
        d = product(xp, g_B(g), A.T, plus=so_far)
        return product(xp, flat(g), W, out=d, plus=d).reshape(shape)

    def d_A(g):
        return product(xp, x.T, g_B(g), dtype=np.float32)

    def d_B(g):
        return product(xp, low.T, flat(g), alpha=scale, dtype=np.float32)

    return d_x, d_A, d_B


def _narrow(xp: Any, x: Any, scale: float, layer: tuple[Any, ...]) -> tuple[Any, Factors]:
    """y = [x A, 1, 0] [s B; bias; 0] + x Wᵀ: the bias is one more row of B."""
    weight, bias, A, B = _ready(xp, layer)
    n, (d_out, d_in), r = len(x), weight.shape, len(B)
    small_A = A if A.dtype == x.dtype else xp.empty(A.shape, x.dtype)
    small_B, x_A = xp.empty((r + 8, d_out), x.dtype), xp.empty((n, r + 8), x.dtype)
    grid = min(256, math.ceil(max(d_in * r, (r + 8) * d_out, 8 * n) / 512))
    arguments: tuple[Any, ...] = A, B, or_null(bias), float(scale), d_in, d_out, r, n
    arguments += or_null(None if small_A is A else small_A), small_B, x_A
    kernel("lora", "factors", x.dtype)((grid,), (512,), arguments)
    product(xp, x, small_A, out=x_A[:, :r])
    y = product(xp, x_A, small_B)
    y = product(xp, x, weight.T, out=y, plus=y)
    return y, Factors(x, x_A[:, :r], small_A, small_B[:r].T, weight)


def _wide(xp: Any, x: Any, scale: float, *layers: tuple[Any, ...]) -> tuple[Any, Factors]:
    """y = [x, x A, 1, 0] [W, s Bᵀ, bias, 0]ᵀ: if y is much wider than x, copying x costs less than writing y twice."""
    n, (d_out, d_in), r, k = len(x), layers[0][0].shape, len(layers[0][3]), len(layers)
    width = d_in + k * r + 8
    wide_x, wide_W, A = (xp.empty(shape, x.dtype) for shape in ((n, width), (k * d_out, width), (d_in, k * r)))
    by_kind = zip(*(_ready(xp, layer) for layer in layers), strict=True)  # all W, all b, all A, all B
    pointers = [or_null(p) for parts in by_kind for p in [*parts, None, None][:MOST]]
    arguments = ready(xp, x), *pointers, float(scale), n, d_in, d_out, r, k, wide_x, wide_W, A
    kernel("lora", "widen", x.dtype)((n + k * d_out,), (128,), arguments)
    x, x_A, B = wide_x[:, :d_in], wide_x[:, d_in : d_in + k * r], wide_W[:, d_in : d_in + k * r]
    product(xp, x, A, out=x_A)
    return product(xp, wide_x, wide_W.T), Factors(x, x_A, A, B, wide_W[:, :d_in])


def _ready(xp: Any, layer: tuple[Any, ...]) -> list[Any]:
    return [None if p is None else ready(xp, p) for p in layer]


def _plain_lora_linear(xp, x, weight, bias, A, B, scale):
    """The definition with A and B rounded to the dtype of x, their gradients in float32 and all else in the dtype of x.

    CuPy takes bfloat16 for float32 beside a Python number such as the scale.
    """
    small = A.astype(x.dtype), B.astype(x.dtype)
    y, (*vjps, d_A, d_B, _) = ops.lora_linear.definition(xp, x, weight, bias, *small, scale)
    of_others = [_in_dtype(vjp, x.dtype) for vjp in vjps]  # d_x, d_weight, d_bias
    return y.astype(x.dtype, copy=False), (*of_others, _in_dtype(d_A, float32), _in_dtype(d_B, float32), None)


def _in_dtype(vjp: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    @functools.wraps(vjp)
    def in_dtype(g: Any) -> Any:
        return vjp(g).astype(dtype, copy=False)

    return in_dtype
