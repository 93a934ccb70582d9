"""Functions that summarise: norms, log of summed exponentials, medians, quantiles, counts."""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, is_floating
from tinylora.tensor import Tensor, record
from tinylora.torch_api.comparison import isnan
from tinylora.torch_api.elementwise import add, mul, sub, where, without_derivative
from tinylora.torch_api.functional import (
    Dim,
    _correction,
    _not_empty,
    amax,
    amin,
    axes_of,
    matmul,
    mean,
    numpy_names,
    std,
    sum,
    var,
)
from tinylora.torch_api.promote import need_float, promote
from tinylora.torch_api.shaping import (
    ValuesIndices,
    _along,
    _axis,
    argsort,
    flatten,
    gather,
    reshape,
    sort,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)


# --------------------------------------------------------------------------------------------- sums
@numpy_names
def logsumexp(input: Tensor, dim: Dim, keepdim: bool = False) -> Tensor:
    """ln Σ eˣ over `dim`, without overflow;  its gradient is the softmax.

    >>> import tinylora
    >>> logsumexp(tinylora.tensor([1000.0, 1000.0]), 0).item() - 1000
    0.69317626953125
    """
    input = promote(input, floating=True)[0]
    axes = axes_of(tuple(range(input.array.ndim)) if dim is None or dim == () else dim, input.array.ndim)
    return input.clone() if not input.array.ndim else record(ops.logsumexp, input, axis=axes, keepdims=keepdim)


@numpy_names
def nansum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """`sum` that takes NaN for 0."""
    return sum(_without_nan(input), dim, keepdim, dtype=dtype)


@numpy_names
def nanmean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """`mean` of what is not NaN."""
    need_float("nanmean", input)
    total = nansum(input, dim, keepdim, dtype=dtype)
    return total / sum(~isnan(input), dim, keepdim).to(total.dtype)


def _without_nan(input: Tensor) -> Tensor:
    return where(isnan(input), 0.0, input) if is_floating(input.dtype) else input


@numpy_names
def count_nonzero(input: Tensor, dim: Dim = None) -> Tensor:
    """How many elements over `dim` are not 0."""
    return Tensor((input.array != 0).sum(axis=axes_of(dim, input.array.ndim)))


# -------------------------------------------------------------------------------------------- norms
@numpy_names
def norm(input: Tensor, p: Any = "fro", dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """(Σ |x|ᵖ)^(1/p) over `dim` (all axes if None);  p = "fro" is 2, inf the largest |x|, 0 the number of non-zeros.

    >>> import tinylora
    >>> norm(tinylora.tensor([3.0, 4.0])).item(), norm(tinylora.tensor([3.0, -4.0]), p=float("inf")).item()
    (5.0, 4.0)
    """
    if p == "nuc":
        raise NotImplementedError("norm: 'nuc' needs singular values, which tinylora does not have")
    return vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


@numpy_names
def vector_norm(x: Tensor, ord: float = 2, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """(Σ |x|ᵖ)^(1/p) over `dim`, p = ord: see `norm`. Gradient: sign x · (|x| / y)ᵖ⁻¹, and 0 where y = 0."""
    need_float("norm", x)
    x = x if dtype is None else x.to(dtype)
    axes = axes_of(None if dim == () else dim, x.array.ndim)
    if ord < 0:
        _not_empty("norm", x, axes)
    return record(ops.norm, x, p=float(ord), axis=axes, keepdims=keepdim)


@numpy_names
def matrix_norm(A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The norm of matrices: "fro" √Σ x²; 1 and -1 the largest and smallest Σ|x| of a column, inf and -inf of a row."""
    need_float("matrix_norm", A)
    A = A if dtype is None else A.to(dtype)
    row, column = _axis(dim[0], A.array.ndim), _axis(dim[1], A.array.ndim)
    if A.array.ndim < 2 or row == column:
        raise RuntimeError(f"matrix_norm takes matrices in two dims, not dims {tuple(dim)} of shape {A.shape}")
    if ord == "fro":
        return vector_norm(A, 2, (row, column), keepdim)
    if ord not in (1, -1, math.inf, -math.inf):
        raise NotImplementedError(f"matrix_norm: {ord!r} needs singular values, which tinylora does not have")
    summed, other = (row, column) if ord in (1, -1) else (column, row)
    y = vector_norm(vector_norm(A, 1, summed, True), math.copysign(math.inf, ord), other, True)
    return y if keepdim else reshape(y, [n for i, n in enumerate(A.shape) if i not in (row, column)])


# --------------------------------------------------------------------------- two statistics at a time
@numpy_names
def var_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Tensor, Tensor]:
    """(`var`, `mean`) over `dim`."""
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    y = var(input, dim, keepdim=keepdim, correction=_correction(unbiased, correction))
    return y, mean(input, dim, keepdim)


@numpy_names
def std_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Tensor, Tensor]:
    """(`std`, `mean`) over `dim`."""
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    y = std(input, dim, keepdim=keepdim, correction=_correction(unbiased, correction))
    return y, mean(input, dim, keepdim)


class MinMax(NamedTuple):
    """What aminmax returns."""

    min: Tensor
    max: Tensor


@numpy_names
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """(`amin`, `amax`) over `dim`."""
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


# -------------------------------------------------------------------------------- medians, quantiles
@numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle of all elements, the lower one of two; with `dim`, along that axis, as (values, indices). NaN wins.

    >>> import tinylora
    >>> median(tinylora.tensor([3.0, 1.0, 4.0, 1.0])).item()
    1.0
    """
    if dim is None:
        if not input.array.size:
            return input.new_tensor(math.nan, dtype=input.dtype)
        return _middle(flatten(input), 0, False).values
    _not_empty("median", input, axes_of(dim, input.array.ndim))
    return _middle(input, dim, keepdim)


def _middle(input: Tensor, dim: int, keepdim: bool) -> ValuesIndices:
    x, axis = (input if input.array.ndim else reshape(input, 1)), _axis(dim, input.array.ndim)
    xp, order = array_module(x.array), argsort(x, axis).array
    k = (x.shape[axis] - 1) // 2
    place = order[(slice(None),) * axis + (slice(k, k + 1),)]
    if is_floating(x.dtype):  # NaN sorts last
        bad = xp.isnan(x.array)
        place = xp.where(bad.any(axis=axis, keepdims=True), bad.argmax(axis=axis, keepdims=True), place)
    picked = _along(x, axis, place)
    if keepdim and input.array.ndim:
        return picked
    return ValuesIndices(squeeze(picked.values, axis), squeeze(picked.indices, axis))


@numpy_names
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The value below which a share q of the elements lies, for q a number or a vector, whose axis comes first.

    Between two elements: "linear", "lower", "higher", "nearest" or "midpoint". NaN where there is one.
    """
    kinds = ("linear", "lower", "higher", "nearest", "midpoint")
    if interpolation not in kinds:
        raise RuntimeError(f"quantile: interpolation is one of {kinds}, not {interpolation!r}")
    need_float("quantile", input)
    shares = q.array.reshape(-1).tolist() if isinstance(q, Tensor) else [q]
    given = list(reshape(q, -1)) if isinstance(q, Tensor) and q.requires_grad else shares  # q may have a gradient, too
    if any(not 0 <= share <= 1 for share in shares):
        raise RuntimeError(f"quantile: q lies between 0 and 1, not {shares}")
    x = flatten(input) if dim is None else input if input.array.ndim else reshape(input, 1)
    axis = _axis(dim or 0, x.array.ndim)
    _not_empty("quantile", x, axis)
    ordered, bad = sort(x, axis).values, Tensor(array_module(x.array).isnan(x.array).any(axis=axis, keepdims=True))
    found = [where(bad, math.nan, _between(ordered, axis, *s, interpolation)) for s in zip(shares, given, strict=True)]
    kept = [1] * input.array.ndim if dim is None else list(found[0].shape)
    shape = kept if keepdim else [n for i, n in enumerate(kept) if dim is not None and i != axis]
    shape = shape if input.array.ndim else []
    if isinstance(q, Tensor) and q.array.ndim:
        return reshape(stack(found), len(found), *shape)
    return reshape(found[0], shape)


def _between(ordered: Tensor, axis: int, share: float, given: Any, interpolation: str) -> Tensor:
    """The quantile of sorted elements, its axis kept with size 1; `given` is the share as a number, or a tensor."""
    rank = share * (ordered.shape[axis] - 1)
    if interpolation == "nearest":
        rank = round(rank)
    low, high = math.floor(rank), math.ceil(rank)
    at = [ordered[(slice(None),) * axis + (slice(i, i + 1),)] for i in (low, high)]
    weight: Any = {"lower": 0.0, "higher": 1.0, "midpoint": 0.5}.get(interpolation, rank - low)
    if isinstance(given, Tensor) and interpolation == "linear" and low != high:
        return add(at[0], mul(sub(at[1], at[0]), given * (ordered.shape[axis] - 1) - low))
    return at[0] if low == high or weight == 0 else at[1] if weight == 1 else add(at[0], mul(sub(at[1], at[0]), weight))


@numpy_names
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """(values, indices) of the k-th smallest element along `dim`, counted from 1."""
    x, axis = (input if input.array.ndim else reshape(input, 1)), _axis(dim, input.array.ndim)
    if not 1 <= k <= x.shape[axis]:
        raise RuntimeError(f"kthvalue: k = {k} is out of range for dim {dim} of shape {input.shape}")
    picked = _along(x, axis, argsort(x, axis).array[(slice(None),) * axis + (slice(k - 1, k),)])
    if keepdim and input.array.ndim:
        return picked
    return ValuesIndices(squeeze(picked.values, axis), squeeze(picked.indices, axis))


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """‖input - other‖ over all elements."""
    return vector_norm(sub(input, other), p)


def cov(input: Tensor, *, correction: int = 1) -> Tensor:
    """The covariance of variables, one per row: Σ (x - x̄)(y - ȳ) / (n - correction). Of a vector its variance."""
    if input.array.ndim > 2:
        raise RuntimeError(f"cov takes a matrix of one variable per row, and the shape is {input.shape}")
    x = promote(input, floating=True)[0].reshape(-1, input.shape[-1] if input.array.ndim else 1)
    d = sub(x, mean(x, 1, True))
    y = matmul(d, transpose(d, 0, 1)) / builtins.max(0, x.shape[1] - correction)
    return y if y.array.size > 1 else reshape(y, ())


def corrcoef(input: Tensor) -> Tensor:
    """The correlation of variables, one per row, in [-1, 1]."""
    c = cov(input)
    if not c.array.ndim:
        return c / c
    spread = c.diagonal().sqrt()
    return (c / unsqueeze(spread, 1) / unsqueeze(spread, 0)).clamp(-1, 1)


# ---------------------------------------------------------------------------------- counts and search
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, .. occurs in a vector; or the sum of its weights."""
    if input.array.ndim != 1 or input.dtype.kind not in "iu" or (input.array.size and int(input.array.min()) < 0):
        raise RuntimeError(f"bincount takes a vector of integers of at least 0, not {input.dtype} {input.shape}")
    if minlength < 0:
        raise RuntimeError(f"bincount: minlength is at least 0, not {minlength}")
    xp, w = array_module(input.array), weights
    if w is not None and w.shape != input.shape:
        raise RuntimeError(f"bincount: weights of shape {w.shape} do not fit an input of shape {input.shape}")
    y = xp.bincount(input.array.astype(np.int64), None if w is None else w.array.astype(np.float64), minlength)
    return Tensor(y if w is None or w.dtype != np.float32 else y.astype(np.float32))


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements lie in each of `bins` equal parts of [min, max], by default from the smallest to the largest."""
    need_float("histc", input)
    x = input.array.reshape(-1)
    xp = array_module(x)
    low, high = (float(x.min()), float(x.max())) if min == max and x.size else (float(min), float(max))
    low, high = (low - 1, high + 1) if low == high else (low, high)
    if bins < 1 or low > high or not (math.isfinite(low) and math.isfinite(high)):
        raise RuntimeError(f"histc: {bins} bins from {low} to {high}")
    return Tensor(xp.histogram(x, bins, (low, high))[0].astype(input.dtype))


def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where to insert each number so that sorted rows stay sorted: before equal ones, or after them (right=True).

    With `sorter`, the order that sorts them, the rows need not be sorted.
    """
    if sorter is not None:
        if sorter.shape != sorted_sequence.shape:
            raise RuntimeError(f"searchsorted: sorter of shape {sorter.shape}, sequence of shape {sorted_sequence.shape}")
        sorted_sequence = gather(sorted_sequence.detach(), -1, sorter)
    if side not in (None, "left", "right") or (right and side == "left"):
        raise RuntimeError(f"searchsorted: side is 'left' or 'right', not {side!r} with right={right}")
    sequence, right = sorted_sequence.array, right or side == "right"
    xp = array_module(sequence)
    x = input.array if isinstance(input, Tensor) else xp.asarray(input)
    if sequence.ndim > 1 and sequence.shape[:-1] != x.shape[:-1]:
        raise RuntimeError(f"searchsorted: rows of shape {sequence.shape} do not fit numbers of shape {x.shape}")
    if sequence.ndim == 1:
        found = xp.asarray(xp.searchsorted(sequence, x, "right" if right else "left"))
    else:
        wanted, rows = x.reshape(-1, x.shape[-1]), sequence.reshape(-1, sequence.shape[-1])
        pairs = zip(rows, wanted, strict=True)
        found = xp.stack([xp.searchsorted(row, w, "right" if right else "left") for row, w in pairs] or [x]).reshape(x.shape)
    return Tensor(found.astype(np.int32 if out_int32 else np.int64))


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Between which of the sorted boundaries each number lies: `searchsorted` with the arguments swapped."""
    if boundaries.array.ndim != 1:
        raise RuntimeError(f"bucketize: boundaries are a vector, and the shape is {boundaries.shape}")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements in order; with `dim`, the different slices. With their place in input and their counts.

    >>> import tinylora
    >>> [x.tolist() for x in unique(tinylora.tensor([3, 1, 3]), return_counts=True)]
    [[1, 3], [1, 2]]
    """
    x, xp = input.array, array_module(input.array)
    axis = axes_of(dim, input.array.ndim)
    options = {} if xp is not np else {"equal_nan": False}
    y = xp.unique(x, return_inverse=True, return_counts=True, axis=axis, **options)
    inverse = y[1].reshape(x.shape if axis is None else (x.shape[axis],))
    parts = [without_derivative("unique", y[0], input)] + [Tensor(inverse)] * return_inverse + [Tensor(y[2])] * return_counts
    return parts[0] if len(parts) == 1 else tuple(parts)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The flattened tensor without the elements that equal the one before; with their places and their counts."""
    if dim is not None:
        raise NotImplementedError("unique_consecutive: slices along a dim are not compared; unique(x, dim=..) does that")
    x, xp = input.array.reshape(-1), array_module(input.array)
    first = xp.concatenate([xp.ones(builtins.min(1, x.size), bool), x[1:] != x[:-1]])
    starts = first.nonzero()[0]
    inverse = (xp.cumsum(first) - 1).reshape(input.shape)
    counts = xp.diff(xp.concatenate([starts, xp.asarray([x.size])]))
    parts = (
        [without_derivative("unique_consecutive", x[first], input)]
        + [Tensor(inverse)] * return_inverse
        + [Tensor(counts)] * return_counts
    )
    return parts[0] if len(parts) == 1 else tuple(parts)
