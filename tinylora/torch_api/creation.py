"""New tensors: zeros, ones, ranges, random numbers. PyTorch's names; `device` defaults to the default device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinylora import backend
from tinylora.backend import float32, int64
from tinylora.tensor import Tensor
from tinylora.torch_api.promote import tensor as tensor
from tinylora.torch_api.shaping import _sizes


def full(size: Any, fill_value: float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of shape `size` filled with one number, of the number's kind unless dtype is given."""
    kind = {bool: np.dtype("bool"), int: int64}.get(type(fill_value), float32)
    shape = _sizes((size,))
    return Tensor(backend.full(shape, fill_value, np.dtype(dtype or kind), device), requires_grad)


def _filled(name: str, value: float) -> Callable[..., Tensor]:
    def function(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        return full(_sizes(size), value, dtype=dtype or float32, device=device, requires_grad=requires_grad)

    function.__name__ = name
    function.__doc__ = f"A tensor of {name}: `{name}(2, 3)` or `{name}((2, 3))`, float32 unless dtype is given."
    return function


zeros, ones = _filled("zeros", 0.0), _filled("ones", 1.0)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor to be filled later. It holds zeros: numbers nobody wrote are no help to anybody."""
    return zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)


def _random(kind: str, what: str) -> Callable[..., Tensor]:
    def function(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        array = backend.random(kind, _sizes(size), np.dtype(dtype or float32), device)
        return Tensor(array, requires_grad)

    function.__doc__ = f"A tensor of random numbers, {what}, from the seed of `manual_seed`."
    return function


randn = _random("normal", "normal with mean 0 and variance 1")
rand = _random("uniform", "uniform in [0, 1)")


def randint(low: int, high: Any = None, size: Any = None, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Random integers in [low, high), or [0, low) if called as randint(low, size)."""
    if size is None:
        low, high, size = 0, low, high
    return Tensor(backend.random_integers(low, high, _sizes(size), device).astype(dtype or int64))


def arange(start: float, end: float | None = None, step: float = 1, *, dtype: Any = None, device: Any = None) -> Tensor:
    """start, start + step, .. below end (0 .. start if end is not given); int64 unless a float is among them."""
    start, end = (0, start) if end is None else (start, end)
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError(f"arange: steps of {step} do not lead from {start} to {end}")
    whole = all(isinstance(n, int | np.integer) for n in (start, end, step))
    where = backend.device(device or backend.default_device())
    xp = backend.cupy() if where == "cuda" else np
    array = xp.arange(math.ceil((end - start) / step)) * step + start
    return Tensor(backend.to_device(array.astype(dtype or (int64 if whole else float32)), where))


def _like(name: str, create: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def function(input: Tensor, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        options = {"dtype": dtype or input.dtype, "device": device or input.device, "requires_grad": requires_grad}
        return create(input.shape, *args, **options)

    function.__name__ = name
    function.__doc__ = f"`{name.removesuffix('_like')}` with the shape, dtype and device of another tensor."
    return function


zeros_like, ones_like = _like("zeros_like", zeros), _like("ones_like", ones)
empty_like, full_like = _like("empty_like", empty), _like("full_like", full)
rand_like, randn_like = _like("rand_like", rand), _like("randn_like", randn)


def eye(n: int, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The n × n identity matrix."""
    return Tensor(backend.to_device(np.eye(n, dtype=dtype or float32), device or backend.default_device()))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares memory with a NumPy array."""
    if array.dtype not in backend.SUPPORTED:
        raise TypeError(f"from_numpy: {array.dtype} is not a dtype of tensors")
    return Tensor(array)
