"""`tinylora.linalg`: norms and products by the names that PyTorch has in `torch.linalg`.

Decompositions, inverses and solvers are not here.
"""

from __future__ import annotations

from typing import Any

from tinylora.tensor import Tensor
from tinylora.torch_api.diagonals import diagonal as _diagonal
from tinylora.torch_api.elementwise import mul
from tinylora.torch_api.functional import Dim, matmul, sum
from tinylora.torch_api.products import cross, matrix_power, multi_dot
from tinylora.torch_api.statistics import matrix_norm, vector_norm

__all__ = ["cross", "diagonal", "matmul", "matrix_norm", "matrix_power", "multi_dot", "norm", "vecdot", "vector_norm"]


def norm(A: Tensor, ord: Any = None, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """`vector_norm`, of the flattened tensor by default; with `ord` and two dims `matrix_norm`.

    >>> import tinylora
    >>> norm(tinylora.tensor([[3.0, 4.0]])).item()
    5.0
    """
    dims = (dim,) if isinstance(dim, int) else dim
    matrix = ord is not None and (len(dims) == 2 if dims is not None else A.array.ndim == 2)
    if isinstance(ord, str) and not matrix:
        raise RuntimeError(f"linalg.norm: ord {ord!r} is for matrices, not for shape {A.shape} and dim {dim}")
    if ord is not None and dims is None and A.array.ndim > 2:
        raise RuntimeError(f"linalg.norm: with ord, and no dim, the input is a vector or a matrix, not {A.shape}")
    if matrix:
        return matrix_norm(A, ord, (-2, -1) if dims is None else dims, keepdim, dtype=dtype)
    return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Σ x y along `dim`; the two broadcast."""
    return sum(mul(x, y), dim)


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """A view of the diagonal of the last two axes."""
    return _diagonal(A, offset, dim1, dim2)
