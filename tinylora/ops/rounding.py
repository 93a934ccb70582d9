"""Rounding towards 0, what a division leaves, and signs."""

from __future__ import annotations

from tinylora.op import op


@op
def trunc(xp, x):
    """y = x rounded towards 0;  dy/dx = 0."""
    return xp.trunc(x), (xp.zeros_like,)


@op
def quotient(xp, a, b, towards_zero):
    """y = a / b rounded down, or towards 0;  its gradients are 0."""
    y = xp.floor_divide(a, b)
    if towards_zero:
        y = xp.trunc(a / b) if y.dtype.kind == "f" else y + ((xp.remainder(a, b) != 0) & ((a < 0) ^ (b < 0)))
    return y, (xp.zeros_like, xp.zeros_like)


@op
def fmod(xp, a, b):
    """y = a - trunc(a/b) b, with the sign of a;  dy/da = 1, dy/db = -trunc(a/b)."""
    return xp.fmod(a, b), (lambda g: g, lambda g: -g * xp.trunc(a / b))


@op
def copysign(xp, a, b):
    """y = |a| with the sign of b;  dy/da = y / a, 0 where a = 0;  dy/db = 0."""
    y = xp.copysign(a, b)
    return y, (lambda g: g * xp.sign(a) * xp.sign(y), xp.zeros_like)
