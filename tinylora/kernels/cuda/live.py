"""Numbers that the host computes anew for each step: the learning rate, the count of steps, the keys of dropout masks.

A CUDA graph repeats its launches with the arguments that they had when it was captured. What changes from step to step has
to stand in memory that its kernels read; `live` puts it there, now or before each replay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

Compute = Callable[[], Any]


class Slots:
    """What the kernels of one captured graph read: live numbers, and tables that never change; both on the device."""

    def __init__(self, xp: ModuleType) -> None:
        self.live, self.fixed = _Memory(xp, 2**20), _Memory(xp, 2**21)
        self.compute: list[tuple[Compute, np.ndarray]] = []

    def refresh(self) -> None:
        """Compute all live numbers, in the order in which the step asked for them, and send them to the device."""
        for compute, place in self.compute:
            place[...] = compute()
        self.live.send()
        if self.fixed.filled:
            self.fixed.send()
            self.fixed.filled = 0  # once is enough


class _Memory:
    """Some bytes on the device and the same on the host, handed out from front to back."""

    def __init__(self, xp: ModuleType, size: int) -> None:
        self.device, self.host, self.filled = xp.empty(size, np.uint8), np.empty(size, np.uint8), 0

    def place(self, shape: tuple[int, ...], dtype: Any) -> tuple[Any, np.ndarray]:
        """An array on the device, and where the host writes what it is to hold."""
        start, stop = self.filled, self.filled + int(np.prod(shape)) * np.dtype(dtype).itemsize
        if stop > self.host.size:
            raise RuntimeError(f"a captured step has room for {self.host.size} bytes of numbers like this, and needs more")
        self.filled = -(-stop // 16) * 16
        return tuple(side[start:stop].view(dtype).reshape(shape) for side in (self.device, self.host))

    def send(self) -> None:
        if self.filled:
            self.device[: self.filled].set(self.host[: self.filled])


_open: list[Slots] = []  # of the graph that is being captured, if one is


@contextlib.contextmanager
def recording(slots: Slots) -> Iterator[None]:
    """Inside this block `live` hands out places in `slots`."""
    _open.append(slots)
    try:
        yield
    finally:
        _open.pop()


def live(xp: ModuleType, compute: Compute, shape: tuple[int, ...], dtype: Any) -> Any:
    """`compute()` as a device array: once, now, or inside a captured graph anew before each replay."""
    if not _open:
        return xp.asarray(np.asarray(compute(), dtype).reshape(shape))
    device, host = _open[-1].live.place(shape, dtype)
    _open[-1].compute.append((compute, host))
    return device


def fixed(xp: ModuleType, numbers: Any, dtype: Any) -> Any:
    """Numbers as a device array; inside a captured graph they are sent with the first replay."""
    array = np.asarray(numbers, dtype)
    if not _open:
        return xp.asarray(array)
    device, host = _open[-1].fixed.place(array.shape, dtype)
    host[...] = array
    return device
