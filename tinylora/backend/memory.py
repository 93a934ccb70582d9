"""Writes into arrays, and whether an array was written to since a graph captured it.

A counter is raised by every write, and stamped on the memory that was written to. A node of the graph notes the counter
when it is made. Only if the counter has moved by the time of backward, the arrays that the node's vjps hold are looked at:
one with a later stamp no longer holds the numbers that the gradient needs. So a graph costs one number per node.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

import numpy as np

from tinylora.backend.arrays import Array, is_cupy
from tinylora.backend.meta import MetaArray


class _Writes:
    """The number of writes so far, and the last one into each piece of memory, by the id of the array that owns it."""

    def __init__(self) -> None:
        self.count = 0
        self.last: dict[int, tuple[Any, int]] = {}
        self.lock = threading.Lock()


writes = _Writes()


def owner(array: Array) -> Array:
    """The array whose memory `array` is a view of: itself, if it has its own."""
    while hasattr(base := getattr(array, "base", None), "base"):  # an array, or what as_strided puts in between
        array = base
    return array


def written(*arrays: Array) -> None:
    """Count a write into each of these arrays."""
    with writes.lock:
        for array in arrays:
            whole = owner(array)
            key = id(whole)
            writes.count += 1
            known = writes.last.get(key)
            ref = known[0] if known else weakref.ref(whole, functools.partial(_forget, key))
            writes.last[key] = ref, writes.count


def _forget(key: int, _: object) -> None:
    """The array with this id is gone."""
    writes.last.pop(key, None)


def overwrite(array: Array, value: Any, index: Any = ...) -> None:
    """array[index] = value, counted as a write. Raises RuntimeError where one element of memory stands several times."""
    if isinstance(array, MetaArray):
        return
    if (
        array.size
        and 0 in array.strides
        and any(n > 1 and step == 0 for n, step in zip(array.shape, array.strides, strict=True))
    ):
        raise RuntimeError(
            f"an expanded tensor of shape {array.shape} cannot be changed in place, since several of its elements share "
            "one place in memory: clone() it first"
        )
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        raise RuntimeError("the memory of this tensor is read-only: clone() it first")
    array[index] = value
    written(array)


def check_unchanged(vjps: Iterable[Callable[..., Any]], made: int) -> None:
    """Raise RuntimeError if an array that a vjp holds was written to after write number `made`."""
    for vjp in vjps:
        for array in _held(vjp, set()):
            stamp = writes.last.get(id(owner(array)))
            if stamp is not None and stamp[1] > made:
                name = getattr(vjp, "__qualname__", "").partition(".")[0]
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: an "
                    f"array of shape {array.shape} that the gradient of {name!r} needs. clone() it before changing it"
                )


def _held(thing: Any, seen: set[int]) -> Iterator[Array]:
    """The arrays that a function refers to, directly or through functions and containers."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, np.ndarray) or is_cupy(thing):
        yield thing
    elif hasattr(thing, "__wrapped__"):  # made by `once`: what it remembers are results, and nothing is computed from them
        yield from _held(thing.__wrapped__, seen)
    elif isinstance(thing, FunctionType):
        for cell in thing.__closure__ or ():
            yield from _held(cell.cell_contents, seen)
        yield from _held(thing.__defaults__, seen)
    elif isinstance(thing, functools.partial):
        yield from _held((thing.func, thing.args, thing.keywords), seen)
    elif isinstance(thing, dict):
        yield from _held(tuple(thing.values()), seen)
    elif isinstance(thing, tuple | list):
        for part in thing:
            yield from _held(part, seen)
    elif hasattr(type(thing), "array"):  # a Tensor
        yield thing.array
