"""Element-wise functions of a scientific calculator: powers, logarithms, angles, the error function, remainders.

Inputs broadcast, are promoted to one dtype, and may be Python numbers. Integers give float32 where the result is no integer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, bfloat16, float64, int64
from tinylora.tensor import Tensor, record
from tinylora.torch_api.elementwise import _apply, add, clamp, div, log, mul, pow, sub, where, without_derivative
from tinylora.torch_api.promote import need_float, promote, tensor


# ------------------------------------------------------------------------------------------- powers
def square(input: Tensor) -> Tensor:
    """x²; of booleans in int64."""
    return mul(input, input) if input.dtype != bool else input.to(int64)


def reciprocal(input: Tensor) -> Tensor:
    """1 / x."""
    return div(1.0, input)


# --------------------------------------------------------------------------- exponentials, logarithms
def expm1(input: Tensor) -> Tensor:
    """eˣ - 1, exact for small x."""
    return _apply(ops.expm1, input, floating=True)


def exp2(input: Tensor) -> Tensor:
    """2ˣ."""
    return _apply(ops.exp2, input, floating=True)


def log1p(input: Tensor) -> Tensor:
    """ln(1 + x), exact for small x."""
    return _apply(ops.log1p, input, floating=True)


def log2(input: Tensor) -> Tensor:
    """The logarithm to the base 2."""
    return _apply(ops.log2, input, floating=True)


def log10(input: Tensor) -> Tensor:
    """The logarithm to the base 10."""
    return _apply(ops.log10, input, floating=True)


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """ln(eᵃ + eᵇ), without overflow."""
    return _apply(ops.logaddexp, input, other, floating=True)


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """ln(x / (1 - x)), the inverse of sigmoid; x is first limited to [eps, 1 - eps] if eps is given."""
    x = promote(input, floating=True)[0]
    x = x if eps is None else clamp(x, eps, 1 - eps)
    return log(div(x, sub(1.0, x)))


# ----------------------------------------------------------------------------------- angles (radians)
def tan(input: Tensor) -> Tensor:
    """The tangent."""
    return _apply(ops.tan, input, floating=True)


def asin(input: Tensor) -> Tensor:
    """The angle in [-π/2, π/2] whose sine is x."""
    return _apply(ops.asin, input, floating=True)


def acos(input: Tensor) -> Tensor:
    """The angle in [0, π] whose cosine is x."""
    return _apply(ops.acos, input, floating=True)


def atan(input: Tensor) -> Tensor:
    """The angle in (-π/2, π/2) whose tangent is x."""
    return _apply(ops.atan, input, floating=True)


def sinh(input: Tensor) -> Tensor:
    """(eˣ - e⁻ˣ) / 2."""
    return _apply(ops.sinh, input, floating=True)


def cosh(input: Tensor) -> Tensor:
    """(eˣ + e⁻ˣ) / 2."""
    return _apply(ops.cosh, input, floating=True)


def asinh(input: Tensor) -> Tensor:
    """The inverse of `sinh`."""
    return _apply(ops.asinh, input, floating=True)


def acosh(input: Tensor) -> Tensor:
    """The inverse of `cosh`, for x ≥ 1."""
    return _apply(ops.acosh, input, floating=True)


def atanh(input: Tensor) -> Tensor:
    """The inverse of `tanh`, for -1 < x < 1."""
    return _apply(ops.atanh, input, floating=True)


def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the point (other, input), in (-π, π]."""
    return _apply(ops.atan2, input, other, floating=True)


def hypot(input: Tensor, other: Tensor) -> Tensor:
    """√(input² + other²), without overflow."""
    return _apply(ops.hypot, input, other)


def deg2rad(input: Tensor) -> Tensor:
    """Degrees as radians."""
    return mul(input, math.pi / 180)


def rad2deg(input: Tensor) -> Tensor:
    """Radians as degrees."""
    return mul(input, 180 / math.pi)


# --------------------------------------------------------------------------------- the error function
def erfc(input: Tensor) -> Tensor:
    """1 - erf x, with all digits also where it is tiny."""
    return _apply(ops.erfc, input, floating=True)


def erfinv(input: Tensor) -> Tensor:
    """The inverse of `erf`, for -1 < x < 1; ±inf at ±1."""
    return _apply(ops.erfinv, input, floating=True)


# -------------------------------------------------------------------------- remainders, whole numbers
def fmod(input: Any, other: Any) -> Tensor:
    """What the division rounded towards 0 leaves; it has the sign of `input`. Gradients: 1, and -trunc(input / other)."""
    return _apply(ops.fmod, *_no_zero_division("fmod", input, other))


def _no_zero_division(name: str, input: Any, other: Any) -> list[Any]:
    """The operands promoted. Raises RuntimeError for integers divided by 0, as PyTorch does."""
    a, b = promote(input, other)
    whole = all(not isinstance(x, Tensor) or x.dtype.kind in "iub" for x in (a, b)) and not isinstance(b, float)
    if whole and not (b.array.all() if isinstance(b, Tensor) else b):
        raise RuntimeError(f"{name}: an integer is divided by 0")
    return [a, b]


def trunc(input: Tensor) -> Tensor:
    """The whole part: rounded towards 0. Its gradient is 0."""
    return record(ops.trunc, input)


def frac(input: Tensor) -> Tensor:
    """What `trunc` leaves: x - trunc x, with gradient 1."""
    need_float("frac", input)
    return sub(input, trunc(input))


def copysign(input: Any, other: Any) -> Tensor:
    """|input| with the sign of other."""
    return _apply(ops.copysign, input, other, floating=True)


def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """log₂(2ᵃ + 2ᵇ), without overflow."""
    ln_2 = math.log(2)
    return div(logaddexp(mul(input, ln_2), mul(other, ln_2)), ln_2)


def float_power(input: Any, exponent: Any) -> Tensor:
    """inputᵉˣᵖᵒⁿᵉⁿᵗ in float64."""
    a, b = (x.to(float64) if isinstance(x, Tensor) else float(x) for x in (input, exponent))
    return pow(a, b)


def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """input · 2^other."""
    return mul(input, pow(2.0, other))


def xlogy(input: Any, other: Any) -> Tensor:
    """x ln y, and 0 where x = 0, unless y is NaN."""
    x, y = promote(input, other, floating=True)
    x, y = (v if isinstance(v, Tensor) else tensor(v, dtype=w.dtype, device=w.device) for v, w in ((x, y), (y, x)))
    none = (x == 0) & (y == y)
    return where(none, 0.0, mul(x, log(where(none, 1.0, y))))


def positive(input: Tensor) -> Tensor:
    """input itself."""
    if input.dtype == bool:
        raise RuntimeError("positive is not defined for bool")
    return input


def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of the two; a number counts more than NaN."""
    return where((input >= other) | (other != other), input, other)


def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of the two; a number counts more than NaN."""
    return where((input <= other) | (other != other), input, other)


def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below 0, 1 above, and `values` at 0. It has no derivative, as in PyTorch: backward raises."""
    if input.dtype != values.dtype:
        raise RuntimeError(f"heaviside: expected one dtype, got {input.dtype} and {values.dtype}")
    x = input.detach()
    y = where(x == 0, values.detach(), (x > 0).to(input.dtype))
    return without_derivative("heaviside", y.array, input, values)


# -------------------------------------------------------------------------------------- combinations
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight · (end - input): input at weight 0, end at 1."""
    return add(input, mul(weight, sub(end, input)))


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value · tensor1 · tensor2."""
    product = mul(tensor1, tensor2)
    return add(input, product if value == 1 else mul(product, value))


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value · tensor1 / tensor2."""
    quotient = div(tensor1, tensor2)
    return add(input, quotient if value == 1 else mul(quotient, value))


def _largest(input: Tensor) -> float:
    """The largest finite number of a floating dtype."""
    if input.dtype == bfloat16:
        return 3.3895313892515355e38
    return float(np.finfo(input.dtype).max)


def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """NaN, inf and -inf replaced by numbers, inf by default by the largest of the dtype. They get no gradient."""
    if input.dtype.kind in "iub":
        return input.clone()
    x, xp, limits = input.array, array_module(input.array), _largest(input)
    y = where(Tensor(xp.isnan(x)), float(nan), input)
    y = where(Tensor(xp.isposinf(x)), limits if posinf is None else float(posinf), y)
    return where(Tensor(xp.isneginf(x)), -limits if neginf is None else float(neginf), y)


# PyTorch's other names for these
arcsin, arccos, arctan, arctan2, arcsinh, arccosh, arctanh, fix = asin, acos, atan, atan2, asinh, acosh, atanh, trunc
