"""Products of vectors and matrices, by PyTorch's names. (`matmul` and `einsum` are in files of their own.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinylora.backend import array_module, is_floating
from tinylora.tensor import Tensor
from tinylora.torch_api.elementwise import add, mul
from tinylora.torch_api.functional import axes_of, matmul, sum
from tinylora.torch_api.shaping import permute, reshape, unsqueeze


def _shaped(name: str, *wanted: tuple[Tensor, int]) -> None:
    """Raise RuntimeError unless each tensor has the number of dims that stands beside it."""
    if any(x.array.ndim != ndim for x, ndim in wanted):
        kinds = {1: "a vector", 2: "a matrix", 3: "a batch of matrices (3 dims)"}
        given = " and ".join(str(x.shape) for x, _ in wanted)
        raise RuntimeError(f"{name} takes {' and '.join(kinds[ndim] for _, ndim in wanted)}, not shapes {given}")


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices: (n, k) (k, m) -> (n, m).

    >>> import tinylora
    >>> mm(tinylora.ones(2, 3), tinylora.ones(3, 4)).shape
    (2, 4)
    """
    _shaped("mm", (input, 2), (mat2, 2))
    return matmul(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices: (b, n, k) (b, k, m) -> (b, n, m), without broadcasting."""
    _shaped("bmm", (input, 3), (mat2, 3))
    if input.shape[0] != mat2.shape[0]:
        raise RuntimeError(f"bmm: batches of {input.shape[0]} and {mat2.shape[0]} matrices; matmul broadcasts")
    return matmul(input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector: (n, k) (k,) -> (n,)."""
    _shaped("mv", (input, 2), (vec, 1))
    return matmul(input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Σ xᵢ yᵢ of two vectors of one length."""
    _shaped("dot", (input, 1), (tensor, 1))
    return matmul(input, tensor)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Σ over the last axis of both: (.., k) and (.., k) -> (.., ..). A number multiplies."""
    if 0 in (input.array.ndim, other.array.ndim):
        return mul(input, other)
    return tensordot(input, other, ([-1], [-1]))


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of two vectors: (n,) and (m,) -> (n, m)."""
    _shaped("outer", (input, 1), (vec2, 1))
    return mul(unsqueeze(input, 1), vec2)


def _plus(name: str, input: Any, product: Tensor, beta: float, alpha: float) -> Tensor:
    """beta · input + alpha · product; with beta = 0 input is ignored, also if it is NaN."""
    if not is_floating(product.dtype):
        number = bool if product.dtype == bool else int
        beta, alpha = number(beta), number(alpha)
    if input.dtype != product.dtype:
        raise RuntimeError(f"{name}: expected one dtype, got {input.dtype} and {product.dtype}")
    if any(m not in (1, n) for m, n in zip(input.shape[::-1], product.shape[::-1], strict=False)) or (
        input.array.ndim > product.array.ndim
    ):
        raise RuntimeError(f"{name}: input of shape {input.shape} does not broadcast to the product's {product.shape}")
    product = product if alpha == 1 else mul(product, alpha)
    if beta == 0:
        return product
    return add(input if beta == 1 else mul(input, beta), product)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta · input + alpha · (mat1 mat2); input broadcasts to the product."""
    return _plus("addmm", input, mm(mat1, mat2), beta, alpha)


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta · input + alpha · (mat vec)."""
    return _plus("addmv", input, mv(mat, vec), beta, alpha)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta · input + alpha · outer(vec1, vec2)."""
    return _plus("addr", input, outer(vec1, vec2), beta, alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta · input + alpha · bmm(batch1, batch2); input broadcasts to the product."""
    return _plus("baddbmm", input, bmm(batch1, batch2), beta, alpha)


def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta · input + alpha · Σ over the batch of bmm(batch1, batch2)."""
    _shaped("addbmm", (batch1, 3), (batch2, 3))
    if batch1.shape[0] != batch2.shape[0]:
        raise RuntimeError(f"addbmm: batches of {batch1.shape[0]} and {batch2.shape[0]} matrices")
    left = reshape(permute(batch1, 1, 0, 2), batch1.shape[1], -1) if batch1.array.size else sum(batch1, 0)
    right = reshape(batch2, -1, batch2.shape[2]) if batch1.array.size else sum(batch2, 0)
    return _plus("addbmm", input, matmul(left, right), beta, alpha)


def tensordot(a: Tensor, b: Tensor, dims: int | Sequence[Sequence[int]] = 2) -> Tensor:
    """Σ over pairs of axes: the last `dims` of a with the first of b, or those in a pair of lists.

    >>> import tinylora
    >>> tensordot(tinylora.ones(2, 3, 4), tinylora.ones(4, 3, 5), ([1, 2], [1, 0])).shape
    (2, 5)
    """
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.array.ndim, b.array.ndim):
            raise RuntimeError(f"tensordot: dims {dims} of tensors of shapes {a.shape} and {b.shape}")
        dims = range(a.array.ndim - dims, a.array.ndim), range(dims)
    pairs = [(axes_of(i, a.array.ndim), axes_of(j, b.array.ndim)) for i, j in zip(*dims, strict=True)]
    if any(a.shape[i] != b.shape[j] and 1 not in (a.shape[i], b.shape[j]) for i, j in pairs):
        raise RuntimeError(f"tensordot: the sizes of dims {pairs} differ in shapes {a.shape} and {b.shape}")
    for i, j in pairs:  # an axis of size 1 meets the sum of the other
        if a.shape[i] != b.shape[j]:
            a, b = (sum(a, i, True, a.dtype), b) if b.shape[j] == 1 else (a, sum(b, j, True, b.dtype))
    summed_a, summed_b = [i for i, _ in pairs], [j for _, j in pairs]
    kept_a = [i for i in range(a.array.ndim) if i not in summed_a]
    kept_b = [j for j in range(b.array.ndim) if j not in summed_b]
    shape_a, shape_b = [a.shape[i] for i in kept_a], [b.shape[j] for j in kept_b]
    count = math.prod(a.shape[i] for i in summed_a)
    left = reshape(permute(a, *kept_a, *summed_a), math.prod(shape_a), count)
    right = reshape(permute(b, *summed_b, *kept_b), count, math.prod(shape_b))
    return reshape(matmul(left, right), *shape_a, *shape_b)


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: each element of input times the whole of other, in a larger tensor."""
    ndim = max(input.array.ndim, other.array.ndim)
    a = (1,) * (ndim - input.array.ndim) + input.shape
    b = (1,) * (ndim - other.array.ndim) + other.shape
    left = reshape(input, [n for size in a for n in (size, 1)])
    right = reshape(other, [n for size in b for n in (1, size)])
    return reshape(mul(left, right), [m * n for m, n in zip(a, b, strict=True)])


def cross(input: Tensor, other: Tensor, dim: int = -1) -> Tensor:
    """The cross product of vectors of 3 elements along `dim`: (x × y)ᵢ = xᵢ₊₁ yᵢ₊₂ - xᵢ₊₂ yᵢ₊₁."""
    axis = axes_of(dim, max(input.array.ndim, other.array.ndim))
    if input.array.ndim != other.array.ndim or input.shape[axis] != 3 or other.shape[axis] != 3:
        raise RuntimeError(f"cross: shapes {input.shape} and {other.shape} need size 3 in dim {dim}")
    before = (slice(None),) * axis
    ahead, twice = (*before, [1, 2, 0]), (*before, [2, 0, 1])
    return input[ahead] * other[twice] - input[twice] * other[ahead]


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of several matrices, from left to right; the first and the last may be vectors."""
    if len(tensors) < 2:
        raise RuntimeError(f"multi_dot: at least 2 matrices, not {len(tensors)}")
    product = tensors[0]
    for x in tensors[1:]:
        product = matmul(product, x)
    return product


def matrix_power(input: Tensor, n: int) -> Tensor:
    """A square matrix multiplied n times by itself, n ≥ 0."""
    if input.array.ndim < 2 or input.shape[-1] != input.shape[-2]:
        raise RuntimeError(f"matrix_power takes square matrices, and the shape is {input.shape}")
    if n < 0:
        raise NotImplementedError("matrix_power: a negative power needs an inverse, which tinylora does not have")
    result, square = None, input
    while n:
        result = (square if result is None else matmul(result, square)) if n % 2 else result
        n //= 2
        square = matmul(square, square) if n else square
    if result is not None:
        return result.clone() if result is input else result
    one = Tensor(array_module(input.array).eye(input.shape[-1], dtype=input.dtype))
    return input.clone().copy_(one)  # a constant, whose gradient is 0


ger, vdot = outer, dot  # PyTorch's other names
