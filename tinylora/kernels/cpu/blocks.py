"""Processes an array in blocks that fit a core's cache, divided among the threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinylora.kernels.cpu.threads import parts, spread

BLOCK = 2**18  # elements in a block, 1 MB of float32: with smaller blocks, threads wait for the interpreter's lock
TINY = 2**13  # elements below which sharing the work costs more than the work; BLAS uses no threads of its own for them


def in_blocks(work: Callable[..., None], shape: tuple[int, ...], dtype: Any, buffers: int = 0) -> None:
    """Call work(block, *scratch) for slices that cover the first axis of `shape`, with `buffers` scratch arrays.

    A block is a slice of about BLOCK elements, at least one along the first axis; scratch has the block's shape.
    """
    length, *rest = shape
    if math.prod(shape) <= TINY:
        work(slice(0, length), *np.empty((buffers, *shape), dtype))
        return
    step = max(1, BLOCK // max(math.prod(rest), 1))

    def part(mine: slice) -> None:
        scratch = np.empty((buffers, min(step, mine.stop - mine.start), *rest), dtype)
        for start in range(mine.start, mine.stop, step):
            stop = min(start + step, mine.stop)
            work(slice(start, stop), *scratch[:, : stop - start])

    spread(part, parts(length, least=step))
