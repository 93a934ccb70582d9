"""Examples as they are read, and as tokens with targets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

IGNORE = -100  # the target of a position where nothing is predicted; PyTorch's ignore_index


class Examples(list[Any]):
    """The examples of a file, in order. `notes` are sentences on what was dropped or decided while reading it."""

    def __init__(self, items: Iterable[Any], notes: Iterable[str] = ()) -> None:
        super().__init__(items)
        self.notes = list(notes)


class Splits(NamedTuple):
    """Examples to train on, to choose the best state by, and to measure at the end."""

    train: Examples
    valid: Examples
    test: Examples


def part_of(count: int, share: float) -> int:
    """The size of a part: at least 1 example, unless `share` is 0."""
    return max(1, round(share * count)) if share else 0


class Encoded(NamedTuple):
    """One example: its tokens (T,), and the target at each position (T,), IGNORE where nothing is predicted.

    `cut` says whether some of the example was left out, since it did not fit.
    """

    ids: np.ndarray
    targets: np.ndarray
    cut: bool = False


class Rows(NamedTuple):
    """The arrays of a batch, (B, T) each: tokens, targets, and, if rows hold several examples, where each token's begins."""

    ids: np.ndarray
    targets: np.ndarray
    starts: np.ndarray | None = None
