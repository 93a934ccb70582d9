"""Compiles CUDA sources on first use; CuPy caches the kernels on disk."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import numpy as np

from tinylora.backend import bfloat16, float16, float32

NAMES = {float32: "float", bfloat16: "bf16", float16: "half"}  # C++ types of the supported dtypes, see common.cuh
THREADS = 256  # threads in a block


@functools.cache
def kernel(room: str, name: str, dtype: np.dtype = float32, **numbers: int) -> Any:
    """The kernel `name` of ROOM.cu with T the `dtype`, and with each of `numbers` as a constant of its name."""
    return _module(room, dtype, tuple(numbers.items())).get_function(name)


@functools.cache
def _module(room: str, dtype: np.dtype, numbers: tuple[tuple[str, int], ...]) -> Any:
    from pathlib import Path

    import cupy

    here = Path(__file__).parent
    source = (here / "common.cuh").read_text(), (here / f"{room}.cu").read_text()
    constants = "".join(f"#define {k} {v}\n" for k, v in numbers)
    code = source[0].replace("const int PACK", f"typedef {NAMES[dtype]} T;\nconst int PACK", 1)
    return cupy.RawModule(code=f"{constants}{code}{source[1]}", options=("--std=c++17",))


@functools.cache
def extra(module: str) -> ModuleType | None:
    """A module that the extras cuda12 and cuda13 install, or None where it or a library it needs is missing."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError):
        return None


def or_null(x: Any) -> Any:
    """x, or the null pointer for None, as the argument of a kernel."""
    return np.uint64(0) if x is None else x


def mask(p: float, key: Any) -> tuple[Any, ...]:
    """Dropout's kernel arguments: the key or its address, the threshold, and the factor of kept elements."""
    place = (np.uint64(0), key) if hasattr(key, "dtype") else (np.uint64(key), np.uint64(0))
    return *place, np.uint64(min(int(p * 2**64), 2**64 - 1)), 1 / (1 - p) if p < 1 else 0.0


def ready(xp: ModuleType, x: Any) -> Any:
    """x if it is in row order and 16-byte aligned, else such a copy."""
    return x if x.flags.c_contiguous and x.data.ptr % 16 == 0 else x.copy(order="C")


def spaced(x: Any) -> tuple[Any, int]:
    """x (.., n) as evenly spaced, 16-byte aligned rows (N, n), copied if it must be, and their step in elements."""
    x = x.reshape(x.size // x.shape[-1], x.shape[-1])
    if x.strides[1] != x.itemsize or x.strides[0] % 16 or x.strides[0] <= 0 or x.data.ptr % 16:
        x = x.copy(order="C")
    return x, x.strides[0] // x.itemsize


def copy_rows(x: Any, y: Any) -> None:
    """Copy x (N, n) into y (N, n), views of evenly spaced rows of whole 16-byte packs."""
    steps = x.strides[0] // x.itemsize, y.strides[0] // y.itemsize
    kernel("elementwise", "copy_rows", x.dtype)(*blocks(packs(x)), (x, y, x.size, x.shape[1], *steps))


def blocks(threads: int, size: int = THREADS) -> tuple[tuple[int], tuple[int]]:
    """Grid and block for this number of threads."""
    return (-(-threads // size),), (size,)


def packs(x: Any) -> int:
    """The number of 16-byte packs in x."""
    return -(-x.size * x.itemsize // 16)
