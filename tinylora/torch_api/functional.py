"""PyTorch's functions of tensors, by PyTorch's names: element-wise (see elementwise.py), reductions, network functions.

Every function that takes `dim` and `keepdim` takes NumPy's `axis` and `keepdims` as well.
"""

from __future__ import annotations

import builtins
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tinylora import ops
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
    swiglu,
    tanh,
    where,
)
from tinylora.torch_api.network import (
    dropout,
    embedding,
    layer_norm,
    linear,
    lora_linear,
    rms_norm,
    rope,
    scaled_dot_product_attention,
)
from tinylora.torch_api.promote import need_float, operand, wide

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
    axis = axes_of(dim, input.array.ndim)
    return record(op, input, axis=axis, keepdims=keepdim, **options)


@numpy_names
def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Σ over `dim` (all axes if None). Integers and booleans add up in int64."""
    input = input if dtype is None else input.to(dtype)
    return _reduce(ops.sum, input.to(np.int64) if input.dtype.kind in "biu" else input, dim, keepdim)


@numpy_names
def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Average over `dim` (all axes if None)."""
    input = input if dtype is None else input.to(dtype)
    need_float("mean", input)
    return _reduce(ops.mean, input, dim, keepdim)


def _correction(unbiased: bool, correction: float | None) -> float:
    return float(unbiased) if correction is None else float(correction)


def _spread(op: Op, input: Tensor, dim: Any, unbiased: bool, keepdim: bool, correction: float | None) -> Tensor:
    """var or std."""
    need_float(op.name, input)
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    correction = _correction(unbiased, correction)
    y = _reduce(op, input, dim, keepdim, correction=correction)
    if y.array.size and input.array.size / y.array.size <= correction:
        n = input.array.size // y.array.size
        message = f"{op.name}(): degrees of freedom is <= 0: the correction {correction:g} has to be below {n} elements"
        warnings.warn(message, UserWarning, stacklevel=4)
    return y


@numpy_names
def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Variance over `dim`: squares divided by n - 1, by n if unbiased=False, by n - correction if given."""
    return _spread(ops.var, input, dim, unbiased, keepdim, correction)


@numpy_names
def std(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Standard deviation over `dim`: the root of `var`."""
    return _spread(ops.std, input, dim, unbiased, keepdim, correction)


def _not_empty(name: str, input: Tensor, axis: Any) -> None:
    sizes = input.shape if axis is None else [input.shape[a] for a in np.atleast_1d(axis)]
    if 0 in sizes:
        kind = RuntimeError if axis is None else IndexError
        raise kind(f"{name}: nothing to reduce in a tensor of shape {input.shape}")


@numpy_names
def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Largest value over `dim`. Ties share the gradient."""
    _not_empty("amax", input, axes_of(dim, input.array.ndim))
    return _reduce(ops.amax, input, dim, keepdim)


@numpy_names
def amin(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Smallest value over `dim`. Ties share the gradient."""
    _not_empty("amin", input, axes_of(dim, input.array.ndim))
    return _reduce(ops.amin, input, dim, keepdim)


@numpy_names
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Product over one axis, or of all elements."""
    if dtype is not None:
        return prod(input.to(dtype), dim, keepdim).to(dtype)
    input = input.to(np.int64) if input.dtype.kind in "biu" else input
    axis = axes_of(dim, input.array.ndim)
    flat = record(ops.reshape, input, shape=(input.array.size,)) if axis is None else input
    return record(ops.prod, flat, axis=axis or 0, keepdims=keepdim and axis is not None)


@numpy_names
def cumsum(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Running sum along `dim`. Integers and booleans add up in int64."""
    input = input.to(dtype or (np.int64 if input.dtype.kind in "biu" else input.dtype))
    axis = axes_of(dim, input.array.ndim)
    return input.clone() if axis is None else record(ops.cumsum, input, axis=axis)


# --------------------------------------------------------------------------------- softmax and products
@numpy_names
def softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """eˣ / Σ eˣ along `dim`."""
    input = input if dtype is None else input.to(dtype)
    need_float("softmax", input)
    return record(ops.softmax, wide(input), axis=axes_of(dim, input.array.ndim)).to(input.dtype)


@numpy_names
def log_softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """log(softmax), computed without overflow."""
    input = input if dtype is None else input.to(dtype)
    need_float("log_softmax", input)
    return record(ops.log_softmax, wide(input), axis=axes_of(dim, input.array.ndim)).to(input.dtype)


def matmul(input: Any, other: Any) -> Tensor:
    """Matrix product over the last two axes; leading axes broadcast."""
    a, b = operand(input), operand(other)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or 0 in (a.array.ndim, b.array.ndim):
        raise RuntimeError("matmul: both sides need at least one dimension; multiply by a number with *")
    if a.dtype != b.dtype:
        raise RuntimeError(f"matmul: expected one dtype, got {a.dtype} and {b.dtype}")
    try:
        return record(ops.matmul, a, b)
    except ValueError:
        raise RuntimeError(f"matmul: shapes {a.shape} and {b.shape} cannot be multiplied") from None
