"""Logarithms and exponentials to several bases, sums of exponentials, and the error function's relatives."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tinylora.backend import largest
from tinylora.op import op
from tinylora.ops.elementwise import TWO_OVER_SQRT_PI, _clenshaw, erf

LN_2, LN_10 = math.log(2), math.log(10)


@op
def expm1(xp, x):
    """y = eˣ - 1, exact for small x;  dy/dx = y + 1."""
    y = xp.expm1(x)
    return y, (lambda g: g * (y + 1),)


@op
def exp2(xp, x):
    """y = 2ˣ;  dy/dx = y ln 2."""
    y = xp.exp2(x)
    return y, (lambda g: g * y * LN_2,)


@op
def log1p(xp, x):
    """y = ln(1 + x), exact for small x;  dy/dx = 1 / (1 + x)."""
    return xp.log1p(x), (lambda g: g / (1 + x),)


@op
def log2(xp, x):
    """y = log₂ x;  dy/dx = 1 / (x ln 2)."""
    return xp.log2(x), (lambda g: g / (x * LN_2),)


@op
def log10(xp, x):
    """y = log₁₀ x;  dy/dx = 1 / (x ln 10)."""
    return xp.log10(x), (lambda g: g / (x * LN_10),)


@op
def logaddexp(xp, a, b):
    """y = ln(eᵃ + eᵇ);  dy/da = eᵃ⁻ʸ, dy/db = eᵇ⁻ʸ."""
    y = xp.logaddexp(a, b)
    return y, (lambda g: g * xp.exp(a - y), lambda g: g * xp.exp(b - y))


@op
def logsumexp(xp, x, axis, keepdims=False):
    """y = ln Σ eˣ along axis, which is an int or a tuple;  dy/dx = eˣ⁻ʸ. No elements: -inf."""
    top = largest(x, axis, True, -math.inf)
    shift = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    y = xp.log(xp.exp(x - shift).sum(axis=axis, keepdims=True)) + shift
    kept = y.shape

    def d_x(g):
        return g.reshape(kept) * xp.exp(x - xp.where(y == -math.inf, xp.zeros_like(y), y))

    return y if keepdims else y.reshape(_dropped(kept, axis)), (d_x,)


def _dropped(shape: tuple[int, ...], axis: Any) -> list[int]:
    axes = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))}
    return [n for i, n in enumerate(shape) if i not in axes]


# --------------------------------------------------------------------------------- the error function
@functools.cache
def _scaled_erfc_fit() -> list[float]:
    """Chebyshev fit of eˣ² erfc x over t = 2 / (2 + x) for x in [1/2, 26.5], where erfc is still a normal float64."""
    exact = np.vectorize(lambda t: math.exp((2 / t - 2) ** 2) * math.erfc(2 / t - 2))
    low, high = 2 / 28.5, 2 / 2.5
    return np.polynomial.chebyshev.chebinterpolate(lambda s: exact(low + (s + 1) * (high - low) / 2), 32).tolist()


@op
def erfc(xp, x):
    """y = 1 - erf x, with all digits also where it is tiny;  dy/dx = -(2/√π) e⁻ˣ².

    1 - erf x below 1/2, e⁻ˣ² · fit(2 / (2 + x)) above.
    """
    large = xp.minimum(xp.maximum(x, 0.5), 26.5)
    low, high = 2 / 28.5, 2 / 2.5
    tail = xp.exp(-(xp.maximum(x, 0.5) ** 2)) * _clenshaw(
        _scaled_erfc_fit(), (2 / (2 + large) - low) * (2 / (high - low)) - 1
    )
    y = xp.where(x < 0.5, 1 - erf.definition(xp, x)[0], tail)
    return y, (lambda g: g * -TWO_OVER_SQRT_PI * xp.exp(-x * x),)


@op
def erfinv(xp, x):
    """y with erf y = x, for -1 < x < 1; ±inf at ±1;  dy/dx = (√π/2) eʸ².

    Winitzki's formula, improved by Halley's steps on erfc y = 1 - |x|, which keeps all digits near 1.
    """
    a = xp.abs(x)
    below_one = xp.minimum(a, 1 - np.finfo(x.dtype).epsneg)
    c = 1 - below_one
    log = xp.log(c * (1 + below_one))
    half = 2 / (math.pi * 0.147) + log / 2
    y = xp.sqrt(xp.sqrt(half * half - log / 0.147) - half)
    for _ in range(3):
        step = (c - erfc.definition(xp, y)[0]) * (xp.exp(y * y) / TWO_OVER_SQRT_PI)
        y = y - step / (1 + y * step)
    y = xp.copysign(xp.where(a < 1, y, xp.where(a == 1, math.inf, math.nan)).astype(x.dtype), x)
    return y, (lambda g: g * xp.exp(y * y) / TWO_OVER_SQRT_PI,)
