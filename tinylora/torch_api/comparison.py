"""Functions whose result has no gradient, or one that is 0 nearly everywhere: comparisons, logic, bits, rounding.

Inputs broadcast, are promoted to one dtype, and may be Python numbers.
"""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, seen
from tinylora.tensor import Tensor, no_grad
from tinylora.torch_api.elementwise import _apply, without_derivative
from tinylora.torch_api.functional import Dim, axes_of
from tinylora.torch_api.promote import need_float, operand, promote, result_type, wide

COMPARING = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")


def _untracked(name: str, *inputs: Any) -> Tensor:
    """NumPy's or CuPy's function `name` of the promoted inputs."""
    with no_grad():
        operands = promote(*inputs)
        if not builtins.any(isinstance(x, Tensor) for x in operands):
            raise TypeError(f"{name}: expected a tensor, got {', '.join(type(x).__name__ for x in inputs)}")
        if name in COMPARING:  # 300 is larger than any uint8; but -1 is 255, as in PyTorch
            pairs = zip(operands, inputs, strict=True)
            operands = [builtins.max(x, given) if type(given) is int and given > 0 else x for x, given in pairs]
        arrays = [x.array if isinstance(x, Tensor) else x for x in operands]
        return Tensor(getattr(array_module(*arrays), name)(*arrays))


# -------------------------------------------------------------------------------------- comparisons
def eq(input: Any, other: Any) -> Tensor:
    """input == other, element by element."""
    return _untracked("equal", input, other)


def ne(input: Any, other: Any) -> Tensor:
    """input != other, element by element."""
    return _untracked("not_equal", input, other)


def lt(input: Any, other: Any) -> Tensor:
    """input < other, element by element."""
    return _untracked("less", input, other)


def le(input: Any, other: Any) -> Tensor:
    """input <= other, element by element."""
    return _untracked("less_equal", input, other)


def gt(input: Any, other: Any) -> Tensor:
    """input > other, element by element."""
    return _untracked("greater", input, other)


def ge(input: Any, other: Any) -> Tensor:
    """input >= other, element by element."""
    return _untracked("greater_equal", input, other)


def isnan(input: Tensor) -> Tensor:
    return _untracked("isnan", input)


def isinf(input: Tensor) -> Tensor:
    """Is it inf or -inf?"""
    return _untracked("isinf", input)


def isfinite(input: Tensor) -> Tensor:
    """Is it neither infinite nor NaN?"""
    return _untracked("isfinite", input)


def equal(input: Tensor, other: Tensor) -> bool:
    """Do the two have the same shape and the same numbers?"""
    return input.shape == other.shape and bool((input.array == other.array).all())


def allclose(input: Tensor, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Is |input - other| ≤ atol + rtol · |other| everywhere?"""
    a, b = promote(input, operand(other))
    close = array_module(a.array).isclose(a.array, getattr(b, "array", b), rtol=rtol, atol=atol, equal_nan=equal_nan)
    return bool(close.all())


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Is |input - other| ≤ atol + rtol · |other|, element by element?"""
    if input.dtype != other.dtype:
        raise RuntimeError(f"isclose: expected one dtype, got {input.dtype} and {other.dtype}")
    if rtol < 0 or atol < 0:
        raise RuntimeError(f"isclose: rtol and atol are at least 0, not {rtol} and {atol}")
    a, b = input.array, other.array
    if a.dtype.kind == "b":
        return eq(input, other)
    return Tensor(array_module(a).isclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan))


def isposinf(input: Tensor) -> Tensor:
    """Is it inf?"""
    return eq(input, math.inf)


def isneginf(input: Tensor) -> Tensor:
    """Is it -inf?"""
    return eq(input, -math.inf)


def signbit(input: Tensor) -> Tensor:
    """Is it negative, or -0?"""
    return _untracked("signbit", input) if input.dtype.kind == "f" else lt(input, 0)


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Is it among test_elements, element by element?"""
    a, b = (x.array if isinstance(x, Tensor) else np.asarray(x) for x in (elements, test_elements))
    return Tensor(array_module(a, b).isin(a, b, assume_unique=assume_unique, invert=invert))


# -------------------------------------------------------------------------------------- logic and bits
def logical_and(input: Any, other: Any) -> Tensor:
    return _untracked("logical_and", input, other)


def logical_or(input: Any, other: Any) -> Tensor:
    return _untracked("logical_or", input, other)


def logical_not(input: Tensor) -> Tensor:
    return _untracked("logical_not", input)


def logical_xor(input: Any, other: Any) -> Tensor:
    return _untracked("logical_xor", input, other)


def bitwise_and(input: Any, other: Any) -> Tensor:
    """input & other, for integers and booleans."""
    return _untracked("bitwise_and", input, other)


def bitwise_or(input: Any, other: Any) -> Tensor:
    """input | other, for integers and booleans."""
    return _untracked("bitwise_or", input, other)


def bitwise_xor(input: Any, other: Any) -> Tensor:
    """input ^ other, for integers and booleans."""
    return _untracked("bitwise_xor", input, other)


def bitwise_not(input: Tensor) -> Tensor:
    """~input, for integers and booleans."""
    return _untracked("invert", input)


def bitwise_left_shift(input: Any, other: Any) -> Tensor:
    """input << other, for integers."""
    return _untracked("left_shift", input, other)


def bitwise_right_shift(input: Any, other: Any) -> Tensor:
    """input >> other, for integers."""
    return _untracked("right_shift", input, other)


def _truth(input: Tensor, found: Any) -> Tensor:
    """Booleans; of uint8 0 and 1 in uint8, as in PyTorch."""
    return Tensor(found.astype(np.uint8) if input.dtype == np.uint8 else found)


def any(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Is any element true, over `dim` (all axes if None)?"""
    return _truth(input, input.array.any(axis=axes_of(dim, input.array.ndim), keepdims=keepdim))


def all(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Are all elements true, over `dim` (all axes if None)?"""
    return _truth(input, input.array.all(axis=axes_of(dim, input.array.ndim), keepdims=keepdim))


# -------------------------------------------------------------------------------------- rounding
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1."""
    if input.dtype == bool:
        return input.clone()
    return _apply(ops.sign, input)


def floor(input: Tensor) -> Tensor:
    """The largest whole number ≤ x."""
    return _apply(ops.floor, input)


def ceil(input: Tensor) -> Tensor:
    """The smallest whole number ≥ x."""
    return _apply(ops.ceil, input)


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest whole number, or the nearest with so many decimals; halves go to the even one. Its gradient is 0."""
    if decimals == 0:
        return _apply(ops.round, input)
    need_float("round", input)
    ten = 10.0 ** builtins.abs(decimals)
    return _apply(ops.round, input * ten) / ten if decimals > 0 else _apply(ops.round, input / ten) * ten


def _no_zero(input: Any, other: Any) -> None:
    """Integers on the CPU are not divided by 0."""
    if result_type(operand(input), operand(other)).kind not in "iu":
        return
    divisor = seen(other.array) if isinstance(other, Tensor) else np.asarray(other)
    if (divisor == 0).any():
        raise RuntimeError("ZeroDivisionError: integers cannot be divided by 0")


def floor_divide(input: Any, other: Any) -> Tensor:
    """input / other, rounded down. It has no derivative, as in PyTorch: backward raises."""
    _no_zero(input, other)
    exact = [wide(x) if isinstance(x, Tensor) else x for x in (input, other)]
    y = _untracked("floor_divide", *exact).to(result_type(operand(input), operand(other)))
    return without_derivative("floor_divide", y.array, input, other)


def remainder(input: Any, other: Any) -> Tensor:
    """What `floor_divide` leaves; it has the sign of `other`. dy/dinput = 1, dy/dother = -⌊input / other⌋."""
    _no_zero(input, other)
    return _apply(ops.remainder, input, other)


# PyTorch's other names for these
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne
