"""Where arrays live and what they hold: array modules, devices and dtypes.

The type of an array determines its device: NumPy arrays are on "cpu", CuPy arrays on "cuda", and a `MetaArray`, which
has a shape and a dtype but no data, on "meta". CuPy is imported on the first use of "cuda".
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tinylora.backend.meta import MetaArray

Array = Any  # numpy.ndarray, cupy.ndarray or MetaArray
NUMPY = (np.ndarray, np.generic)

float16, float32, float64 = (np.dtype(f"float{bits}") for bits in (16, 32, 64))
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, bool_ = np.dtype("uint8"), np.dtype("bool")

try:
    from ml_dtypes import bfloat16 as _bfloat16

    bfloat16 = np.dtype(_bfloat16)
except ImportError:
    bfloat16 = np.dtype("V2")  # a placeholder: without ml_dtypes no array can hold bfloat16

SUPPORTED = frozenset({bfloat16, float16, float32, float64, int8, int16, int32, int64, uint8, bool_})


def is_floating(dtype: np.dtype) -> bool:
    """Is it a floating-point dtype? Includes bfloat16, whose kind NumPy does not report as floating-point."""
    return dtype.kind == "f" or dtype == bfloat16


def known(dtype: Any) -> np.dtype:
    """`dtype` as a NumPy dtype. Raises RuntimeError for bfloat16 if ml_dtypes is not installed."""
    if np.dtype(dtype) == np.dtype("V2"):
        raise RuntimeError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes")
    return np.dtype(dtype)


# ------------------------------------------------------------------------------------------- devices
class device:
    """A device by name: "cpu", "cuda" or "meta". As a context manager it sets the default device inside the block,
    for the current thread.

    >>> from tinylora import device, zeros
    >>> with device("meta"):
    ...     zeros(1000, 1000).device
    device(type='meta')
    """

    default: ClassVar[device | None] = None  # outside of all blocks
    __slots__ = ("index", "type")

    def __init__(self, type: str | int | device, index: int | None = None) -> None:
        name = str(type) if index is None else f"{type}:{index}"
        self.type, self.index = name, index
        if name not in ("cpu", "cuda", "meta"):
            self.type = "cuda" if name == "0" else name.removesuffix(":0")
            self.index = 0
            if self.type not in ("cpu", "cuda", "meta"):
                which = "; of GPUs the first one is used" if name.startswith("cuda:") or name.isdigit() else ""
                raise RuntimeError(f"unknown device {name!r}: expected 'cpu', 'cuda' or 'meta'{which}")

    def __enter__(self) -> device:
        _blocks.devices.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _blocks.devices.pop()

    def __str__(self) -> str:
        return self.type

    def __repr__(self) -> str:
        return f"device(type='{self.type}')"

    def __eq__(self, other: object) -> bool:
        return str(other).removesuffix(":0") == self.type

    def __hash__(self) -> int:
        return hash(self.type)


class _Blocks(threading.local):
    """The `with device(..)` blocks that the current thread is in."""

    def __init__(self) -> None:
        self.devices: list[device] = []


_blocks = _Blocks()


def is_device(x: Any) -> bool:
    """Does `x`, an argument of `to(..)`, name a device, rather than a dtype?"""
    return isinstance(x, device) or (isinstance(x, str) and x[:4] in ("cpu", "cuda", "meta"))


def set_default_device(name: str | device) -> None:
    """Create new tensors on device `name` from now on."""
    if (chosen := device(name)) == "cuda":
        cupy()
    device.default = chosen


def default_device() -> device:
    """The device of new tensors: that of the block around, else `set_default_device`, else TINYLORA_DEVICE, else "cpu"."""
    if _blocks.devices:
        return _blocks.devices[-1]
    if device.default is None:
        device.default = device(os.environ.get("TINYLORA_DEVICE", "cpu"))
    return device.default


def cupy() -> ModuleType:
    """CuPy, imported on first use. Raises RuntimeError if CuPy, the driver or a GPU is missing."""
    try:
        import cupy as module
    except ModuleNotFoundError as error:
        raise RuntimeError("device 'cuda' needs CuPy: pip install 'tinylora[cuda13]' (or cuda12)") from error
    except ImportError as error:
        raise RuntimeError(f"device 'cuda' cannot be used: CuPy does not load ({error})") from error
    if module not in _usable:
        _need_a_card(module)
        pool = module.get_default_memory_pool()
        if getattr(module.cuda.get_allocator(), "__self__", None) is pool:  # otherwise the caller has set an allocator
            module.cuda.set_allocator(allocator(pool))
        _usable.append(module)
    return module


_usable: list[ModuleType] = []  # holds CuPy once a GPU was found


def _need_a_card(module: ModuleType) -> None:
    runtime = module.cuda.runtime
    try:
        if runtime.getDeviceCount():
            return
        problem = "there is no NVIDIA GPU"
    except runtime.CUDARuntimeError as error:
        problem = {
            35: "the NVIDIA driver is too old for this CuPy: update it, or install tinylora[cuda12] for an older CUDA",
            100: "there is no NVIDIA GPU",
        }.get(error.status, str(error))
    raise RuntimeError(f"device 'cuda' cannot be used: {problem}; device 'cpu' can") from None


def allocator(pool: Any) -> Callable[[int], Any]:
    """The `malloc` of a CuPy memory pool, whose error reports the size requested, the memory free, and what to try."""
    module = sys.modules["cupy"]

    def malloc(size: int) -> Any:
        try:
            return pool.malloc(size)
        except module.cuda.memory.OutOfMemoryError:
            free, total = module.cuda.runtime.memGetInfo()
        free += pool.free_bytes()
        raise MemoryError(
            f"out of GPU memory: asked for {size / 1e9:.3f} GB, and {free / 1e9:.3f} of {total / 1e9:.1f} GB are free. Try "
            "a smaller batch, bfloat16 (model.to(tinylora.bfloat16)), or tinylora.checkpoint (--checkpoint)"
        )

    return malloc


def device_of(array: Array) -> device:
    """The device that holds `array`."""
    if isinstance(array, MetaArray):
        return device("meta")
    if not isinstance(array, NUMPY) and not is_cupy(array):
        raise TypeError(f"expected an array, got {type(array).__name__}; the array of a tensor is its .array")
    return device("cpu" if isinstance(array, NUMPY) else "cuda")


def is_cupy(x: Any) -> bool:
    """Is it a CuPy array? Does not import CuPy."""
    return (module := sys.modules.get("cupy")) is not None and isinstance(x, module.ndarray)


at_first_cupy: list[Callable[[], object]] = []  # called before the first array of CuPy is computed with


def array_module(*arrays: Array) -> ModuleType:
    """The module, NumPy or CuPy, that computes on `arrays`; Python numbers and None are ignored.

    Raises RuntimeError, naming both devices, if they do not live on one.
    """
    if "cupy" not in sys.modules:
        return np  # CuPy has not been imported, so there are no CuPy arrays
    found: ModuleType | None = None
    for array in arrays:
        if isinstance(array, NUMPY):
            module: ModuleType = np
        elif is_cupy(array):
            module = sys.modules["cupy"]
            while at_first_cupy:
                at_first_cupy.pop()()
        else:
            continue
        if found is not None and module is not found:
            raise RuntimeError("expected all tensors on one device, but found cpu and cuda: move one with .to(...)")
        found = module
    return found or np


def seen(array: Array) -> Array:
    """The values of `array` on the CPU, for checks. Empty while a CUDA graph is captured, as there are no values yet."""
    module = array_module(array)
    if module is np:
        return array
    return np.empty(0, array.dtype) if module.cuda.get_current_stream().is_capturing() else module.asnumpy(array)


def to_device(array: Array, where: str | device) -> Array:
    """`array` on device `where`: the same array if it is already there, else a copy."""
    here, there = device_of(array), device(where)
    if here == there:
        return array
    if here == "meta":
        raise RuntimeError(f"a meta tensor of shape {array.shape} holds no numbers: it cannot go to {there}")
    if there == "meta":
        return MetaArray(array.shape, array.dtype)
    return cupy().asarray(array) if there == "cuda" else cupy().asnumpy(array)


def full(shape: tuple[int, ...], value: float, dtype: np.dtype, where: str | device | None = None) -> Array:
    """A new array filled with `value`. On "meta" it takes no memory."""
    there, dtype = device(where) if where is not None else default_device(), known(dtype)
    if there == "meta":
        return MetaArray(shape, dtype)
    return (cupy() if there == "cuda" else np).full(shape, value, dtype=dtype)
