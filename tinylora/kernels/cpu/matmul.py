"""Products of matrices and of stacks of them, shared among the threads.

NumPy would leave them to the threads of OpenBLAS, which go on spinning for 20 ms or so after each. Meanwhile what ours share
runs at half speed: a model that multiplies with @ in some places and has Linears in others would pay for each change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cpu.linear import plain
from tinylora.kernels.cpu.products import ALONE, SMALL, product
from tinylora.kernels.cpu.threads import get_num_threads, spread
from tinylora.ops.nn import rows


@ops.matmul.tune("numpy")
def matmul(xp, a, b):
    """With a single matrix on the right all rows on the left are one product, also for its gradient. Declines vectors,
    zero sizes, and what BLAS does with one thread anyway.
    """
    if not plain(a, b) or a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2] or 0 in (*a.shape, *b.shape):
        return NotImplemented
    if max(a.size * b.shape[-1], b.size * a.shape[-2]) <= SMALL:
        return NotImplemented

    single = b.ndim == 2

    def d_a(g):
        return stack_product(g, b.swapaxes(-1, -2))

    def d_b(g):
        return product(rows(a).T, rows(g)) if single else stack_product(a.swapaxes(-1, -2), g)

    return stack_product(a, b), (d_a, d_b)


def stack_product(a: Any, b: Any) -> Any:
    """a b for matrices, or stacks of matrices that broadcast."""
    if b.ndim == 2:
        return product(rows(a), b).reshape(*a.shape[:-1], b.shape[-1])
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    out = np.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)

    def part(i: tuple[Any, ...]) -> None:
        np.matmul(a[i], b[i], out=out[i])

    spread(part, pieces(batch, 4 * get_num_threads() if out.size * a.shape[-1] >= 2 * ALONE else 1))
    return out


def pieces(batch: tuple[int, ...], count: int) -> Iterator[tuple[Any, ...]]:
    """Cut a stack into about `count` pieces or more, each an index of some axes and a slice of the next."""
    last = next((i for i in range(len(batch)) if math.prod(batch[: i + 1]) >= count), len(batch) - 1)
    cuts = min(batch[last], -(-count // math.prod(batch[:last])))
    edges = [batch[last] * i // cuts for i in range(cuts + 1)]
    for index in itertools.product(*map(range, batch[:last])):
        for start, stop in itertools.pairwise(edges):
            yield *index, slice(start, stop)
