"""Running products, maxima and minima along an axis, and differences. (`cumsum` is in functional.py.)"""

from __future__ import annotations

from typing import Any

from tinylora import ops
from tinylora.backend import array_module, int64, is_floating
from tinylora.tensor import Tensor, record
from tinylora.torch_api.functional import axes_of, numpy_names
from tinylora.torch_api.promote import need_float
from tinylora.torch_api.rearranging import narrow
from tinylora.torch_api.shaping import ValuesIndices, _along, _axis, cat


@numpy_names
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running product along `dim`. Integers and booleans multiply in int64."""
    input = input.to(dtype or (input.dtype if is_floating(input.dtype) else int64))
    axis = axes_of(dim, input.array.ndim)
    return input.clone() if axis is None else record(ops.cumprod, input, axis=axis)


@numpy_names
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """ln of the running sum of eˣ along `dim`, without overflow."""
    need_float("logcumsumexp", input)
    axis = axes_of(dim, input.array.ndim)
    return input.clone() if axis is None else record(ops.logcumsumexp, input, axis=axis)


def _running(input: Tensor, dim: int, better: str) -> ValuesIndices:
    """Where the best element so far stands, the last one of equals; NaN is the best there is."""
    x, xp = input.array, array_module(input.array)
    axis = _axis(dim, x.ndim)
    if not x.ndim or not x.size:
        return ValuesIndices(input.clone(), Tensor(xp.zeros(x.shape, "int64")))
    best = getattr(xp, better).accumulate(x, axis=axis)
    found = (x == best) | (xp.isnan(x) if is_floating(x.dtype) else False)
    order = xp.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return _along(input, axis, xp.maximum.accumulate(xp.where(found, order, 0), axis=axis))


@numpy_names
def cummax(input: Tensor, dim: int) -> ValuesIndices:
    """(values, indices) of the largest element so far along `dim`, the last one of equals.

    >>> import tinylora
    >>> cummax(tinylora.tensor([1, 3, 2, 3]), 0).indices.tolist()
    [0, 1, 1, 3]
    """
    return _running(input, dim, "maximum")


@numpy_names
def cummin(input: Tensor, dim: int) -> ValuesIndices:
    """(values, indices) of the smallest element so far along `dim`, the last one of equals."""
    return _running(input, dim, "minimum")


@numpy_names
def diff(input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None) -> Tensor:
    """xᵢ₊₁ - xᵢ along `dim`, n times over; for booleans, whether they differ."""
    if not input.array.ndim or n < 0:
        raise RuntimeError(f"diff: order {n} of a tensor of shape {input.shape}")
    if n == 0:
        return input.clone()
    axis = _axis(dim, input.array.ndim)
    ends = [x for x in (prepend, input, append) if x is not None]
    x = cat(ends, axis) if len(ends) > 1 else input
    for _ in range(min(n, x.shape[axis])):
        after, before = (narrow(x, axis, start, x.shape[axis] - 1) for start in (1, 0))
        x = after ^ before if x.dtype == bool else after - before
    return x
