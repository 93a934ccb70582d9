"""Plans the memory of a captured step: every allocation is known beforehand, with its size and lifetime.

A memory pool chooses a place when it is asked, without knowing what comes next, and ends up larger than what was ever in use
at once: by 4 to 6% for a Llama. Here the largest blocks are placed first, each at the lowest address that is free for its
whole life. (Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", section 5.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ALIGNMENT = 512  # bytes, as CuPy's pools have it
AHEAD = 16  # blocks of the plan that may be left out at once


class Life(NamedTuple):
    """A block of `size` bytes, in use from event `born` until event `died`."""

    size: int
    born: int
    died: int


class Recorder:
    """Allocates by `malloc`, and records the life of every block. `events` counts allocations and releases."""

    def __init__(self, malloc: Callable[[int], Any]) -> None:
        self._malloc, self.events = malloc, 0
        self.blocks: list[list[Any]] = []  # [size, born, died or None]

    def malloc(self, size: int) -> Any:
        self.events += 1
        self.blocks.append(block := [size, self.events, None])
        return _owned(self._malloc(size), size, self._released, block)

    def _released(self, block: list[Any]) -> None:
        self.events += 1
        block[2] = self.events

    def lives(self) -> list[Life]:
        """Of all blocks in the order of allocation; those still in use die after everything else."""
        return [Life(size, born, self.events + 1 if died is None else died) for size, born, died in self.blocks]


def plan(lives: list[Life]) -> tuple[list[int], int]:
    """An offset for each block, so that no two that are in use at once overlap, and the bytes that all need together."""
    sizes = np.array([-(-life.size // ALIGNMENT) * ALIGNMENT for life in lives], np.int64)
    born, died = (np.array([life[i] for life in lives], np.int64) for i in (1, 2))
    offsets, placed = np.zeros(len(lives), np.int64), np.zeros(len(lives), bool)
    for i in np.argsort(-sizes, kind="stable"):
        if sizes[i]:
            beside = np.flatnonzero(placed & (born < died[i]) & (died > born[i]))
            beside = beside[np.argsort(offsets[beside], kind="stable")]
            ends = np.concatenate([[0], np.maximum.accumulate(offsets[beside] + sizes[beside])])
            gaps = np.flatnonzero(offsets[beside] - ends[:-1] >= sizes[i])
            offsets[i] = ends[gaps[0]] if gaps.size else ends[-1]
            placed[i] = True
    return offsets.tolist(), int((offsets + sizes).max(initial=0))


class Arena:
    """Allocates as planned in `memory`, a CuPy MemoryPointer; what comes otherwise than planned by `malloc`.

    What a first step allocates once and for all, such as tables that are cached, is not asked for again: then the plan goes
    on with the next block of the size that is asked for, among the next AHEAD.
    """

    def __init__(self, lives: list[Life], offsets: list[int], memory: Any, malloc: Callable[[int], Any]) -> None:
        self.lives, self.offsets, self.memory, self._malloc = lives, offsets, memory, malloc
        self.count = 0
        self.live: dict[int, int] = {}  # the end of each block in use, by its offset

    def malloc(self, size: int) -> Any:
        some = range(self.count, min(self.count + AHEAD, len(self.lives)))
        i = next((i for i in some if self.lives[i].size == size), None)
        if i is None or not size:
            return self._malloc(size)
        self.count = i + 1
        start, end = self.offsets[i], self.offsets[i] + size
        if any(other < end and start < stop for other, stop in self.live.items()):
            return self._malloc(size)  # its place is still in use: released later than when it was planned
        self.live[start] = end
        return _owned(self.memory + start, size, self.live.pop, start)


class _Owner:
    """Keeps a block's memory alive, and reports when it is released."""

    def __init__(self, memory: Any, released: Callable[[Any], Any], what: Any) -> None:
        self.memory, self.released, self.what = memory, released, what

    def __del__(self) -> None:
        self.released(self.what)


def _owned(memory: Any, size: int, released: Callable[[Any], Any], what: Any) -> Any:
    import cupy

    owner = _Owner(memory, released, what)
    return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(memory.ptr, size, owner, memory.device_id), 0)
