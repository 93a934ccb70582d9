"""Functions that change shape or order: views, joining, splitting, gathering, sorting."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

from tinylora import ops
from tinylora.backend import array_module
from tinylora.tensor import Tensor, record
from tinylora.torch_api import functional as F
from tinylora.torch_api.functional import axes_of, numpy_names
from tinylora.torch_api.promote import promote
from tinylora.torch_api.views import view


class ValuesIndices(NamedTuple):
    """What max, min, sort and topk along an axis return."""

    values: Tensor
    indices: Tensor


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3) from f(2, 3), f((2, 3)) or f([2, 3])."""
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
    return tuple(int(n) for n in given)


def _axis(dim: int, ndim: int) -> int:
    return axes_of(dim, ndim) or 0


# --------------------------------------------------------------------------------------------- views
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same numbers in a new shape, a view if their layout in memory allows; one size may be -1 and is then inferred."""
    sizes, count = _sizes(shape), input.array.size
    known = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1 or (-1 in sizes and (known == 0 or count % known)) or (-1 not in sizes and known != count):
        raise RuntimeError(f"reshape: {count} elements of shape {input.shape} do not fit {sizes}")
    return view(ops.reshape, input, shape=tuple(count // known if n == -1 else n for n in sizes))


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Join the axes from start_dim to end_dim into one."""
    if not input.array.ndim:
        return reshape(input, 1)
    start, end = _axis(start_dim, input.array.ndim), _axis(end_dim, input.array.ndim)
    if start > end:
        raise RuntimeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    shape = input.shape
    return reshape(input, *shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Axes in a new order."""
    order = tuple(_axis(d, input.array.ndim) for d in _sizes(dims))
    if sorted(order) != list(range(input.array.ndim)):
        raise RuntimeError(f"permute: {_sizes(dims)} is no order of the dims of a tensor of shape {input.shape}")
    return view(ops.permute, input, axes=order)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Swap two axes."""
    order = list(range(input.array.ndim))
    a, b = _axis(dim0, input.array.ndim), _axis(dim1, input.array.ndim)
    if order:
        order[a], order[b] = order[b], order[a]
    return view(ops.permute, input, axes=tuple(order))


@numpy_names
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Drop axes of size 1: all, or those of `dim`."""
    ndim = input.array.ndim
    chosen = range(ndim) if dim is None else [_axis(d, ndim) for d in ([dim] if isinstance(dim, int) else dim)]
    return reshape(input, [n for i, n in enumerate(input.shape) if n != 1 or i not in chosen])


@numpy_names
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Insert an axis of size 1 at `dim`."""
    at = axes_of(dim, input.array.ndim + 1)
    return reshape(input, *input.shape[:at], 1, *input.shape[at:])


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Repeat axes of size 1 without copying; -1 leaves an axis as it is."""
    wanted = _sizes(sizes)
    own = (1,) * (len(wanted) - input.array.ndim) + input.shape
    shape = tuple(m if n == -1 else n for n, m in zip(wanted, own[-len(wanted) :] if wanted else (), strict=True))
    if len(wanted) < input.array.ndim or any(m not in (1, n) for n, m in zip(shape, own, strict=True)):
        raise RuntimeError(f"expand: a tensor of shape {input.shape} cannot be expanded to {wanted}")
    return view(ops.expand, input, shape=shape)


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """The same numbers in the shape of `other`."""
    return reshape(input, other.shape)


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """Expanded to the shape of `other`."""
    return expand(input, other.shape)


def t(input: Tensor) -> Tensor:
    """A matrix transposed; a vector as it is."""
    if input.array.ndim > 2:
        raise RuntimeError(f"t takes a matrix, and the shape is {input.shape}; .mT swaps the last two axes")
    return transpose(input, 0, 1) if input.array.ndim > 1 else input


def _matrix(name: str, input: Tensor) -> None:
    if input.array.ndim < 2:
        raise RuntimeError(f"{name} needs at least 2 dims, and the shape is {input.shape}")


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes, zeros elsewhere."""
    _matrix("tril", input)
    return record(ops.tril, input, diagonal=diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes, zeros elsewhere."""
    _matrix("triu", input)
    return record(ops.triu, input, diagonal=diagonal)


# ------------------------------------------------------------------------------- joining and splitting
@numpy_names
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along an existing axis."""
    if not tensors:
        raise ValueError("cat: expected at least one tensor to join")
    parts = promote(*tensors)
    filled = [x for x in parts if x.shape != (0,)]  # PyTorch lets an empty vector stand beside tensors of any shape
    parts = filled if filled and filled[0].array.ndim > 1 else parts
    axis = _axis(dim, parts[0].array.ndim)
    shapes = [x.shape for x in parts]
    if len({s[:axis] + s[axis + 1 :] for s in shapes}) > 1 or len({len(s) for s in shapes}) > 1 or () in shapes:
        raise RuntimeError(f"cat: shapes {', '.join(map(str, shapes))} differ elsewhere than in dim {dim}")
    return record(ops.cat, *parts, axis=axis)


@numpy_names
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    if not tensors:
        raise RuntimeError("stack: expected at least one tensor to join")
    if len({x.shape for x in tensors}) > 1:
        raise RuntimeError(f"stack: shapes {', '.join(str(x.shape) for x in tensors)} differ")
    return cat([unsqueeze(x, dim) for x in tensors], axes_of(dim, tensors[0].array.ndim + 1))


@numpy_names
def split(input: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along an axis: of one size (the last may be shorter), or of the sizes in a list."""
    axis = _axis(dim, input.array.ndim)
    n = input.shape[axis]
    if isinstance(split_size, int):
        if split_size <= 0:
            raise RuntimeError(f"split: the size of a piece is at least 1, not {split_size}")
        sizes = [builtins.min(split_size, n - start) for start in range(0, n, split_size)] or [0]
    else:
        sizes = list(split_size)
    if sum(sizes) != n:
        raise RuntimeError(f"split: sizes {sizes} do not add up to {n}, the size of dim {dim}")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(input[(slice(None),) * axis + (slice(e - m, e),)] for m, e in zip(sizes, ends, strict=True))


@numpy_names
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size, the last maybe shorter."""
    if chunks < 1:
        raise RuntimeError(f"chunk: the number of pieces is at least 1, not {chunks}")
    return split(input, builtins.max(1, -(-input.shape[_axis(dim, input.array.ndim)] // chunks)), dim)


@numpy_names
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis, without it."""
    axis = _axis(dim, input.array.ndim)
    return tuple(input[(slice(None),) * axis + (i,)] for i in range(input.shape[axis]))


# --------------------------------------------------------------------------------- gathering and order
def _check_index(name: str, input: Tensor, index: Tensor, axis: int) -> None:
    if index.dtype.kind not in "iu" or index.array.ndim != input.array.ndim:
        raise RuntimeError(f"{name}: index needs integers of {input.array.ndim} dims, got {index.dtype} {index.shape}")
    if any(m > n for i, (m, n) in enumerate(zip(index.shape, input.shape, strict=True)) if i != axis):
        raise RuntimeError(f"{name}: index of shape {index.shape} is larger than the tensor, {input.shape}")
    if index.array.size and not (index.array.min() >= 0 and index.array.max() < input.shape[axis]):
        raise RuntimeError(f"{name}: index {index.array.min()}..{index.array.max()} outside 0..{input.shape[axis] - 1}")


def _vector(x: Tensor) -> Tensor:
    """A 0-d tensor as a vector of one element."""
    return x if x.array.ndim else reshape(x, 1)


@numpy_names
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0, and so on."""
    axis = _axis(dim, input.array.ndim)
    if not index.array.size and index.dtype.kind in "iu":  # of any shape, as in PyTorch
        return reshape(reshape(input, -1)[:0], index.shape)
    if not input.array.ndim or not index.array.ndim:
        return reshape(gather(_vector(input), axis, _vector(index)), index.shape)
    _check_index("gather", input, index, axis)
    return record(ops.gather, input, index.array, axis=axis)


@numpy_names
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with out[index[i][j]][j] += src[i][j] for dim 0, and so on."""
    axis = _axis(dim, input.array.ndim)
    if not (input.array.ndim and index.array.ndim and src.array.ndim):
        return reshape(scatter_add(_vector(input), axis, _vector(index), _vector(src)), input.shape)
    if not index.array.size and index.dtype.kind in "iu":
        return input.clone()
    if src.dtype != input.dtype or src.array.ndim != index.array.ndim:
        raise RuntimeError(f"scatter_add: src {src.dtype} {src.shape} does not fit input {input.dtype}, index {index.shape}")
    _check_index("scatter_add", input, index, axis)
    if any(m > n for m, n in zip(index.shape, src.shape, strict=True)):
        raise RuntimeError(f"scatter_add: index of shape {index.shape} is larger than src, {src.shape}")
    return record(ops.scatter_add, input, index.array, src, axis=axis)


@numpy_names
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of input at `index` (1-d integers) along an axis."""
    if index.array.ndim > 1:
        raise RuntimeError(f"index_select: index is 1-d, not of shape {index.shape}")
    if index.dtype.kind not in "iu":
        raise RuntimeError(f"index_select: index needs integers, and this one holds {index.dtype}")
    if not input.array.ndim:
        return reshape(index_select(reshape(input, 1), dim, index), ())
    return input[(slice(None),) * _axis(dim, input.array.ndim) + (index.array.reshape(-1),)]


def _along(input: Tensor, dim: int, indices: Any) -> ValuesIndices:
    where = Tensor(indices)
    return ValuesIndices(gather(input, dim, where), where)


def _by_arg(input: Tensor, name: str, dim: int, keepdim: bool) -> ValuesIndices:
    """The largest ("max") or smallest ("min") along an axis, and where; the first of several equals."""
    if not input.array.ndim:
        return ValuesIndices(input.clone(), Tensor(array_module(input.array).zeros((), "int64")))
    axis = _axis(dim, input.array.ndim)
    if not input.shape[axis]:
        raise IndexError(f"{name}: dim {dim} of a tensor of shape {input.shape} has nothing in it")
    found = input.array.argmax(axis=axis) if name == "max" else input.array.argmin(axis=axis)
    picked = _along(input, axis, array_module(found).expand_dims(found, axis))
    return picked if keepdim else ValuesIndices(squeeze(picked.values, axis), squeeze(picked.indices, axis))


@overload
def max(input: Tensor) -> Tensor: ...
@overload
def max(input: Tensor, dim: int, keepdim: bool = False) -> ValuesIndices: ...
@overload
def max(input: Tensor, dim: Tensor) -> Tensor: ...
@numpy_names
def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Tensor | ValuesIndices:
    """The maximum of all elements (ties share the gradient); with `dim`, along that axis, as (values, indices), where the
    first of several equals is picked and gets the gradient. max(input, tensor) is `maximum`."""
    if dim is None:
        return F.amax(input)
    return F.maximum(input, dim) if isinstance(dim, Tensor) else _by_arg(input, "max", dim, keepdim)


@overload
def min(input: Tensor) -> Tensor: ...
@overload
def min(input: Tensor, dim: int, keepdim: bool = False) -> ValuesIndices: ...
@overload
def min(input: Tensor, dim: Tensor) -> Tensor: ...
@numpy_names
def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Tensor | ValuesIndices:
    """The minimum of all elements (ties share the gradient); with `dim`, along that axis, as (values, indices), where the
    first of several equals is picked and gets the gradient. min(input, tensor) is `minimum`."""
    if dim is None:
        return F.amin(input)
    return F.minimum(input, dim) if isinstance(dim, Tensor) else _by_arg(input, "min", dim, keepdim)


@numpy_names
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the largest element, in the flattened tensor or along an axis; the first of several equals."""
    return _arg("argmax", input, dim, keepdim)


def _arg(name: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    axis = axes_of(dim, input.array.ndim)
    if not (input.array.size if axis is None else input.shape[axis]):
        raise IndexError(f"{name}: nothing to compare in a tensor of shape {input.shape}")
    found = Tensor(getattr(input.array, name)(axis=axis))
    if not keepdim or not input.array.ndim:
        return found
    return reshape(found, [1] * input.array.ndim) if axis is None else unsqueeze(found, axis)


@numpy_names
def argsort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    """The order that sorts `input` along an axis; equal elements keep theirs, whatever `stable` says."""
    xp, axis = array_module(input.array), _axis(dim, input.array.ndim)
    if not input.array.ndim:
        return Tensor(xp.zeros((), "int64"))
    if not descending:
        return Tensor(xp.argsort(input.array, axis=axis, kind="stable"))
    from_the_end = xp.argsort(xp.flip(input.array, axis), axis=axis, kind="stable")
    return Tensor(input.shape[axis] - 1 - xp.flip(from_the_end, axis))


@numpy_names
def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> ValuesIndices:
    """(values, indices), sorted along an axis; equal elements keep their order."""
    return _along(input, dim, argsort(input, dim, descending).array)


@numpy_names
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesIndices:
    """The k largest (or smallest) elements along an axis, in order, and their indices."""
    axis = _axis(dim, input.array.ndim)
    if not 0 <= k <= (input.shape[axis] if input.shape else 1):
        raise RuntimeError(f"topk: k = {k} is out of range for dim {dim} of a tensor of shape {input.shape}")
    order = argsort(input, axis, descending=largest)
    return _along(input, axis, order.array[(slice(None),) * axis + (slice(0, k),)] if input.shape else order.array)


@numpy_names
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the smallest element, in the flattened tensor or along an axis; the first of several equals."""
    return _arg("argmin", input, dim, keepdim)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """The same numbers in the shape of `other`."""
    return reshape(input, other.shape)


def ravel(input: Tensor) -> Tensor:
    """All elements in one axis."""
    return reshape(input, -1) if input.array.ndim != 1 else input


def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of the given sizes along an axis."""
    return split(input, split_sizes, dim)


def msort(input: Tensor) -> Tensor:
    """Sorted along the first axis."""
    return sort(input, 0).values


# PyTorch's other names for these
concat = concatenate = cat
swapaxes = swapdims = transpose
