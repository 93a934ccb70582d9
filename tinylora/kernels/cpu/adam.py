"""Adam on all parameters at once: one pass over memory, with the state updated in place.

The definition makes a dozen passes over every array, and allocates most results anew.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cpu.blocks import BLOCK
from tinylora.kernels.cpu.linear import plain
from tinylora.kernels.cpu.threads import get_num_threads, spread

Row = tuple[Any, ...]  # a weight, its gradient, m, v, and (t, lr, β₁, β₂, ε, λ)
Piece = tuple[Row, slice]  # a row, and the slice of it to work on


@ops.adam.tune("numpy")
def adam(xp, *arrays, numbers, apart):
    """The same arithmetic as the definition in the same order, so the same numbers. Overwrites the weights, m and v.

    Declines weights that are not in row order.
    """
    n = len(arrays) // 4
    weights, gradients = arrays[:n], arrays[n : 2 * n]
    if not all(plain(w, g) and w.flags.c_contiguous for w, g in zip(weights, gradients, strict=True)):
        return NotImplemented
    in_rows = [np.asarray(x, order="C") for x in arrays[n:]]  # so that slices are views
    rows = list(zip(weights, in_rows[:n], in_rows[n : 2 * n], in_rows[2 * n :], numbers(), strict=True))
    spread(functools.partial(_update, apart=apart), _shares(list(_pieces(rows))))
    return (*weights, *in_rows[n:]), (None,) * len(arrays)


def _pieces(rows: Sequence[Row]) -> Iterator[Piece]:
    for row in rows:
        for start in range(0, row[0].size, BLOCK):
            yield row, slice(start, min(start + BLOCK, row[0].size))


def _shares(pieces: list[Piece]) -> list[list[Piece]]:
    """All rows, divided among the threads; not divided if there is little to do."""
    count = get_num_threads() if len(pieces) > 1 and sum(b.stop - b.start for _, b in pieces) > BLOCK else 1
    return [pieces[i::count] for i in range(min(count, len(pieces)))]


def _update(share: list[Piece], apart: bool) -> None:
    """w ← (1 - lr · λ) w - lr / (1 - β₁ᵗ) · m / (√(v / (1 - β₂ᵗ)) + ε) on slices of weights."""
    for row, part in share:
        w, g, m, v = (x.reshape(-1)[part] for x in row[:4])
        t, lr, b1, b2, eps, decay = row[4]
        g = g + decay * w if decay and not apart else g
        scratch, change = np.empty_like(w), np.empty_like(w)
        m *= b1
        m += np.multiply(g, 1 - b1, out=scratch)
        v *= b2
        np.multiply(g, 1 - b2, out=scratch)
        scratch *= g
        v += scratch
        np.multiply(v, 1 / (1 - b2**t), out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += eps
        np.multiply(m, lr / (1 - b1**t), out=change)
        change /= scratch
        if apart:
            w *= 1 - lr * decay
        w -= change
