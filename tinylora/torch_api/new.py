"""Tensors made from others, and ranges of numbers: new_zeros, as_tensor, linspace and their like."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import backend
from tinylora.backend import float32, to_device
from tinylora.tensor import Tensor
from tinylora.torch_api import creation
from tinylora.torch_api.promote import tensor
from tinylora.torch_api.shaping import _sizes


# ------------------------------------------------------------------- with the dtype and device of another
def new_tensor(input: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """`tensor(data)` with the dtype and device of input."""
    return tensor(data, dtype or input.dtype, device or input.device, requires_grad)


def new_full(
    input: Tensor, size: Any, fill_value: float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of one number, with the dtype and device of input."""
    options: Any = {"dtype": dtype or input.dtype, "device": device or input.device, "requires_grad": requires_grad}
    return creation.full(_sizes((size,)), fill_value, **options)


def new_zeros(input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of another size, with the dtype and device of input."""
    return new_full(input, _sizes(size), 0, dtype=dtype, device=device, requires_grad=requires_grad)


def new_ones(input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of another size, with the dtype and device of input."""
    return new_full(input, _sizes(size), 1, dtype=dtype, device=device, requires_grad=requires_grad)


def new_empty(input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros, as `new_zeros`: never uninitialised memory."""
    return new_zeros(input, *size, dtype=dtype, device=device, requires_grad=requires_grad)


def randint_like(input: Tensor, low: int, high: Any = None, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Random integers in [low, high), or [0, low), with the shape, dtype and device of input."""
    low, high = (0, low) if high is None else (low, high)
    return creation.randint(low, high, input.shape, dtype=dtype or input.dtype, device=device or input.device)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of `data`, which shares its memory if it is a tensor or an array that needs no cast and no move."""
    if isinstance(data, np.ndarray) and data.dtype in backend.SUPPORTED:
        data = Tensor(data)
    if not isinstance(data, Tensor):
        return tensor(data, dtype, device)
    return data.to(dtype=dtype, device=device)


def scalar_tensor(value: float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A 0-d tensor, float32 unless dtype is given."""
    return creation.full((), value, dtype=dtype or float32, device=device, requires_grad=requires_grad)


def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None
) -> Tensor:
    """Normal random numbers; mean and std may be tensors, otherwise `size` gives the shape."""
    shape = size if size is not None else np.broadcast_shapes(getattr(mean, "shape", ()), getattr(std, "shape", ()))
    if isinstance(std, int | float) and std < 0:
        raise RuntimeError(f"normal: std is at least 0, not {std}")
    given = next((x for x in (mean, std) if isinstance(x, Tensor)), None)
    dtype, device = (dtype, device) if given is None else (given.dtype, given.device)
    return creation.randn(shape, dtype=dtype, device=device, **({"generator": generator} if generator else {})) * std + mean


# -------------------------------------------------------------------------------------------- ranges
def _range(numbers: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    where = device if device is not None else backend.default_device()
    return Tensor(to_device(np.asarray(numbers).astype(backend.known(dtype or float32)), where), requires_grad)


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers from start to end, both included, evenly spaced.

    >>> import tinylora
    >>> linspace(0, 1, 5).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if steps < 0:
        raise RuntimeError(f"linspace: the number of steps is at least 0, not {steps}")
    low, high = (x.item() if isinstance(x, Tensor) else x for x in (start, end))
    if dtype is not None and np.dtype(dtype).kind in "iu":
        low, high = int(low), int(high)
    return _range(np.linspace(low, high, steps), dtype, device, requires_grad)


def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers from base^start to base^end, each a constant factor larger than the one before."""
    if steps < 0:
        raise RuntimeError(f"logspace: the number of steps is at least 0, not {steps}")
    low, high = (x.item() if isinstance(x, Tensor) else x for x in (start, end))
    if dtype is not None and np.dtype(dtype).kind in "iu":
        low, high = int(low), int(high)
    with np.errstate(all="ignore"):
        return _range(np.power(float(base), np.linspace(low, high, steps)), dtype, device, requires_grad)
