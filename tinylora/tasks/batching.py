"""Groups examples of like length into batches, pads them, and puts several batches into one step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tinylora.tasks.task import IGNORE, Encoded


class Padded(NamedTuple):
    """Tokens and targets of several examples, (B, T) each, padded at the end, and the examples' numbers."""

    ids: np.ndarray
    targets: np.ndarray
    examples: list[int]


def arrange(
    lengths: Sequence[int], batch_size: int, accumulate: int = 1, rng: np.random.Generator | None = None
) -> list[list[list[int]]]:
    """The steps of an epoch, each a list of `accumulate` batches or fewer, each a list of examples' numbers.

    The examples of a step are of like length, to keep padding small. With `rng` in random order; without it from short to
    long.

    >>> arrange([5, 1, 4, 2, 3], batch_size=1, accumulate=2)
    [[[1], [3]], [[4], [2]], [[0]]]
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]
    size = batch_size * accumulate
    steps = [order[i : i + size].tolist() for i in range(0, len(order), size)]
    shuffled = range(len(steps)) if rng is None else rng.permutation(len(steps))
    return [[steps[s][i : i + batch_size] for i in range(0, len(steps[s]), batch_size)] for s in shuffled]


def pad(encoded: Sequence[Encoded], chosen: Sequence[int], token: int, length: int = 0) -> Padded:
    """The examples numbered `chosen`, padded to the longest of them, or to `length`."""
    rows = [encoded[i] for i in chosen]
    shape = len(rows), max(length, *(len(row.ids) for row in rows))
    ids, targets = np.full(shape, token), np.full(shape, IGNORE)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], targets[i, : len(row.ids)] = row
    return Padded(ids, targets, list(chosen))


def padded_length(encoded: Sequence[Encoded], chosen: Sequence[int], multiple: int, context: int) -> int:
    """The longest example's length, rounded up to a multiple unless that exceeds the context."""
    longest = max(len(encoded[i].ids) for i in chosen)
    return max(longest, min(-(-longest // multiple) * multiple, context))


def batches(encoded: Sequence[Encoded], batch_size: int, token: int) -> Iterator[Padded]:
    """All examples from short to long, for evaluation."""
    for step in arrange([len(e.ids) for e in encoded], batch_size):
        for chosen in step:
            yield pad(encoded, chosen, token)
