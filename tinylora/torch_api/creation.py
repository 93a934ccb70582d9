"""Functions that create tensors: zeros, ones, ranges, random numbers. `device` defaults to the default device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinylora import backend
from tinylora.backend import Generator, float32, int64
from tinylora.tensor import Tensor
from tinylora.torch_api.promote import number
from tinylora.torch_api.promote import tensor as tensor
from tinylora.torch_api.shaping import _sizes


def full(size: Any, fill_value: float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of shape `size` filled with one number. The dtype is bool, int64 or float32, by the type of the number."""
    kind = {bool: np.dtype("bool"), int: int64}.get(type(fill_value), float32)
    shape = _sizes((size,))
    value = fill_value if dtype is None else number(fill_value, np.dtype(dtype))
    return Tensor(backend.full(shape, value, np.dtype(dtype or kind), device), requires_grad)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros: `zeros(2, 3)` or `zeros((2, 3))`, float32 unless dtype is given."""
    return full(_sizes(size), 0.0, dtype=dtype or float32, device=device, requires_grad=requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones: `ones(2, 3)` or `ones((2, 3))`, float32 unless dtype is given."""
    return full(_sizes(size), 1.0, dtype=dtype or float32, device=device, requires_grad=requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros, as `zeros`: never uninitialised memory."""
    return zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)


def randn(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, generator: Generator | None = None
) -> Tensor:
    """Random numbers, normal with mean 0 and variance 1, from the seed of `manual_seed`, or from `generator`."""
    array = backend.random("normal", _sizes(size), np.dtype(dtype or float32), device, generator=generator)
    return Tensor(array, requires_grad)


def rand(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, generator: Generator | None = None
) -> Tensor:
    """Random numbers, uniform in [0, 1), from the seed of `manual_seed`, or from `generator`."""
    array = backend.random("uniform", _sizes(size), np.dtype(dtype or float32), device, generator=generator)
    return Tensor(array, requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
) -> Tensor:
    """Random integers in [low, high), or [0, low) if called as randint(low, size)."""
    if size is None:
        low, high, size = 0, low, high
    array = backend.random_integers(low, high, _sizes(size), device, generator)
    return Tensor(array.astype(backend.known(dtype or int64)))


def arange(start: float, end: float | None = None, step: float = 1, *, dtype: Any = None, device: Any = None) -> Tensor:
    """start, start + step, .. below end (0 .. start if end is not given); int64 unless a float is among them."""
    start, end = (0, start) if end is None else (start, end)
    if dtype is not None and np.dtype(dtype) == int64:  # PyTorch counts in int64 then
        start, end, step = int(start), int(end), int(step)
    if not all(math.isfinite(n) for n in (start, end, step)):
        raise RuntimeError(f"arange: {start}, {end} and {step} must be finite")
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError(f"arange: steps of {step} do not lead from {start} to {end}")
    whole = all(isinstance(n, int | np.integer) for n in (start, end, step))
    where = backend.device(device or backend.default_device())
    xp = backend.cupy() if where == "cuda" else np
    array = xp.arange(math.ceil((end - start) / step)) * step + start
    return Tensor(backend.to_device(array.astype(backend.known(dtype or (int64 if whole else float32))), where))


def zeros_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape, dtype and device of another tensor."""
    return zeros(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape, dtype and device of another tensor."""
    return ones(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros, as `zeros_like`: never uninitialised memory; with the shape, dtype and device of another tensor."""
    return empty(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def rand_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Random numbers in [0, 1) with the shape, dtype and device of another tensor."""
    return rand(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def randn_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Normal random numbers with the shape, dtype and device of another tensor."""
    return randn(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def full_like(
    input: Tensor, fill_value: float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One number, with the shape, dtype and device of another tensor."""
    dtype, device = dtype or input.dtype, device or input.device
    return full(input.shape, fill_value, dtype=dtype, device=device, requires_grad=requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The (n, m) matrix with ones on its diagonal: for m = None the n × n identity."""
    if n < 0 or (m is not None and m < 0):
        raise RuntimeError(f"eye: sizes are at least 0, not {n} and {m}")
    array = np.eye(n, m, dtype=backend.known(dtype or float32))
    return Tensor(backend.to_device(array, device or backend.default_device()), requires_grad)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares memory with a NumPy array."""
    if array.dtype not in backend.SUPPORTED:
        raise TypeError(f"from_numpy: {array.dtype} is not a dtype of tensors")
    return Tensor(array)
