"""Values that change from step to step in a captured graph: learning rate, step count, dropout keys.

A CUDA graph repeats its launches with the arguments of the capture. Values that change must be read from device memory;
`live` writes them there, now or before each replay.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

Compute = Callable[[], Any]


class Slots:
    """Device memory that one captured graph reads: live values, and tables that never change."""

    def __init__(self, xp: ModuleType) -> None:
        self.live, self.fixed = _Memory(xp, 2**20), _Memory(xp, 2**21)
        self.compute: list[tuple[Compute, np.ndarray]] = []

    def refresh(self) -> None:
        """Compute all live values, in the order of the step, and copy them to the device."""
        for compute, place in self.compute:
            place[...] = compute()
        self.live.send()
        if self.fixed.filled:
            self.fixed.send()
            self.fixed.filled = 0  # the tables are copied once


class _Memory:
    """A buffer on the device with a copy on the host, allocated front to back."""

    def __init__(self, xp: ModuleType, size: int) -> None:
        self.device, self.host, self.filled = xp.empty(size, np.uint8), np.empty(size, np.uint8), 0

    def place(self, shape: tuple[int, ...], dtype: Any) -> tuple[Any, np.ndarray]:
        """An array on the device, and its copy on the host to write to."""
        start, stop = self.filled, self.filled + int(np.prod(shape)) * np.dtype(dtype).itemsize
        if stop > self.host.size:
            raise RuntimeError(f"a captured step has room for {self.host.size} bytes of numbers like this, and needs more")
        self.filled = -(-stop // 16) * 16
        return tuple(side[start:stop].view(dtype).reshape(shape) for side in (self.device, self.host))

    def send(self) -> None:
        if self.filled:
            self.device[: self.filled].set(self.host[: self.filled])


class _Open(threading.local):
    """The slots of the graph that the current thread captures, innermost last."""

    def __init__(self) -> None:
        self.slots: list[Slots] = []


_open = _Open()


@contextlib.contextmanager
def recording(slots: Slots) -> Iterator[None]:
    """Inside this block `live` allocates in `slots`."""
    _open.slots.append(slots)
    try:
        yield
    finally:
        _open.slots.pop()


def live(xp: ModuleType, compute: Compute, shape: tuple[int, ...], dtype: Any) -> Any:
    """`compute()` as a device array: computed now, or in a captured graph before each replay."""
    if not _open.slots:
        return xp.asarray(np.broadcast_to(np.asarray(compute(), dtype), shape))
    device, host = _open.slots[-1].live.place(shape, dtype)
    _open.slots[-1].compute.append((compute, host))
    return device


def fixed(xp: ModuleType, numbers: Any, dtype: Any) -> Any:
    """Constant numbers as a device array; in a captured graph they are copied with the first replay."""
    array = np.asarray(numbers, dtype)
    if not _open.slots:
        return xp.asarray(array)
    device, host = _open.slots[-1].fixed.place(array.shape, dtype)
    host[...] = array
    return device
