"""Functions that repeat, reverse, rotate, pad, cut and join tensors. (Views, cat and split are in shaping.py.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, to_device
from tinylora.tensor import Tensor, record
from tinylora.torch_api.functional import axes_of, numpy_names
from tinylora.torch_api.shaping import (
    _axis,
    _sizes,
    cat,
    expand,
    flatten,
    index_select,
    permute,
    reshape,
    transpose,
    unsqueeze,
)
from tinylora.torch_api.views import view


# ----------------------------------------------------------------------------------------- repeating
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """Copies side by side, repeats[i] along axis i; axes are added at the front where there are more repeats than axes.

    >>> import tinylora
    >>> repeat(tinylora.tensor([1, 2]), 2, 3).tolist()
    [[1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 1, 2]]
    """
    times = _sizes(repeats)
    if len(times) < input.array.ndim or any(n < 0 for n in times):
        raise RuntimeError(f"repeat: {times} needs one number of at least 0 per dim of shape {input.shape}, or more")
    own = (1,) * (len(times) - input.array.ndim) + input.shape
    if all(n == 1 for n in times):
        return reshape(input.clone(), own)
    apart = reshape(input, [n for size in own for n in (1, size)])
    copies = expand(apart, [n for pair in zip(times, own, strict=True) for n in pair])
    return reshape(copies, [m * n for m, n in zip(times, own, strict=True)])


def tile(input: Tensor, *dims: Any) -> Tensor:
    """`repeat` that leaves the first axes alone where there are fewer numbers than axes."""
    times = _sizes(dims)
    return repeat(input, (1,) * (input.array.ndim - len(times)) + times)


@numpy_names
def repeat_interleave(input: Tensor, repeats: int | Tensor, dim: int | None = None, *, output_size: Any = None) -> Tensor:
    """Each element along `dim` (of the flattened tensor if None) `repeats` times in a row.

    >>> import tinylora
    >>> repeat_interleave(tinylora.tensor([1, 2]), 2).tolist(), repeat_interleave(tinylora.tensor([1, 2]), [3, 1]).tolist()
    ([1, 1, 2, 2], [1, 1, 1, 2])
    """
    x = flatten(input) if dim is None else input
    axis = _axis(0 if dim is None else dim, x.array.ndim)
    x = x if x.array.ndim else reshape(x, 1)
    times = repeats.array if isinstance(repeats, Tensor) else np.asarray(repeats)
    if times.dtype.kind not in "iu" or (times < 0).any():
        raise RuntimeError(f"repeat_interleave: repeats are integers of at least 0, not {repeats}")
    if times.size == 1:
        n = int(times.reshape(()).item())
        copies = expand(unsqueeze(x, axis + 1), *x.shape[: axis + 1], n, *x.shape[axis + 1 :])
        return reshape(copies, *x.shape[:axis], x.shape[axis] * n, *x.shape[axis + 1 :])
    if times.shape != (x.shape[axis],):
        raise RuntimeError(f"repeat_interleave: repeats of shape {times.shape} do not fit dim {dim} of shape {x.shape}")
    xp = array_module(x.array)
    return index_select(x, axis, Tensor(xp.repeat(xp.arange(x.shape[axis]), times.tolist())))


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`expand`: axes of size 1 repeated without copying."""
    return expand(input, size)


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """The tensors expanded to the one shape that they broadcast to."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    shape = broadcast_shapes(*(x.shape for x in given))
    return tuple(expand(x, shape) for x in given)


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that shapes broadcast to. Raises RuntimeError if they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(f"shapes {' and '.join(str(tuple(s)) for s in shapes)} do not broadcast") from None


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of a grid: output k has the numbers of vector k along axis k ("xy": the first two axes swapped)."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    if indexing not in ("ij", "xy") or any(x.array.ndim > 1 for x in given):
        raise RuntimeError(f"meshgrid takes vectors and indexing 'ij' or 'xy', not {[x.shape for x in given]}, {indexing!r}")
    vectors = [x if x.array.ndim else reshape(x, 1) for x in given]
    swapped = indexing == "xy" and len(vectors) > 1
    vectors = [vectors[1], vectors[0], *vectors[2:]] if swapped else vectors
    shape = [x.array.size for x in vectors]
    grids = [expand(reshape(x, [-1 if i == k else 1 for i in range(len(shape))]), shape) for k, x in enumerate(vectors)]
    return tuple([grids[1], grids[0], *grids[2:]] if swapped else grids)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of the elements of several vectors, one per row."""
    if len(tensors) == 1:
        return tensors[0].clone()
    return cat([reshape(x, -1, 1) for x in meshgrid(*tensors)], 1)


# ------------------------------------------------------------------------------- reversing and rotating
@numpy_names
def flip(input: Tensor, *axes: Any, dims: Any = None) -> Tensor:
    """A copy with some axes in reverse order: `flip(x, 0, 1)`, `flip(x, (0, 1))` or `flip(x, dims=(0, 1))`.

    >>> import tinylora
    >>> flip(tinylora.tensor([[1, 2], [3, 4]]), 0).tolist()
    [[3, 4], [1, 2]]
    """
    chosen = axes_of(_sizes(axes if dims is None else (dims,)), input.array.ndim) or ()
    return record(ops.flip, input, axes=tuple(a for a in chosen if a is not None))


def fliplr(input: Tensor) -> Tensor:
    """The second axis in reverse order."""
    _at_least("fliplr", input, 2)
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """The first axis in reverse order."""
    _at_least("flipud", input, 1)
    return flip(input, 0)


def _at_least(name: str, input: Tensor, ndim: int) -> None:
    if input.array.ndim < ndim:
        raise RuntimeError(f"{name} needs at least {ndim} dims, and the shape is {input.shape}")


def roll(input: Tensor, shifts: int | Sequence[int], dims: Any = None) -> Tensor:
    """Moved by shifts[i] along dims[i] (of the flattened tensor if None); what leaves at the end comes in at the start.

    >>> import tinylora
    >>> roll(tinylora.arange(5), 2).tolist()
    [3, 4, 0, 1, 2]
    """
    by = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    if dims is None or dims == ():
        if len(by) != 1:
            raise RuntimeError(f"roll: {len(by)} shifts need as many dims")
        return reshape(roll(flatten(input), by, 0), input.shape)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    if len(by) != len(axes):
        raise RuntimeError(f"roll: {len(by)} shifts and {len(axes)} dims")
    if not input.array.ndim and axes:
        raise IndexError(f"roll: dims {axes} of a 0-d tensor")
    places = tuple(axes_of(d, input.array.ndim) for d in axes)
    return record(ops.roll, input, shifts=by, axes=places)


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """A copy turned by k · 90° in the plane of two axes, from the first towards the second."""
    _at_least("rot90", input, 2)
    axes = tuple(_axis(d, input.array.ndim) for d in dims)
    if len(axes) != 2 or axes[0] == axes[1]:
        raise RuntimeError(f"rot90: dims are two different axes, not {tuple(dims)}")
    a, b = axes
    if k % 4 == 0:
        return input.clone()
    if k % 4 == 2:
        return flip(input, (a, b))
    return flip(transpose(input, a, b), a if k % 4 == 1 else b)


# --------------------------------------------------------------------------------------- axes and parts
def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Axes `source` moved to the places `destination`; the others keep their order."""
    from_ = axes_of((source,) if isinstance(source, int) else source, input.array.ndim) or ()
    to = axes_of((destination,) if isinstance(destination, int) else destination, input.array.ndim) or ()
    if len(from_) != len(to):
        raise RuntimeError(f"movedim: {len(from_)} axes to {len(to)} places")
    if not input.array.ndim:
        return permute(input)
    order = [a for a in range(input.array.ndim) if a not in from_]
    for place, axis in sorted(zip(to, from_, strict=True)):
        order.insert(place, axis)
    return permute(input, order)


@numpy_names
def narrow(input: Tensor, dim: int, start: int | Tensor, length: int) -> Tensor:
    """A view of `length` elements of an axis, from `start` on."""
    _at_least("narrow", input, 1)
    if isinstance(start, Tensor) and (start.array.ndim or start.dtype.kind not in "iu"):
        raise RuntimeError(f"narrow: start is an integer or a 0-d tensor of one, not {start.dtype} {start.shape}")
    axis, first = _axis(dim, input.array.ndim), int(start)
    n = input.shape[axis]
    if not -n <= first <= n:
        raise IndexError(f"narrow: start {first} is out of range for dim {dim} of shape {input.shape}")
    first += n if first < 0 else 0
    if length < 0 or first + length > n:
        raise RuntimeError(f"narrow: {length} elements from {first} on exceed dim {dim} of shape {input.shape}")
    return input[(slice(None),) * axis + (slice(first, first + length),)]


@numpy_names
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """A view of one slice of an axis, without that axis."""
    if not input.array.ndim:
        raise IndexError("select: a 0-d tensor has no dim to select from")
    return input[(slice(None),) * _axis(dim, input.array.ndim) + (int(index),)]


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """An axis split into several, of `sizes`, one of which may be -1."""
    axis, wanted = _axis(dim, input.array.ndim), list(_sizes((sizes,)))
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known:
        wanted[wanted.index(-1)] = input.shape[axis] // known
    if math.prod(wanted) != input.shape[axis]:
        raise RuntimeError(f"unflatten: sizes {tuple(sizes)} do not multiply to {input.shape[axis]}, the size of dim {dim}")
    return reshape(input, *input.shape[:axis], *wanted, *input.shape[axis + 1 :])


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements of an axis, `step` apart, as a view with a new last axis.

    >>> import tinylora
    >>> unfold(tinylora.arange(5), 0, 3, 1).tolist()
    [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    """
    axis = _axis(dimension, input.array.ndim)
    x = input if input.array.ndim else reshape(input, 1)
    if not 0 <= size <= x.shape[axis] or step < 1:
        raise RuntimeError(f"unfold: windows of {size}, {step} apart, do not fit dim {dimension} of shape {input.shape}")
    y = view(ops.unfold, x, axis=axis, size=size, apart=step)
    return y if input.array.ndim else reshape(y, size)


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Elements added at the ends of axes: pad = (before, after) of the last axis, then of the one before it, and so on.

    mode "constant" adds `value` (0), and a negative number cuts; "reflect" mirrors at the first and last element, which
    are not repeated; "replicate" repeats them; "circular" goes round.

    >>> import tinylora
    >>> pad(tinylora.tensor([1.0, 2.0, 3.0]), (2, 1)).tolist(), pad(tinylora.tensor([1, 2, 3]), (2, 1), "reflect").tolist()
    ([0.0, 0.0, 1.0, 2.0, 3.0, 0.0], [3, 2, 1, 2, 3, 2])
    """
    ends = [int(n) for n in pad]
    if len(ends) % 2 or len(ends) // 2 > input.array.ndim:
        raise RuntimeError(f"pad: {tuple(ends)} is no list of pairs for a tensor of shape {input.shape}")
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    widths = ((0, 0),) * (input.array.ndim - len(pairs)) + tuple(pairs[::-1])
    if any(n + a + b < 0 for n, (a, b) in zip(input.shape, widths, strict=True)):
        raise RuntimeError(f"pad: {tuple(ends)} cuts more than a tensor of shape {input.shape} has")
    if mode == "constant":
        return record(ops.pad, input, widths=widths, value=input.array.dtype.type(value or 0).item())
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"pad: mode is 'constant', 'reflect', 'replicate' or 'circular', not {mode!r}")
    if value is not None:
        raise ValueError(f"pad: mode {mode!r} takes no value")
    if mode == "replicate":
        for axis, (a, b) in enumerate(widths):
            input = input if a == b == 0 else _pad_by_ends(input, axis, a, b)
        return input
    cut = tuple((min(0, a), min(0, b)) for a, b in widths)
    input = record(ops.pad, input, widths=cut) if any(a or b for a, b in cut) else input
    for axis, (a, b) in enumerate((max(0, a), max(0, b)) for a, b in widths):
        input = input if a == b == 0 else _pad_by_copies(input, axis, a, b, mode)
    return input


def _pad_by_ends(input: Tensor, axis: int, before: int, after: int) -> Tensor:
    n = input.shape[axis]
    if not n:
        raise RuntimeError(f"pad: mode 'replicate' has nothing to repeat in axis {axis} of shape {input.shape}")
    order = np.clip(np.arange(-before, n + after), 0, n - 1)
    return index_select(input, axis, Tensor(to_device(order, input.device)))


def _pad_by_copies(input: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    n = input.shape[axis]
    if max(before, after) > {"reflect": n - 1, "circular": n}[mode]:
        raise RuntimeError(f"pad: ({before}, {after}) elements cannot be added in mode {mode!r} to an axis of {n}")
    order = np.pad(np.arange(n), (before, after), mode="reflect" if mode == "reflect" else "wrap")
    return index_select(input, axis, Tensor(to_device(order, input.device)))


moveaxis = movedim  # NumPy's name
