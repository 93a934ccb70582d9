"""Lengths, distances and angles between vectors."""

from __future__ import annotations

from typing import Any

from tinylora.tensor import Tensor
from tinylora.torch_api.elementwise import add, div, maximum, mul, sub
from tinylora.torch_api.functional import sum
from tinylora.torch_api.promote import promote
from tinylora.torch_api.rearranging import broadcast_shapes
from tinylora.torch_api.shaping import unsqueeze
from tinylora.torch_api.statistics import vector_norm


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖, eps) along `dim`.

    >>> import tinylora
    >>> normalize(tinylora.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    return div(input, maximum(vector_norm(input, p, dim, True), eps))


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Σ a b / (max(‖a‖, eps) max(‖b‖, eps)) along `dim`; the two broadcast."""
    x1, x2 = promote(x1, x2, floating=True)
    shape = broadcast_shapes(x1.shape, x2.shape)
    a, b = x1.expand(shape), x2.expand(shape)
    return sum(mul(normalize(a, 2, dim, eps), normalize(b, 2, dim, eps)), dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """‖x1 - x2 + eps‖ along the last axis."""
    return vector_norm(add(sub(x1, x2), eps), p, -1, keepdim)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """‖a - b‖ for every row a of x1 and b of x2: (.., n, d) and (.., m, d) -> (.., n, m).

    `compute_mode` is for PyTorch's programs alone: distances are computed from differences, the exact way.
    """
    if min(x1.array.ndim, x2.array.ndim) < 2 or x1.shape[-1] != x2.shape[-1]:
        raise RuntimeError(f"cdist: rows of shapes {x1.shape} and {x2.shape} differ in length")
    if p < 0:
        raise RuntimeError(f"cdist: p is at least 0, not {p}")
    return vector_norm(sub(unsqueeze(x1, -2), unsqueeze(x2, -3)), p, -1)
