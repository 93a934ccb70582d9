"""Functions that pick or replace elements by index tensors and masks. (`gather` and `index_select` are in shaping.py.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, seen
from tinylora.tensor import Tensor, record
from tinylora.torch_api.creation import arange
from tinylora.torch_api.elementwise import div, mul, where
from tinylora.torch_api.functional import axes_of, numpy_names
from tinylora.torch_api.indexing import getitem
from tinylora.torch_api.rearranging import broadcast_shapes
from tinylora.torch_api.shaping import _axis, _check_index, expand, flatten, gather, reshape, scatter_add

REDUCTIONS = {"add": "sum", "multiply": "prod"}  # scatter's names, and scatter_reduce's


# --------------------------------------------------------------------------------------- scattering
@numpy_names
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """A copy of input with out[index[i][j]][j] = src[i][j] for dim 0, and so on; src may be a number, `value` too.

    reduce="add" or "multiply" combines with what is there. Where several sources meet, any of them may stay.

    >>> import tinylora
    >>> scatter(tinylora.zeros(2, 3), 1, tinylora.tensor([[2], [0]]), 1.0).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    source = value if src is None else src
    if reduce is not None:
        if reduce not in REDUCTIONS:
            raise RuntimeError(f"scatter: reduce is 'add' or 'multiply', not {reduce!r}")
        full = source if isinstance(source, Tensor) else expand(input.new_tensor(source, dtype=input.dtype), index.shape)
        return scatter_reduce(input, dim, index, full, REDUCTIONS[reduce])
    x, index, axis = _checked("scatter", input, dim, index, source)
    if isinstance(source, Tensor):
        source = source if source.array.ndim or not input.array.ndim else expand(source, index.shape)
        source = reshape(source, 1) if not source.array.ndim else source
    else:
        source = x.array.dtype.type(source).item()
    return reshape(record(ops.scatter, x, index.array, source, axis=axis), input.shape)


@numpy_names
def scatter_reduce(input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True) -> Tensor:
    """A copy of input in which each indexed element is combined with all its sources: "sum", "prod", "mean", "amax", "amin".

    With include_self=False what stood there before does not count.
    """
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError(f"scatter_reduce: reduce is 'sum', 'prod', 'mean', 'amax' or 'amin', not {reduce!r}")
    x, index, axis = _checked("scatter_reduce", input, dim, index, src)
    src = src if src.array.ndim else reshape(src, 1)
    if not include_self:
        limits = {"amax": -1, "amin": 1, "prod": 1}
        start = _limit(x.dtype, limits[reduce]) if reduce in ("amax", "amin") else limits.get(reduce, 0)
        x = record(ops.scatter, x, index.array, start, axis=axis)
    if reduce in ("sum", "mean"):
        y = scatter_add(x, axis, index, src)
        if reduce == "mean":
            ones = expand(x.new_ones(()), index.shape)
            count = scatter_add(x.new_full(x.shape, float(include_self)).to(x.dtype), axis, index, ones)
            count = where(count == 0, 1, count)
            y = div(y, count) if x.dtype.kind not in "iu" else y // count
        return reshape(y, input.shape)
    return reshape(record(ops.scatter_reduce, x, index.array, src, axis=axis, reduce=reduce), input.shape)


def _limit(dtype: np.dtype, sign: int) -> Any:
    """The largest (1) or smallest (-1) number of a dtype."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).max if sign > 0 else np.iinfo(dtype).min)
    return sign > 0 if dtype.kind == "b" else sign * np.inf


def _checked(name: str, input: Tensor, dim: int, index: Tensor, source: Any) -> tuple[Tensor, Tensor, int]:
    """The input with one axis at least, the index likewise, and the axis."""
    axis = _axis(dim, input.array.ndim)
    x = input if input.array.ndim else reshape(input, 1)
    index = index if index.array.ndim else reshape(index, 1)
    if isinstance(source, Tensor):
        if source.dtype != input.dtype:
            raise RuntimeError(f"{name}: expected one dtype, got {input.dtype} and {source.dtype}")
        shape = source.shape or (1,)
        if source.array.ndim and (
            len(shape) != index.array.ndim or any(m > n for m, n in zip(index.shape, shape, strict=True))
        ):
            raise RuntimeError(f"{name}: index of shape {index.shape} is larger than src, {source.shape}")
    if index.array.size:
        _check_index(name, x, index, axis)
    return x, index.to(np.int64), axis


# ------------------------------------------------------------------------------ whole slices by index
def _rows(name: str, input: Tensor, dim: int, index: Tensor) -> tuple[Tensor, int]:
    """`index`, one number per slice, in the shape that gather and scatter take: along `dim`, expanded to all others."""
    axis = _axis(dim, input.array.ndim)
    if index.dtype.kind not in "iu" or index.array.ndim > 1:
        raise IndexError(f"{name}: index is a vector of integers, not {index.dtype} {index.shape}")
    n, shape = index.array.size, list(input.shape or (1,))
    size = shape[axis]
    known = seen(index.array)
    if n and not (-size <= known.min() and known.max() < size):
        raise IndexError(f"{name}: index {known.min()}..{known.max()} outside dim {dim} of shape {input.shape}")
    at = reshape(Tensor(array_module(index.array).where(index.array < 0, index.array + size, index.array)), n)
    shape[axis] = n
    return expand(reshape(at, [n if a == axis else 1 for a in range(len(shape))]), shape), axis


@numpy_names
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """A copy of input with slice index[i] of `dim` increased by alpha · slice i of source."""
    at, axis = _rows("index_add", input, dim, index)
    source = _source("index_add", input, at, source)
    x = input if input.array.ndim else reshape(input, 1)
    return reshape(scatter_add(x, axis, at, source if alpha == 1 else mul(source, alpha)), input.shape)


@numpy_names
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of input with slice index[i] of `dim` replaced by slice i of source."""
    at, axis = _rows("index_copy", input, dim, index)
    source = _source("index_copy", input, at, source)
    x = input if input.array.ndim else reshape(input, 1)
    return reshape(record(ops.scatter, x, at.array, source, axis=axis), input.shape)


def _source(name: str, input: Tensor, at: Tensor, source: Tensor) -> Tensor:
    if source.dtype != input.dtype:
        raise RuntimeError(f"{name}: expected one dtype, got {input.dtype} and {source.dtype}")
    if source.shape != at.shape and (source.array.size != at.array.size or source.array.ndim):
        raise RuntimeError(f"{name}: source of shape {source.shape} does not fit {at.shape}")
    return reshape(source, at.shape)


@numpy_names
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of input with the slices `index` of `dim` filled with a number, or with a 0-d tensor."""
    if isinstance(value, Tensor) and value.array.ndim:
        raise RuntimeError(f"index_fill: value is a number or a 0-d tensor, and its shape is {value.shape}")
    at, axis = _rows("index_fill", input, dim, index)
    x = input if input.array.ndim else reshape(input, 1)
    value = value.to(x.dtype) if isinstance(value, Tensor) else x.array.dtype.type(value).item()
    return reshape(record(ops.scatter, x, at.array, value, axis=axis), input.shape)


def index_put(input: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of input with input[indices] = values, or += values with accumulate, however often an element is named."""
    y, places = input.clone(), tuple(slice(None) if i is None else i for i in indices)
    if not accumulate:
        y[places] = values
        return y
    numbers = reshape(arange(input.array.size, device=input.device), input.shape)[places]
    flat = scatter_add(reshape(y, -1), 0, reshape(numbers, -1), reshape(expand(values, numbers.shape), -1))
    return reshape(flat, input.shape)


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of input with one slice of an axis replaced by src."""
    y = input.clone()
    part = y.select(dim, index)
    if part.shape != src.shape:
        raise RuntimeError(f"select_scatter: src of shape {src.shape} does not fit a slice of shape {part.shape}")
    part.copy_(src)
    return y


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy of input with the slice start:end:step of an axis replaced by src."""
    y = input.clone()
    y[(slice(None),) * _axis(dim, input.array.ndim) + (slice(start, end, step),)] = src
    return y


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy of input with a diagonal replaced by src."""
    y = input.clone()
    part = y.diagonal(offset, dim1, dim2)
    if part.shape != src.shape:
        raise RuntimeError(f"diagonal_scatter: src of shape {src.shape} does not fit a diagonal of {part.shape}")
    part.copy_(src)
    return y


# ----------------------------------------------------------------------------------- picking elements
@numpy_names
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` whose input and indices broadcast; of the flattened tensors if dim is None.

    >>> import tinylora
    >>> x = tinylora.tensor([[3, 1, 2]])
    >>> take_along_dim(x, x.argsort(1), 1).tolist()
    [[1, 2, 3]]
    """
    if indices.dtype.kind not in "iu":
        raise RuntimeError(f"take_along_dim: indices must be integers, and these are {indices.dtype}")
    size = input.array.size if dim is None else input.size(dim)
    indices = where(indices < 0, indices + size, indices)
    if dim is None:
        return gather(flatten(input), 0, flatten(indices))
    if input.array.ndim != indices.array.ndim:
        raise RuntimeError(f"take_along_dim: shapes {input.shape} and {indices.shape} differ in their number of dims")
    axis = axes_of(dim, input.array.ndim)
    if axis is None:
        return gather(input, 0, indices)
    shape = list(broadcast_shapes(*([1 if a == axis else n for a, n in enumerate(x.shape)] for x in (input, indices))))
    sizes = [[x.shape[axis] if a == axis else n for a, n in enumerate(shape)] for x in (input, indices)]
    return gather(expand(input, sizes[0]), axis, expand(indices, sizes[1]))


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor, in the shape of `index`."""
    return getitem(flatten(input), index)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where mask is true, as a vector; the two broadcast."""
    if mask.dtype != bool:
        raise RuntimeError(f"masked_select: the mask must be boolean, and this one is {mask.dtype}")
    shape = broadcast_shapes(input.shape, mask.shape)
    return reshape(getitem(expand(input, shape), expand(mask, shape)), -1) if shape else getitem(input, mask)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """A copy of input in which the elements where mask is true are those of source, in order."""
    if mask.dtype != bool or source.dtype != input.dtype:
        raise RuntimeError(f"masked_scatter: mask {mask.dtype}, source {source.dtype} do not fit input {input.dtype}")
    shape = broadcast_shapes(input.shape, mask.shape)
    mask, xp = expand(mask, shape), array_module(mask.array)
    order = xp.cumsum(mask.array.reshape(-1)).reshape(shape) - 1
    if order.size and int(order.reshape(-1)[-1]) >= source.array.size:
        raise RuntimeError(f"masked_scatter: {int(order.max()) + 1} elements are needed, source has {source.array.size}")
    if not source.array.size:
        return expand(input, shape).clone()
    return where(mask, take(source, Tensor(xp.maximum(order, 0))), input)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Where the elements that are not 0 stand: (n, dims), or with as_tuple one vector for each axis.

    >>> import tinylora
    >>> nonzero(tinylora.tensor([[1, 0], [0, 1]])).tolist()
    [[0, 0], [1, 1]]
    """
    x, xp = input.array, array_module(input.array)
    if not x.ndim:
        count = int(bool(x))
        return (Tensor(xp.zeros(count, "int64")),) if as_tuple else Tensor(xp.zeros((count, 0), "int64"))
    places = x.nonzero()
    return tuple(map(Tensor, places)) if as_tuple else Tensor(xp.stack(places, axis=1))


def argwhere(input: Tensor) -> Tensor:
    """Where the elements that are not 0 stand: (n, dims)."""
    return nonzero(input)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at the place that each number names, 0 elsewhere: (..) -> (.., num_classes), by default the largest + 1.

    >>> import tinylora
    >>> one_hot(tinylora.tensor([0, 2])).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    ids, xp = tensor.array, array_module(tensor.array)
    if ids.dtype != np.int64:
        raise RuntimeError(f"one_hot: classes are int64, and these are {ids.dtype}; use .long()")
    if num_classes <= 0 and not ids.size:
        raise RuntimeError("one_hot: num_classes cannot be inferred from no elements")
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    classes = high + 1 if num_classes == -1 else num_classes
    if low < 0 or (ids.size and high >= classes) or num_classes < -1:
        raise RuntimeError(f"one_hot: classes {low}..{high} are not among the {classes} from 0 on")
    return Tensor((ids[..., None] == xp.arange(classes)).astype(np.int64))
