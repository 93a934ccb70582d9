"""The ops, lifted to Tensors: PyTorch's functions, by PyTorch's names. Also importable as `nn.functional`.

Every function that takes `dim` and `keepdim` takes NumPy's `axis` and `keepdims` as well.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.op import Op
from tinylora.tensor import Tensor, record
from tinylora.torch_api.einsum import einsum as einsum
from tinylora.torch_api.network import cross_entropy as cross_entropy
from tinylora.torch_api.network import dropout as dropout
from tinylora.torch_api.network import embedding as embedding
from tinylora.torch_api.network import layer_norm as layer_norm
from tinylora.torch_api.network import linear as linear
from tinylora.torch_api.network import linear_cross_entropy as linear_cross_entropy
from tinylora.torch_api.network import lora_linear as lora_linear
from tinylora.torch_api.network import rms_norm as rms_norm
from tinylora.torch_api.network import rope as rope
from tinylora.torch_api.network import scaled_dot_product_attention as scaled_dot_product_attention
from tinylora.torch_api.promote import need_float, operand, promote, tensor, wide

Dim = int | Sequence[int] | None


# ------------------------------------------------------------------------------------------- lifting
def numpy_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of `dim` and `keepdim` be called with `axis` and `keepdims`."""

    @functools.wraps(function)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(k, k): v for k, v in kwargs.items()}
        return function(*args, **kwargs)

    return renamed


def _lift(op: Op, floating: bool = False) -> Callable[..., Tensor]:
    def lifted(*inputs: Any) -> Tensor:
        operands = promote(*inputs, floating=floating)
        if not any(isinstance(x, Tensor) for x in operands):
            raise TypeError(f"{op.name}: expected a tensor, got {', '.join(type(x).__name__ for x in inputs)}")
        try:
            return record(op, *operands)
        except ValueError:
            shapes = [tuple(x.shape) for x in inputs if hasattr(x, "shape")]
            raise RuntimeError(f"{op.name}: shapes {' and '.join(map(str, shapes))} do not broadcast") from None

    lifted.__name__ = lifted.__qualname__ = op.name
    lifted.__doc__ = op.__doc__
    return lifted


add, sub, mul, div = _lift(ops.add), _lift(ops.sub), _lift(ops.mul), _lift(ops.div, floating=True)
maximum, minimum = _lift(ops.maximum), _lift(ops.minimum)
neg, abs, relu = _lift(ops.neg), _lift(ops.abs), _lift(ops.relu)
exp, log, sqrt, rsqrt = (_lift(f, floating=True) for f in (ops.exp, ops.log, ops.sqrt, ops.rsqrt))
sin, cos, tanh, sigmoid = (_lift(f, floating=True) for f in (ops.sin, ops.cos, ops.tanh, ops.sigmoid))
erf, silu, swiglu = (_lift(f, floating=True) for f in (ops.erf, ops.silu, ops.swiglu))
_tanh_gelu, _pow = _lift(ops.gelu, floating=True), _lift(ops.pow)


def pow(input: Any, exponent: Any) -> Tensor:
    """inputᵉˣᵖᵒⁿᵉⁿᵗ. Integers to a negative power raise, as in PyTorch."""
    base, e = promote(input, exponent)
    whole = isinstance(base, Tensor) and base.dtype.kind in "iu"
    if whole and (e < 0 if isinstance(e, int) else isinstance(e, Tensor) and e.data.size and e.data.min() < 0):
        raise RuntimeError("integers to negative integer powers are not allowed: use .float() first")
    return _pow(base, e)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit: x Φ(x), or with approximate="tanh" the form GPT-2 uses."""
    if approximate == "tanh":
        return _tanh_gelu(input)
    if approximate != "none":
        raise RuntimeError(f"approximate is 'none' or 'tanh', not {approximate!r}")
    return input * 0.5 * (1.0 + erf(input * math.sqrt(0.5)))


def where(condition: Tensor, input: Any, other: Any) -> Tensor:
    """input where condition is true, else other; the side not taken gets a gradient of exactly 0, whatever stands there."""
    a, b = promote(input, other)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = tensor(a, device=condition.device)
    return record(ops.where, condition.data.astype(bool), a, b)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """A copy of input with `value` where mask is true."""
    if mask.dtype != bool:
        raise RuntimeError(f"masked_fill: the mask must be boolean, and this one is {mask.dtype}")
    return where(mask, value if isinstance(value, Tensor) else input.data.dtype.type(value).item(), input)


def clamp(input: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """input limited to [min, max]; one of the two may be None."""
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        low = input if min is None else maximum(input, min)
        return low if max is None else minimum(low, max)
    if min is None and max is None:
        raise RuntimeError("clamp: give min, max or both")
    input = promote(input, *(limit for limit in (min, max) if limit is not None))[0]
    if input.dtype.kind != "f":
        limits = np.iinfo(input.dtype)
        return record(ops.clamp, input, limits.min if min is None else min, limits.max if max is None else max)
    return record(ops.clamp, input, -math.inf if min is None else float(min), math.inf if max is None else float(max))


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


@numpy_names
def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Average over `dim` (all axes if None)."""
    input = input if dtype is None else input.to(dtype)
    need_float("mean", input)
    return _reduce(ops.mean, input, dim, keepdim)


def _correction(unbiased: bool, correction: float | None) -> float:
    return float(unbiased) if correction is None else float(correction)


@numpy_names
def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Variance over `dim`: squares divided by n - 1, by n if unbiased=False, by n - correction if given."""
    need_float("var", input)
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    return _reduce(ops.var, input, dim, keepdim, correction=_correction(unbiased, correction))


@numpy_names
def std(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Standard deviation over `dim`: the root of `var`."""
    need_float("std", input)
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
    need_float("softmax", input)
    return record(ops.softmax, wide(input), axis=axes_of(dim, input.data.ndim)).to(input.dtype)


@numpy_names
def log_softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """log(softmax), without the overflow."""
    input = input if dtype is None else input.to(dtype)
    need_float("log_softmax", input)
    return record(ops.log_softmax, wide(input), axis=axes_of(dim, input.data.ndim)).to(input.dtype)


def matmul(input: Any, other: Any) -> Tensor:
    """Matrix product over the last two axes; the axes before broadcast."""
    a, b = operand(input), operand(other)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or 0 in (a.data.ndim, b.data.ndim):
        raise RuntimeError("matmul: both sides need at least one dimension; multiply by a number with *")
    if a.dtype != b.dtype:
        raise RuntimeError(f"matmul: expected one dtype, got {a.dtype} and {b.dtype}")
    try:
        return record(ops.matmul, a, b)
    except ValueError:
        raise RuntimeError(f"matmul: shapes {a.shape} and {b.shape} cannot be multiplied") from None
