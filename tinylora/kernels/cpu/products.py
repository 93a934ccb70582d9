"""Multithreaded matrix products: each thread computes a rectangle of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinylora.kernels.cpu.blocks import TINY
from tinylora.kernels.cpu.threads import BLAS_IS_OURS, get_num_threads, spread

ALONE = 2**21  # multiplications below which using another thread costs more than it saves
SMALL = 2**18  # multiplications below which BLAS uses one thread anyway; TINY for a single row

Rectangle = tuple[slice, slice]


def product(a: Any, b: Any, bias: Any = None, then: Callable[[Any, Rectangle], None] | None = None) -> Any:
    """a b + bias for matrices a (n, k) and b (k, m), of one dtype. `then` may add to each rectangle of the result.

    A single row, as in text generation, is bound by reading b. BLAS's own threads are not used for it: they spin while they
    wait, and where another program has one of the cores, a token of SmolLM2 takes several times as long.
    """
    if then is None and a.size * b.shape[1] <= (TINY if len(a) == 1 else SMALL):
        out = a @ b
        return out if bias is None else np.add(out, bias, out=out)
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)

    def part(place: Rectangle) -> None:
        rows, columns = place
        np.matmul(a[rows], b[:, columns], out=out[place])
        if bias is not None:
            out[place] += bias[columns]
        if then is not None:
            then(out, place)

    spread(part, rectangles(len(a), b.shape[1], a.shape[1]))
    return out


def rectangles(n: int, m: int, k: int) -> Iterator[Rectangle]:
    """Split an (n, m) result, with k multiplications per element, into one rectangle per thread, as square as possible.

    A thread packs n k elements of one factor and k m of the other into its cache, which is least for a square.
    """
    count = max(1, min(get_num_threads(), n * m * k // ALONE)) if BLAS_IS_OURS else 1
    high = min((i for i in range(1, count + 1) if count % i == 0), key=lambda i: n / i + m / (count // i))
    wide = count // high
    for i in range(high):
        for j in range(wide):
            yield slice(n * i // high, n * (i + 1) // high), slice(m * j // wide, m * (j + 1) // wide)
