"""The p-norm of a vector."""

from __future__ import annotations

import math

from tinylora.backend import largest
from tinylora.op import op
from tinylora.ops.reduce import _keep


@op
def norm(xp, x, p=2.0, axis=None, keepdims=False):
    """y = (Σ |x|ᵖ)^(1/p);  dy/dx = sign x · (|x| / y)ᵖ⁻¹, and 0 where y = 0 or x = 0.

    p = inf is the largest |x|, -inf the smallest (ties share the gradient), 0 the number of elements that are not 0
    (no gradient). Everything is divided by the largest |x| first, so that no power leaves the range.
    """
    a = xp.abs(x)
    if p == 0:
        y = (x != 0).sum(axis=axis, keepdims=keepdims).astype(x.dtype)
        return y, (lambda g: xp.zeros(x.shape, g.dtype),)
    if math.isinf(p):
        y = largest(a, axis, keepdims, 0.0) if p > 0 else a.min(axis=axis, keepdims=keepdims)
        return y, (lambda g: _share_of_ties(xp, x, a, _keep(y, axis, keepdims, x.shape), g, axis, keepdims),)
    top = largest(a, axis, True, 0.0)
    scale = xp.where((top > 0) & (top < math.inf), top, xp.ones_like(top))
    y = scale * ((a / scale) ** p).sum(axis=axis, keepdims=True) ** (1 / p)  # reduced axes are kept, with size 1

    def d_x(g):
        share = xp.where(y == 0, 0.0, a / xp.where(y == 0, 1.0, y)) ** (p - 1)
        return (_keep(g, axis, keepdims, x.shape) * xp.sign(x) * xp.where((x == 0) | (y == 0), 0.0, share)).astype(g.dtype)

    return y if keepdims else y.reshape(largest(a, axis, False, 0.0).shape), (d_x,)


def _share_of_ties(xp, x, a, y, g, axis, keepdims):
    ties = a == y
    return _keep(g, axis, keepdims, x.shape) * xp.sign(x) * (ties / ties.sum(axis=axis, keepdims=True)).astype(g.dtype)
