"""Arranges examples into batches and steps, and pads or packs them into arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tinylora.tasks.examples import IGNORE, Encoded, Rows


class Batch(NamedTuple):
    """A batch's arrays, and the numbers of its examples in the order of their targets, row by row."""

    rows: Rows
    examples: list[int]


def arrange(
    lengths: Sequence[int],
    batch_size: int,
    accumulate: int = 1,
    rng: np.random.Generator | None = None,
    by_length: bool = True,
) -> list[list[list[int]]]:
    """The steps of an epoch, each a list of `accumulate` batches or fewer, each a list of examples' numbers.

    The examples of a step are of like length, to keep padding small, unless `by_length` is false. With `rng` in random
    order; without it from short to long.

    >>> arrange([5, 1, 4, 2, 3], batch_size=1, accumulate=2)
    [[[1], [3]], [[4], [2]], [[0]]]
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    if by_length:
        order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]
    size = batch_size * accumulate
    steps = [order[i : i + size].tolist() for i in range(0, len(order), size)]
    shuffled = range(len(steps)) if rng is None else rng.permutation(len(steps))
    return [[steps[s][i : i + batch_size] for i in range(0, len(steps[s]), batch_size)] for s in shuffled]


def row_length(encoded: Sequence[Encoded], chosen: Sequence[int], multiple: int, context: int) -> int:
    """The longest example's length, rounded up to a multiple unless that exceeds the context."""
    longest = max(len(encoded[i].ids) for i in chosen)
    return max(longest, min(-(-longest // multiple) * multiple, context))


def pad(encoded: Sequence[Encoded], chosen: Sequence[int], token: int, length: int = 0) -> Batch:
    """A row for each example, filled up at the end to the longest of them, or to `length`."""
    length = max(length, *(len(encoded[i].ids) for i in chosen))
    return _laid(encoded, [[i] for i in chosen], token, length)


def pack(encoded: Sequence[Encoded], chosen: Sequence[int], token: int, length: int = 0) -> Batch:
    """Several examples in a row where they fit, longest first; `starts` tells them apart.

    First-fit decreasing: Johnson 1973, "Near-optimal bin packing algorithms". It needs at most 11/9 of the fewest rows.
    """
    length = max(length, *(len(encoded[i].ids) for i in chosen))
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(chosen, key=lambda i: -len(encoded[i].ids)):
        size = len(encoded[i].ids)
        fits = next((r for r, left in enumerate(room) if left >= size), None)
        if fits is None:
            rows.append([])
            room.append(length)
            fits = -1
        rows[fits].append(i)
        room[fits] -= size
    packed = _laid(encoded, rows, token, length)
    starts = np.tile(np.arange(length), (len(rows), 1))  # padding at the end: each token a text of its own
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            starts[r, at : at + len(encoded[i].ids)] = at
            at += len(encoded[i].ids)
    return Batch(packed.rows._replace(starts=starts), packed.examples)


def _laid(encoded: Sequence[Encoded], rows: Sequence[Sequence[int]], token: int, length: int) -> Batch:
    ids, targets = np.full((len(rows), length), token), np.full((len(rows), length), IGNORE)
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            example = encoded[i]
            ids[r, at : at + len(example.ids)], targets[r, at : at + len(example.ids)] = example.ids, example.targets
            at += len(example.ids)
    return Batch(Rows(ids, targets), [i for row in rows for i in row])


def batches(encoded: Sequence[Encoded], batch_size: int, token: int) -> Iterator[Batch]:
    """All examples from short to long, for evaluation."""
    for step in arrange([len(e.ids) for e in encoded], batch_size):
        for chosen in step:
            yield pad(encoded, chosen, token)
