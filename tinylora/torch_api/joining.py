"""Stacking, splitting and added axes, by dimension: hstack, vstack, tensor_split, atleast_2d and their like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinylora.tensor import Tensor
from tinylora.torch_api.functional import numpy_names
from tinylora.torch_api.shaping import _axis, cat, reshape, split, unsqueeze


def _each(function: Any, tensors: tuple[Any, ...]) -> Any:
    """`function` of one tensor, or of each of several."""
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return function(tensors[0])
    given = tensors[0] if len(tensors) == 1 else tensors
    return tuple(map(function, given))


def atleast_1d(*tensors: Any) -> Any:
    """A number as a vector; anything else as it is."""
    return _each(lambda x: x if x.array.ndim else reshape(x, 1), tensors)


def atleast_2d(*tensors: Any) -> Any:
    """A number or a vector as a matrix of one row."""
    return _each(lambda x: x if x.array.ndim > 1 else reshape(x, 1, -1), tensors)


def atleast_3d(*tensors: Any) -> Any:
    """At least three axes: a vector (n,) becomes (1, n, 1), a matrix (n, m) becomes (n, m, 1)."""
    return _each(lambda x: x if x.array.ndim > 2 else unsqueeze(atleast_2d(x), -1), tensors)


def _some(name: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    if not tensors:
        raise RuntimeError(f"{name}: expected at least one tensor to join")
    return tensors


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined side by side: along the second axis, vectors along their only one."""
    parts = atleast_1d(_some("hstack", tensors))
    return cat(parts, 0 if parts[0].array.ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined one below the other: along the first axis, vectors as rows."""
    return cat(atleast_2d(_some("vstack", tensors)), 0)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the third axis."""
    return cat(atleast_3d(_some("dstack", tensors)), 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the second axis, vectors as columns."""
    return cat([x if x.array.ndim > 1 else reshape(x, -1, 1) for x in _some("column_stack", tensors)], 1)


@numpy_names
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """That many pieces, the first ones one longer where needed; or pieces that end at the given indices."""
    if not input.array.ndim:
        raise RuntimeError("tensor_split: a 0-d tensor has no dim to split")
    axis = _axis(dim, input.array.ndim)
    n, wanted = input.shape[axis], indices_or_sections
    wanted = wanted.tolist() if isinstance(wanted, Tensor) else wanted
    if isinstance(wanted, int):
        if wanted < 1:
            raise RuntimeError(f"tensor_split: the number of pieces is at least 1, not {wanted}")
        return split(input, [n // wanted + (i < n % wanted) for i in range(wanted)], axis)
    ends = [slice(0, i).indices(n)[1] for i in wanted] + [n]
    starts = [0, *ends[:-1]]
    return tuple(input[(slice(None),) * axis + (slice(a, max(a, b)),)] for a, b in zip(starts, ends, strict=True))


def _split_evenly(name: str, input: Tensor, parts: Any, axis: int) -> tuple[Tensor, ...]:
    if input.array.ndim <= axis:
        raise RuntimeError(f"{name} needs at least {axis + 1} dims, and the shape is {input.shape}")
    if isinstance(parts, int) and (parts < 1 or input.shape[axis] % parts):
        raise RuntimeError(f"{name}: {parts} equal pieces of an axis of {input.shape[axis]}")
    return tensor_split(input, parts, axis)


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or pieces that end at indices, of the second axis; of a vector its only one."""
    return _split_evenly("hsplit", input, indices_or_sections, 0 if input.array.ndim == 1 else 1)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or pieces that end at indices, of the first axis of a matrix."""
    if input.array.ndim < 2:
        raise RuntimeError(f"vsplit needs at least 2 dims, and the shape is {input.shape}")
    return _split_evenly("vsplit", input, indices_or_sections, 0)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or pieces that end at indices, of the third axis."""
    return _split_evenly("dsplit", input, indices_or_sections, 2)


row_stack = vstack  # NumPy's name
