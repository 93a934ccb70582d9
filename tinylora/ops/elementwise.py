"""Ops that work element by element. Inputs broadcast; the engine sums gradients back to each input's shape."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tinylora.backend import device_of, is_floating, to_device
from tinylora.op import every_dtype, op

TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


# ---------------------------------------------------------------------------------------- arithmetic
@op
def add(xp, a, b):
    """y = a + b;  dy/da = dy/db = 1."""
    return a + b, (lambda g: g, lambda g: g)


@op
def sub(xp, a, b):
    """y = a - b;  dy/da = 1, dy/db = -1."""
    return a - b, (lambda g: g, lambda g: -g)


@op
def mul(xp, a, b):
    """y = ab;  dy/da = b, dy/db = a."""
    return a * b, (lambda g: g * b, lambda g: g * a)


@op
def div(xp, a, b):
    """y = a / b;  dy/da = 1/b, dy/db = -(a/b)/b, since b² may be out of range."""
    return a / b, (lambda g: g / b, lambda g: -g * (a / b) / b)


@op
def remainder(xp, a, b):
    """y = a - b ⌊a/b⌋, with the sign of b;  dy/da = 1, dy/db = -⌊a/b⌋."""
    return xp.remainder(a, b), (lambda g: g, lambda g: -g * xp.floor_divide(a, b))


@op
def pow(xp, a, b):
    """y = aᵇ;  dy/da = b aᵇ⁻¹ (0 where b = 0), dy/db = aᵇ log a (0 where a = 0 and b ≥ 0)."""
    y = xp.power(a, b)
    dtype = y.dtype

    def d_a(g):
        return xp.where(xp.equal(b, 0), 0.0, g * b * xp.power(a, xp.where(xp.equal(b, 0), 1, b - 1).astype(dtype)))

    def d_b(g):
        zero = xp.equal(a, 0) & xp.greater_equal(b, 0)
        return xp.where(zero, 0.0, g * y * xp.log(xp.where(zero, 1, a).astype(dtype)))

    return y, (d_a, d_b)


@op
def neg(xp, x):
    """y = -x;  dy/dx = -1."""
    return -x, (lambda g: -g,)


@op
def abs(xp, x):
    """y = |x|;  dy/dx = sign x, 0 at the kink."""
    return xp.abs(x), (lambda g: g * xp.sign(x),)


# -------------------------------------------------------------------------------- exponentials and roots
@op
def exp(xp, x):
    """y = eˣ;  dy/dx = y."""
    y = xp.exp(x)
    return y, (lambda g: g * y,)


@op
def log(xp, x):
    """y = ln x;  dy/dx = 1/x."""
    return xp.log(x), (lambda g: g / x,)


@op
def sqrt(xp, x):
    """y = √x;  dy/dx = 1 / (2y)."""
    y = xp.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@op
def rsqrt(xp, x):
    """y = 1/√x;  dy/dx = -y³/2."""
    y = 1 / xp.sqrt(x)
    return y, (lambda g: -0.5 * g * y * y * y,)


@op
def sin(xp, x):
    """y = sin x;  dy/dx = cos x."""
    return xp.sin(x), (lambda g: g * xp.cos(x),)


@op
def cos(xp, x):
    """y = cos x;  dy/dx = -sin x."""
    return xp.cos(x), (lambda g: -g * xp.sin(x),)


@op
def tanh(xp, x):
    """y = tanh x;  dy/dx = 1 - y²."""
    y = xp.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@op
def sigmoid(xp, x):
    """y = 1 / (1 + e⁻ˣ), as e⁻|ˣ| so that nothing overflows;  dy/dx = y (1 - y)."""
    z = xp.exp(-xp.abs(x))
    y = xp.where(x >= 0, 1.0, z) / (1 + z)
    return y, (lambda g: g * y * (1 - y),)


@op
def silu(xp, x):
    """y = x s,  s = sigmoid x;  dy/dx = s (1 + x (1 - s))."""
    s = sigmoid.definition(xp, x)[0]
    return x * s, (lambda g: g * s * (1 + x * (1 - s)),)


@op
def relu(xp, x):
    """y = max(x, 0);  dy/dx = 1 where y > 0, else 0."""
    y = xp.maximum(x, 0)
    return y, (lambda g: g * (y > 0),)


@functools.cache
def _erf_fit() -> tuple[list[float], list[float]]:
    """Chebyshev fits of erf x / x over u = x² in [0, 1], and of eˣ² erfc x over t = 2 / (2 + x) in (0, 2/3]."""
    fit = np.polynomial.chebyshev.chebinterpolate
    near = np.vectorize(lambda u: math.erf(math.sqrt(u)) / math.sqrt(u))
    far = np.vectorize(lambda x: math.exp(x * x) * math.erfc(x))
    inner = fit(lambda s: near((s + 1) / 2), 14)
    outer = fit(lambda s: far(2 / (0.25 + (s + 1) * 5 / 24) - 2), 20)  # t in [1/4, 2/3]: x in [1, 6]
    return inner.tolist(), outer.tolist()


def _clenshaw(coefficients: list[float], s: Any) -> Any:
    """Σ cₖ Tₖ(s), by Clenshaw's recurrence."""
    b1 = b2 = 0.0 * s
    for c in reversed(coefficients[1:]):
        b1, b2 = 2 * s * b1 - b2 + c, b1
    return s * b1 - b2 + coefficients[0]


@op
def erf(xp, x):
    """y = (2/√π) ∫₀ˣ e⁻ᵗ² dt;  dy/dx = (2/√π) e⁻ˣ².

    NumPy has no erf. Below |x| = 1: x · fit(x²). From there to 6, where float64 reaches 1: 1 - e⁻ˣ² · fit(2 / (2 + |x|)).
    """
    inner, outer = _erf_fit()
    a = xp.abs(x)
    small, large = xp.minimum(a, 1.0), xp.minimum(xp.maximum(a, 1.0), 6.0)
    near = a * _clenshaw(inner, 2 * small * small - 1)
    far = 1 - xp.exp(-large * large) * _clenshaw(outer, (2 / (2 + large) - 0.25) * 4.8 - 1)
    y = xp.sign(x) * xp.where(a < 1, near, far)
    return y, (lambda g: g * TWO_OVER_SQRT_PI * xp.exp(-x * x),)


# ------------------------------------------------------------------------------------------ choosing
@op
def where(xp, condition, a, b):
    """y = a where condition, else b. The side not taken gets an exact 0, also where it is inf or NaN."""

    def d_a(g):
        return xp.where(condition, g, 0.0)

    def d_b(g):
        return xp.where(condition, 0.0, g)

    return xp.where(condition, a, b), (None, d_a, d_b)


@op
def maximum(xp, a, b):
    """y = max(a, b);  the larger side gets the gradient, and equal sides half each."""
    half = xp.equal(a, b) * 0.5
    return xp.maximum(a, b), (lambda g: _share(g, a > b, half), lambda g: _share(g, b > a, half))


@op
def minimum(xp, a, b):
    """y = min(a, b);  the smaller side gets the gradient, and equal sides half each."""
    half = xp.equal(a, b) * 0.5
    return xp.minimum(a, b), (lambda g: _share(g, a < b, half), lambda g: _share(g, b < a, half))


def _share(g: Any, wins: Any, half: Any) -> Any:
    return g * (wins + half).astype(g.dtype)


@op
def clamp(xp, x, low, high):
    """y = min(max(x, low), high) for numbers low, high;  dy/dx = 1 where low ≤ x ≤ high, else 0."""
    inside = (x >= low) & (x <= high)
    y = xp.minimum(xp.maximum(x, low), high)
    return y, (lambda g: g * inside, None, None)


# ------------------------------------------------------------------------------- steps, whose slope is 0
@op
def floor(xp, x):
    """y = the largest whole number ≤ x;  dy/dx = 0."""
    return xp.floor(x), (xp.zeros_like,)


@op
def ceil(xp, x):
    """y = the smallest whole number ≥ x;  dy/dx = 0."""
    return xp.ceil(x), (xp.zeros_like,)


@op
def round(xp, x):
    """y = the nearest whole number, the even one of two;  dy/dx = 0."""
    return xp.round(x), (xp.zeros_like,)


@op
def sign(xp, x):
    """y = -1, 0 or 1;  dy/dx = 0."""
    return xp.sign(x), (xp.zeros_like,)


# ----------------------------------------------------------------------------------- dtypes and devices
@every_dtype
def cast(xp, x, dtype):
    """y = x as `dtype`;  the gradient is cast back, and integers have none."""
    own = x.dtype
    d_x = (lambda g: g.astype(own)) if is_floating(np.dtype(dtype)) else None
    return x.astype(dtype), (d_x,)


@every_dtype
def move(xp, x, device):
    """y = x on `device`;  the gradient moves back."""
    own = device_of(x)
    return to_device(x, device), (lambda g: to_device(g, own),)
