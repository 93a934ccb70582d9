"""Activation functions that are an op of their own; the others are written with these in `torch_api/activations.py`."""

from __future__ import annotations

from tinylora.op import op


@op
def softplus(xp, x, beta=1.0, threshold=20.0):
    """y = ln(1 + eᵇˣ) / b,  b = beta, and x where b x > threshold;  dy/dx = sigmoid(b x), or 1 there."""
    z = beta * x
    linear = z > threshold
    small = xp.exp(-xp.abs(z))
    y = xp.where(linear, x, (xp.maximum(z, 0.0) + xp.log1p(small)) / beta)

    def d_x(g):
        return g * xp.where(linear, 1.0, xp.where(z >= 0, 1.0, small) / (1 + small)).astype(g.dtype)

    return y, (d_x,)


@op
def leaky_relu(xp, x, slope=0.01):
    """y = x where x > 0, else slope · x;  dy/dx = 1 or slope."""
    above = x > 0
    return xp.where(above, x, slope * x), (lambda g: xp.where(above, g, slope * g),)


@op
def elu(xp, x, alpha=1.0, scale=1.0, rate=1.0):
    """y = scale · x where x > 0, else scale · alpha (eʳˣ - 1),  r = rate;  dy/dx = scale, or scale · alpha · r eʳˣ."""
    above = x > 0
    bent = alpha * xp.expm1(rate * xp.minimum(x, 0.0))
    y = scale * xp.where(above, x, bent)
    return y, (lambda g: scale * xp.where(above, g, g * rate * (bent + alpha)),)


@op
def hardtanh(xp, x, low=-1.0, high=1.0):
    """y = min(max(x, low), high);  dy/dx = 1 where low < x < high, else 0 (`clamp` has 1 at the limits)."""
    inside = (x > low) & (x < high)
    return xp.minimum(xp.maximum(x, low), high), (lambda g: g * inside,)


@op
def mish(xp, x):
    """y = x t,  t = tanh(ln(1 + eˣ));  dy/dx = t + x (1 - t²) sigmoid x.  Misra 2019."""
    t = xp.tanh(softplus.definition(xp, x)[0])

    def d_x(g):
        s = xp.where(x >= 0, 1.0, xp.exp(-xp.abs(x))) / (1 + xp.exp(-xp.abs(x)))
        return g * (t + x * (1 - t * t) * s).astype(g.dtype)

    return x * t, (d_x,)
