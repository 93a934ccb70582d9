"""Functions of diagonals and triangles."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylora import backend, ops
from tinylora.tensor import Tensor, record
from tinylora.torch_api.functional import axes_of, sum
from tinylora.torch_api.rearranging import pad
from tinylora.torch_api.shaping import cat, reshape
from tinylora.torch_api.views import view


def _two_axes(name: str, dim1: int, dim2: int, ndim: int) -> tuple[int, int]:
    axes = axes_of(dim1, ndim), axes_of(dim2, ndim)
    if axes[0] == axes[1]:
        raise RuntimeError(f"{name}: dims {dim1} and {dim2} are one axis of a tensor of {ndim} dims")
    return axes


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A view of the diagonal of two axes, which becomes the last axis; offset > 0 lies above it, < 0 below.

    >>> import tinylora
    >>> diagonal(tinylora.arange(9).reshape(3, 3), 1).tolist()
    [1, 5]
    """
    return view(ops.diagonal, input, offset=offset, axes=_two_axes("diagonal", dim1, dim2, input.array.ndim))


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The last axis as the diagonal of two new axes, with zeros elsewhere."""
    axes = _two_axes("diag_embed", dim1, dim2, input.array.ndim + 1)
    return record(ops.diag_embed, input, offset=offset, axes=axes)


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A vector as the diagonal of a new matrix; of a matrix a copy of its diagonal.

    >>> import tinylora
    >>> diag(tinylora.tensor([1, 2])).tolist(), diag(tinylora.tensor([[1, 2], [3, 4]])).tolist()
    ([[1, 0], [0, 2]], [1, 4])
    """
    if input.array.ndim == 1:
        return diag_embed(input, diagonal)
    if input.array.ndim != 2:
        raise RuntimeError(f"diag takes a vector or a matrix, and the shape is {input.shape}")
    return view(ops.diagonal, input, offset=diagonal, axes=(0, 1)).clone()


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """All elements as the diagonal of a new matrix."""
    return diag_embed(reshape(input, -1), offset)


def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input.array.ndim != 2:
        raise RuntimeError(f"trace takes a matrix, and the shape is {input.shape}")
    return sum(diagonal(input))


def block_diag(*tensors: Tensor) -> Tensor:
    """Matrices along the diagonal of a new one, with zeros elsewhere. A vector counts as one row."""
    if any(x.array.ndim > 2 for x in tensors):
        raise RuntimeError(f"block_diag takes matrices, and the shapes are {[x.shape for x in tensors]}")
    blocks = [x if x.array.ndim == 2 else reshape(x, 1, -1) for x in tensors]
    width, rows, left = builtins.sum(x.shape[1] for x in blocks), [], 0
    for x in blocks:
        rows.append(pad(x, (left, width - left - x.shape[1])))
        left += x.shape[1]
    return cat(rows)


def _indices(rows: Sequence[Any], device: Any, dtype: Any) -> Tensor:
    where = device if device is not None else backend.default_device()
    return Tensor(backend.to_device(np.stack(rows).astype(dtype or np.int64), where))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Where the lower triangle of a (row, col) matrix lies: (2, n), row numbers and column numbers."""
    return _indices(np.tril_indices(row, offset, col), device, dtype)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Where the upper triangle of a (row, col) matrix lies: (2, n), row numbers and column numbers."""
    return _indices(np.triu_indices(row, offset, col), device, dtype)
