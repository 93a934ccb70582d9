"""Angles and hyperbolic functions, and their inverses."""

from __future__ import annotations

from tinylora.op import op


@op
def tan(xp, x):
    """y = tan x;  dy/dx = 1 + y²."""
    y = xp.tan(x)
    return y, (lambda g: g * (1 + y * y),)


@op
def asin(xp, x):
    """y = arcsin x;  dy/dx = 1 / √(1 - x²)."""
    return xp.arcsin(x), (lambda g: g / xp.sqrt((1 - x) * (1 + x)),)


@op
def acos(xp, x):
    """y = arccos x;  dy/dx = -1 / √(1 - x²)."""
    return xp.arccos(x), (lambda g: -g / xp.sqrt((1 - x) * (1 + x)),)


@op
def atan(xp, x):
    """y = arctan x;  dy/dx = 1 / (1 + x²)."""
    return xp.arctan(x), (lambda g: g / (1 + x * x),)


@op
def atan2(xp, a, b):
    """y = the angle of the point (b, a), in (-π, π];  dy/da = b / r², dy/db = -a / r²,  r = √(a² + b²)."""

    def over_r(g, c):
        r = xp.hypot(a, b)
        return g * (c / r) / r

    return xp.arctan2(a, b), (lambda g: over_r(g, b), lambda g: -over_r(g, a))


@op
def hypot(xp, a, b):
    """y = √(a² + b²), without overflow;  dy/da = a / y, dy/db = b / y."""
    y = xp.hypot(a, b)
    return y, (lambda g: g * (a / y), lambda g: g * (b / y))


@op
def sinh(xp, x):
    """y = (eˣ - e⁻ˣ) / 2;  dy/dx = cosh x."""
    return xp.sinh(x), (lambda g: g * xp.cosh(x),)


@op
def cosh(xp, x):
    """y = (eˣ + e⁻ˣ) / 2;  dy/dx = sinh x."""
    return xp.cosh(x), (lambda g: g * xp.sinh(x),)


@op
def asinh(xp, x):
    """y = the inverse of sinh;  dy/dx = 1 / √(x² + 1)."""
    return xp.arcsinh(x), (lambda g: g / xp.hypot(x, xp.ones_like(x)),)


@op
def acosh(xp, x):
    """y = the inverse of cosh, for x ≥ 1;  dy/dx = 1 / √(x² - 1)."""
    return xp.arccosh(x), (lambda g: g / (xp.sqrt(x - 1) * xp.sqrt(x + 1)),)


@op
def atanh(xp, x):
    """y = the inverse of tanh, for -1 < x < 1;  dy/dx = 1 / (1 - x²)."""
    return xp.arctanh(x), (lambda g: g / ((1 - x) * (1 + x)),)
