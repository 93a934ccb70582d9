"""Names of torch that describe or switch: is_tensor, dtypes' limits, grad modes, compile, the default dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tinylora.backend import bfloat16, default_device, device, float32, known
from tinylora.tensor import Tensor, _mode, no_grad

dtype = np.dtype
Size = tuple


def is_tensor(obj: Any) -> bool:
    """Is it a Tensor?"""
    return isinstance(obj, Tensor)


# ------------------------------------------------------------------------------------------------- gradients
def is_grad_enabled() -> bool:
    """False inside `no_grad()`."""
    return _mode.grad


class set_grad_enabled:
    """Record graphs from now on, or not. As a context manager, until the end of the block; also a decorator.

    >>> import tinylora
    >>> x = tinylora.ones(2, requires_grad=True)
    >>> with tinylora.set_grad_enabled(False):
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    def __init__(self, mode: bool) -> None:
        self.mode, self.before = bool(mode), _mode.grad
        _mode.grad = self.mode

    def __enter__(self) -> None:
        _mode.grad = self.mode

    def __exit__(self, *error: object) -> None:
        _mode.grad = self.before

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        _mode.grad = self.before  # as a decorator it changes nothing until the function is called

        @functools.wraps(function)
        def switched(*args: Any, **kwargs: Any) -> Any:
            with set_grad_enabled(self.mode):
                return function(*args, **kwargs)

        return switched


class enable_grad(no_grad):
    """The opposite of `no_grad`, inside one."""

    recorded = True


class inference_mode(no_grad):
    """`no_grad()`; with mode=False nothing is changed."""

    def __new__(cls, mode: Any = True) -> Any:
        return super().__new__(cls, mode if callable(mode) else None)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self.mode = mode

    def change(self) -> bool:
        return super().change() if self.mode else _mode.grad


# --------------------------------------------------------------------------------------------------- dtypes
def get_default_dtype() -> np.dtype:
    """float32."""
    return float32


def set_default_dtype(d: Any) -> None:
    """float32 is the only default. Raises NotImplementedError for others: pass dtype= where tensors are made."""
    if np.dtype(d) != float32:
        raise NotImplementedError(f"the default dtype is always float32, not {np.dtype(d)}: pass dtype=, or use .to(dtype)")


def _ml_dtypes_finfo(type: Any) -> Any:
    import ml_dtypes

    return ml_dtypes.finfo(type)


class finfo:
    """Limits of a floating-point dtype: min, max, eps, tiny (also smallest_normal), bits.

    >>> import tinylora
    >>> tinylora.finfo(tinylora.float16).max
    65504.0
    """

    def __init__(self, type: Any = float32) -> None:
        self.type = known(type)
        limits: Any = _ml_dtypes_finfo(self.type) if self.type == bfloat16 else np.finfo(self.type)
        self.min, self.max, self.eps = float(limits.min), float(limits.max), float(limits.eps)
        self.tiny = self.smallest_normal = float(limits.smallest_normal)
        self.bits, self.resolution = int(limits.bits), 10.0**-limits.precision
        self.dtype = self.type.name


iinfo = np.iinfo


def get_default_device() -> device:
    """The device of new tensors."""
    return default_device()


# --------------------------------------------------------------------------------- what has no effect here
def compile(model: Any = None, **options: Any) -> Any:
    """Returns the function or module as it is: there is no compiler. As a decorator, with or without options.

    >>> import tinylora
    >>> @tinylora.compile(mode="max-autotune")
    ... def double(x):
    ...     return x * 2
    >>> double(3)
    6
    """
    return (lambda function: function) if model is None else model


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Accepted: on a CPU all operations repeat themselves exactly. On a GPU sums by index may differ in the last bit."""


def are_deterministic_algorithms_enabled() -> bool:
    return True
