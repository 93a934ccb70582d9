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
from tinylora.kernels.cuda.again import Kept, kept
from tinylora.kernels.cuda.compile import blocks, kernel, or_null, packs, ready
from tinylora.kernels.cuda.gemm import product
from tinylora.kernels.cuda.joined import joined
from tinylora.kernels.cuda.linear import handles
from tinylora.kernels.cuda.sums import adds_inside
from tinylora.op import once
from tinylora.ops.nn import rows

Shape = tuple[int, ...]

MOST = 3  # layers at once, as in lora.cu


class Factors(NamedTuple):
    """Operands of the products of k layers of rank r, in x's dtype; k is mostly 1."""

    x: Kept  # (.., in), held or computed again
    low: Any  # (n, k r): x A
    A: Any  # (in, k r)
    B: Any  # (Σ out, k r): block diagonal, s Bᵀ of each layer
    Ws: list[Kept]  # k × (out, in)


@ops.lora_linear.tune("cupy")
def lora_linear(xp, x, weight, bias, A, B, scale):
    """Forward: one or two products of width r and a wide one. Backward: one with W + ΔW, or one with W and one with A."""
    if A.dtype != float32 or B.dtype != float32:
        return NotImplemented
    if not (weight.size and A.size) or not handles(x, weight, bias):
        return NotImplemented if x.dtype == A.dtype else _plain_lora_linear(xp, x, weight, bias, A, B, scale)
    (d_out, d_in), layer = weight.shape, (weight, bias, A, B)
    forward = _wide if d_out >= 2 * d_in and _whole_packs(x, d_in, len(B)) else narrow
    y, f = forward(xp, x, [scale], layer)
    (d_x, d_A, of_B), again = _gradients(xp, x.shape, [scale], [d_out], f), f.x

    def d_weight(g):
        return product(xp, rows(g).T, rows(again.compute()))

    def d_bias(g):
        return g

    def d_B(g):
        return of_B(g, 0)

    return y.reshape(*x.shape[:-1], d_out), (d_x, d_weight, d_bias, d_A, d_B, None)


@ops.lora_linears.tune("cupy")
def lora_linears(xp, x, scales, *layers):
    """Computes all layers as one layer of their total width. Outputs are views of (.., Σ out).

    Each x A is multiplied by zeros for the other layers, so a NaN in one is a NaN in all.
    """
    each = [layers[i : i + 4] for i in range(0, len(layers), 4)]
    if not fit(x, each):
        return NotImplemented
    (d_in, r), k, lead = each[0][2].shape, len(each), x.shape[:-1]
    y, f = _wide(xp, x, scales, *each)
    y, again = y.reshape(*lead, y.shape[-1]), f.x
    widths = [len(W) for W, *_ in each]
    starts = [sum(widths[:i]) for i in range(k)]
    of_all_x, of_all_A, of_B = _gradients(xp, x.shape, scales, widths, f)
    side_by_side = once(functools.partial(joined, lead, widths))  # (.., Σ out) from the gradients of the outputs

    @adds_inside
    def d_x(g, so_far=None):
        return of_all_x(side_by_side(g), so_far)

    @once
    def d_As(g):
        """(in, k r) -> (k, in, r)"""
        return xp.ascontiguousarray(of_all_A(side_by_side(g)).reshape(d_in, k, r).transpose(1, 0, 2))

    def own(y, i):
        return y[..., starts[i] : starts[i] + widths[i]]

    def of_layer(i):
        def d_weight(g):
            return product(xp, rows(own(side_by_side(g), i)).T, rows(again.compute()))

        def d_bias(g):
            return own(side_by_side(g), i)

        def d_A(g):
            return d_As(g)[i]

        def d_B(g):
            return of_B(side_by_side(g), i)

        return d_weight, d_bias, d_A, d_B

    return tuple(own(y, i) for i in range(k)), (d_x, None, *(vjp for i in range(k) for vjp in of_layer(i)))


def fit(x: Any, layers: Sequence[tuple[Any, ...]]) -> bool:
    """Whether these layers W, b, A, B of x can run at once: they must have the same inputs, rank and dtypes."""
    d_in, r = layers[0][0].shape[1], layers[0][2].shape[-1]
    if not 1 < len(layers) <= MOST or not (d_in and r) or x.shape[-1:] != (d_in,):
        return False
    alike = all(
        len(W) and W.shape[1:] == (d_in,) and A.shape == (d_in, r) and B.shape == (r, len(W))
        and A.dtype == B.dtype == float32 and (b is None or b.shape == W.shape[:1]) and handles(x, W, b)
        for W, b, A, B in layers
    )  # fmt: skip
    return alike and _whole_packs(x, d_in, r)


def _whole_packs(x: Any, d_in: int, r: int) -> bool:
    """Whether rows of d_in and r numbers fill 16-byte packs, and x is small enough for lora.cu's 32-bit indices."""
    return d_in * x.itemsize % 16 == r * x.itemsize % 16 == 0 and x.size + d_in * r < 2**31 and x.size // d_in < 2**24


def _gradients(xp: Any, shape: Shape, scales: Sequence[float], widths: Sequence[int], f: Factors) -> tuple[Any, ...]:
    """vjps: d_x, d_A (in, k r) of all layers together, and d_B(g, i) of layer i. Each holds only the arrays it needs."""
    again, low, A, B, Ws = f
    n, outputs, r = len(low), sum(widths), A.shape[1] // len(Ws)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    columns = [slice(start, start + width) for start, width in zip(starts, widths, strict=True)]
    flat = once(lambda g: g.reshape(n, outputs))
    latest: list[Any] = [None, None, None]  # g, dL/dx which is x's whole gradient if x is used once, and g B
    g_B = once(lambda g: latest[2] if latest[0] is g else product(xp, flat(g), B))  # (n, k r)

    @adds_inside
    def d_x(g, so_far=None):
        d = None if so_far is None else rows(so_far)
        if len(Ws) * n >= outputs:  # W + ΔW is (Σ out, in), and one more pass over dL/dx (n, in) a layer
            width = len(A)
            more = B.shape[1] if d is None and again.cheap and not width * A.itemsize % 16 else 0
            changed = _apart(xp, outputs, width + more, A.dtype)  # [W + ΔW, s Bᵀ]: g is read once for dL/dx and g B
            changed[:, width:] = B[:, :more]
            for i, (W, own) in enumerate(zip(Ws, columns, strict=True)):
                low_rank = slice(i * r, (i + 1) * r)
                product(xp, B[own, low_rank], A[:, low_rank].T, out=changed[own, :width], plus=W.compute())
            d = product(xp, flat(g), changed, out=_apart(xp, n, width + more, A.dtype) if more else None, plus=d)
            if more:
                latest[0], latest[2], d = g, d[:, width:], d[:, :width]
        else:
            d = product(xp, g_B(g), A.T, plus=d)
            for W, own in zip(Ws, columns, strict=True):
                product(xp, flat(g)[:, own], W.compute(), out=d, plus=d)
        latest[1] = d.reshape(shape)
        return latest[1]

    def d_A(g):
        found = product(xp, rows(again.compute(latest[1])).T, g_B(g), dtype=np.float32)
        latest[:] = None, None, None
        return found

    def d_B(g, i):
        return product(xp, low[:, i * r : (i + 1) * r].T, flat(g)[:, columns[i]], alpha=scales[i], dtype=np.float32)

    return d_x, d_A, d_B


def _apart(xp: Any, n: int, width: int, dtype: Any) -> Any:
    """(n, width), uninitialised, with rows that start at multiples of 128 bytes: cuBLAS reads and writes these faster."""
    line = 128 // np.dtype(dtype).itemsize
    return xp.empty((n, -(-width // line) * line), dtype)[:, :width]


def narrow(xp: Any, x: Any, scales: Sequence[float], layer: tuple[Any, ...], dropped: Any = None) -> tuple[Any, Factors]:
    """y = [x A, 1, 0] [s B; bias; 0] + x Wᵀ: the bias is one more row of B. A multiplies `dropped` if it is given."""
    again, x = kept(x), rows(x)
    weight_again, (weight, bias, A, B) = kept(layer[0]), _ready(xp, layer)
    n, (d_out, d_in), r = len(x), weight.shape, len(B)
    small_A = A if A.dtype == x.dtype else xp.empty(A.shape, x.dtype)
    small_B, x_A = xp.empty((r + 8, d_out), x.dtype), xp.empty((n, r + 8), x.dtype)
    grid = min(256, math.ceil(max(d_in * r, (r + 8) * d_out, 8 * n) / 512))
    arguments: tuple[Any, ...] = A, B, or_null(bias), float(scales[0]), d_in, d_out, r, n
    arguments += or_null(None if small_A is A else small_A), small_B, x_A
    kernel("lora", "factors", x.dtype)((grid,), (512,), arguments)
    product(xp, x if dropped is None else dropped, small_A, out=x_A[:, :r])
    y = product(xp, x_A, small_B)
    y = product(xp, x, weight.T, out=y, plus=y)
    return y, Factors(again, x_A[:, :r], small_A, small_B[:r].T, [weight_again])


def _wide(xp: Any, x: Any, scales: Sequence[float], *layers: tuple[Any, ...]) -> tuple[Any, Factors]:
    """y = [x, x A, 1, 0] [W, s Bᵀ, bias, 0]ᵀ: if y is much wider than x, copying x costs less than writing y twice."""
    again, x = kept(x), ready(xp, rows(x))
    Ws, biases, As, Bs = ([layer[i] for layer in (_ready(xp, layer) for layer in layers)] for i in range(4))
    n, d_in, r, k, outputs = len(x), len(As[0]), len(Bs[0]), len(layers), sum(map(len, Ws))
    wide_x, wide_W = (_apart(xp, rows_, d_in + k * r + 8, x.dtype) for rows_ in (n, outputs))
    wide_B, A = xp.empty((outputs, k * r), x.dtype), xp.empty((d_in, k * r), x.dtype)
    step = wide_x.strides[0] // x.itemsize
    pointers = [or_null(p) for parts in (Ws, biases, As, Bs) for p in [*parts, None, None][:MOST]]
    numbers = *[*map(float, scales), 0.0, 0.0][:MOST], *[*map(len, Ws), 0, 0][:MOST], packs(wide_W), step, d_in, r, k
    kernel("lora", "widen", x.dtype)(*blocks(packs(wide_W)), (*pointers, *numbers, wide_W, wide_B, A))
    low = product(xp, x, A)
    kernel("lora", "widen_rows", x.dtype)(*blocks(packs(wide_x)), (x, low, wide_x, packs(wide_x), step, d_in, k * r))
    return product(xp, wide_x, wide_W.T), Factors(again, low, A, wide_B, [kept(layer[0]) for layer in layers])


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
