"""PyTorch's functions of tensors, by PyTorch's names: element-wise (see elementwise.py), reductions, network functions.

Every function that takes `dim` and `keepdim` takes NumPy's `axis` and `keepdims` as well.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tinylora import ops
from tinylora.backend import bfloat16, float32, is_floating, next_key, seen
from tinylora.op import Op
from tinylora.tensor import Tensor, record
from tinylora.torch_api.einsum import einsum as einsum
from tinylora.torch_api.elementwise import (
    abs,
    add,
    clamp,
    cos,
    div,
    erf,
    exp,
    gelu,
    log,
    masked_fill,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    relu,
    rsqrt,
    sigmoid,
    silu,
    sin,
    sqrt,
    sub,
    tanh,
    where,
)
from tinylora.torch_api.promote import follow, operand

Dim = int | Sequence[int] | None
P = ParamSpec("P")
R = TypeVar("R")


def numpy_names(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of `dim` and `keepdim` be called with `axis` and `keepdims`."""

    @functools.wraps(function)
    def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs:
            kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(k, k): v for k, v in kwargs.items()}  # type: ignore[assignment]
        return function(*args, **kwargs)

    return renamed


# ------------------------------------------------------------------------------------------ reductions
def axes_of(dim: Dim, ndim: int) -> Any:
    """`dim` as None, a non-negative int, or a tuple of them. Raises IndexError when out of range."""
    if dim is None:
        return None
    if not isinstance(dim, int | np.integer):
        found = tuple(axes_of(int(d), ndim) for d in dim)
        if len(set(found)) < len(found):
            raise RuntimeError(f"dim {tuple(dim)} names an axis twice")
        return found or None
    if not -builtins.max(ndim, 1) <= dim < builtins.max(ndim, 1):
        raise IndexError(f"dim {dim} is out of range: a tensor of {ndim} dimensions has dims {-ndim} to {ndim - 1}")
    return int(dim) % ndim if ndim else None


def _reduce(op: Op, input: Tensor, dim: Dim, keepdim: bool, **options: Any) -> Tensor:
    axis = axes_of(dim, input.data.ndim)
    return record(op, input, axis=axis, keepdims=keepdim, **options)


@numpy_names
def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Σ over `dim` (all axes if None). Integers and booleans add up in int64."""
    input = input if dtype is None else input.to(dtype)
    return _reduce(ops.sum, input.to(np.int64) if input.dtype.kind in "biu" else input, dim, keepdim)


def _need_float(name: str, input: Tensor) -> None:
    if not is_floating(input.dtype):
        raise RuntimeError(f"{name}: expected a floating-point tensor, got {input.dtype}; use .float() first")


@numpy_names
def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Average over `dim` (all axes if None)."""
    input = input if dtype is None else input.to(dtype)
    _need_float("mean", input)
    return _reduce(ops.mean, input, dim, keepdim)


def _correction(unbiased: bool, correction: float | None) -> float:
    return float(unbiased) if correction is None else float(correction)


@numpy_names
def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Variance over `dim`: squares divided by n - 1, by n if unbiased=False, by n - correction if given."""
    _need_float("var", input)
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    return _reduce(ops.var, input, dim, keepdim, correction=_correction(unbiased, correction))


@numpy_names
def std(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Standard deviation over `dim`: the root of `var`."""
    _need_float("std", input)
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    return _reduce(ops.std, input, dim, keepdim, correction=_correction(unbiased, correction))


def _not_empty(name: str, input: Tensor, axis: Any) -> None:
    sizes = input.shape if axis is None else [input.shape[a] for a in np.atleast_1d(axis)]
    if 0 in sizes:
        kind = RuntimeError if axis is None else IndexError
        raise kind(f"{name}: nothing to reduce in a tensor of shape {input.shape}")


@numpy_names
def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Largest value over `dim`. Ties share the gradient."""
    _not_empty("amax", input, axes_of(dim, input.data.ndim))
    return _reduce(ops.amax, input, dim, keepdim)


@numpy_names
def amin(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Smallest value over `dim`. Ties share the gradient."""
    _not_empty("amin", input, axes_of(dim, input.data.ndim))
    return _reduce(ops.amin, input, dim, keepdim)


@numpy_names
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Product over one axis, or of all elements."""
    input = input if dtype is None else input.to(dtype)
    input = input.to(np.int64) if input.dtype.kind in "biu" else input
    axis = axes_of(dim, input.data.ndim)
    flat = record(ops.reshape, input, shape=(input.data.size,)) if axis is None else input
    return record(ops.prod, flat, axis=axis or 0, keepdims=keepdim and axis is not None)


@numpy_names
def cumsum(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Running sum along `dim`."""
    input = input if dtype is None else input.to(dtype)
    input = input.to(np.int64) if input.dtype.kind in "biu" else input
    axis = axes_of(dim, input.data.ndim)
    return input.clone() if axis is None else record(ops.cumsum, input, axis=axis)


# --------------------------------------------------------------------------------- softmax and products
@numpy_names
def softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """eˣ / Σ eˣ along `dim`."""
    input = input if dtype is None else input.to(dtype)
    _need_float("softmax", input)
    return record(ops.softmax, _wide(input), axis=axes_of(dim, input.data.ndim)).to(input.dtype)


@numpy_names
def log_softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """log(softmax), computed without overflow."""
    input = input if dtype is None else input.to(dtype)
    _need_float("log_softmax", input)
    return record(ops.log_softmax, _wide(input), axis=axes_of(dim, input.data.ndim)).to(input.dtype)


def _wide(input: Tensor) -> Tensor:
    """bfloat16 as float32, for sums of exponentials."""
    return input.to(float32) if input.dtype == bfloat16 else input


def matmul(input: Any, other: Any) -> Tensor:
    """Matrix product over the last two axes; leading axes broadcast."""
    a, b = operand(input), operand(other)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or 0 in (a.data.ndim, b.data.ndim):
        raise RuntimeError("matmul: both sides need at least one dimension; multiply by a number with *")
    if a.dtype != b.dtype:
        raise RuntimeError(f"matmul: expected one dtype, got {a.dtype} and {b.dtype}")
    try:
        return record(ops.matmul, a, b)
    except ValueError:
        raise RuntimeError(f"matmul: shapes {a.shape} and {b.shape} cannot be multiplied") from None


# ------------------------------------------------------------------------------------ network functions
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input Wᵀ + bias: (.., in) -> (.., out) with W (out, in)."""
    input, bias = _check_linear(input, weight, bias)
    return record(ops.linear, input, weight, bias)


def lora_linear(input: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float = 1.0) -> Tensor:
    """input Wᵀ + bias + scale · (input A) B in one op, with A (in, r) and B (r, out)."""
    input, bias = _check_linear(input, weight, bias)
    if A.shape != (weight.shape[1], B.shape[0]) or B.shape[1] != weight.shape[0]:
        raise RuntimeError(f"lora_linear: A {A.shape} and B {B.shape} do not fit a weight of shape {weight.shape}")
    return record(ops.lora_linear, input, weight, bias, A, B, float(scale))


def _one_dtype(name: str, *tensors: Tensor | None) -> None:
    """All of them floating-point, and of one kind."""
    given = [x for x in tensors if x is not None]
    _need_float(name, given[0])
    for x in given[1:]:
        if x.dtype != given[0].dtype:
            raise RuntimeError(f"{name}: expected one dtype, got {given[0].dtype} and {x.dtype}")


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    """Input and bias, in the dtype of the weight where `follow` allows it."""
    if input.data.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(f"linear: input of shape {input.shape} does not fit a weight of shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"linear: bias of shape {bias.shape} does not fit a weight of shape {weight.shape}")
    dtypes = {input.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype}
    if len(dtypes) > 1 or not is_floating(weight.dtype):
        input, bias = follow(weight, input, bias)
        _one_dtype("linear", input, weight, bias)
    return input, bias


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """Shift and scale the last axes, `normalized_shape`, to mean 0 and variance 1, then apply weight and bias."""
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise RuntimeError(f"layer_norm: an input of shape {input.shape} does not end in {shape}")
    if any(p is not None and p.shape != shape for p in (weight, bias)):
        raise RuntimeError(f"layer_norm: weight and bias need the shape {shape}")
    input, bias = (input, bias) if weight is None else follow(weight, input, bias)
    _one_dtype("layer_norm", input, weight, bias)
    if len(shape) == 1:
        return record(ops.layer_norm, input, 1.0 if weight is None else weight, 0.0 if bias is None else bias, eps=eps)
    size = math.prod(shape)
    flat = record(ops.reshape, input, shape=(*input.shape[: -len(shape)], size))
    flat_weight = 1.0 if weight is None else record(ops.reshape, weight, shape=(size,))
    flat_bias = 0.0 if bias is None else record(ops.reshape, bias, shape=(size,))
    y = record(ops.layer_norm, flat, flat_weight, flat_bias, eps=eps)
    return record(ops.reshape, y, shape=input.shape)


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """weight[input]: ids of any shape -> (.., C). Raises IndexError for ids outside the vocabulary."""
    ids = input.data
    if ids.dtype.kind not in "iu":
        raise RuntimeError(f"embedding: ids must be integers, and these are {ids.dtype}")
    known = seen(ids)
    if known.size and not (known.min() >= 0 and known.max() < weight.shape[0]):
        raise IndexError(f"embedding: ids {known.min()}..{known.max()} outside the vocabulary 0..{weight.shape[0] - 1}")
    return record(ops.embedding, weight, ids)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p); nothing when not training."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be between 0 and 1, not {p}")
    _need_float("dropout", input)
    return record(ops.dropout, input, float(p), next_key()) if training and p > 0 else input


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """softmax(q kᵀ / √D) v over (B, H, T, D), fused: see `ops.nn.attention`. Of masks it knows the causal one, for T = S."""
    if attn_mask is not None:
        raise NotImplementedError("attention: attn_mask is not supported; is_causal=True is, and masked_fill + softmax")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"attention: dropout_p must be at least 0 and below 1, not {dropout_p}")
    if is_causal and query.shape[-2] != key.shape[-2]:
        raise RuntimeError(f"attention: causal needs as many queries as keys, got {query.shape[-2]} and {key.shape[-2]}")
    _one_dtype("attention", query, key, value)
    rng = next_key() if dropout_p else 0
    try:
        return record(ops.attention, query, key, value, causal=is_causal, p=float(dropout_p), key=rng)
    except ValueError:
        shapes = f"{query.shape}, {key.shape}, {value.shape}"
        raise RuntimeError(f"attention: query, key, value have shapes {shapes}, which do not fit") from None


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits)[target]. Logits (N, classes) or (N, classes, d1, ..) or (classes,); target integers.

    Rows whose target is `ignore_index` count nothing; `weight` (classes,) weighs each row by its class.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    if target.dtype.kind not in "iu":
        raise RuntimeError(f"cross_entropy: targets must be integers (class numbers), and these are {target.dtype}")
    _need_float("cross_entropy", input)
    input = _wide(input)
    if weight is not None and weight.shape != input.shape[:2][-1:]:
        raise RuntimeError(f"cross_entropy: weight of shape {weight.shape} does not fit logits of shape {input.shape}")
    if input.data.ndim == 1:
        loss = cross_entropy(input[None], target.reshape(1), weight, ignore_index, reduction)
        return loss.reshape(()) if reduction == "none" else loss
    if target.shape != (input.shape[:1] + input.shape[2:]):
        raise ValueError(f"cross_entropy: logits of shape {input.shape} do not fit targets of shape {target.shape}")
    classes = input.shape[1]
    logits = input.permute(0, *range(2, input.data.ndim), 1).reshape(target.data.size, classes)
    flat = target.data.reshape(-1)
    known = seen(flat)
    wrong = known[((known < 0) | (known >= classes)) & (known != ignore_index)]
    if wrong.size:
        raise IndexError(f"cross_entropy: target {int(wrong[0])} is not one of the {classes} classes 0..{classes - 1}")
    w = None if weight is None else weight.data
    loss = record(ops.cross_entropy, logits, flat, w, ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(target.shape) if reduction == "none" else loss
