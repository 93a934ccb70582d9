"""Ops that reduce along axes. `axis` is an int, a tuple of ints, or None for all of them."""

from __future__ import annotations

import math
from typing import Any

from tinylora.backend import running, total
from tinylora.op import op


def _keep(g: Any, axis: Any, keepdims: bool, shape: tuple[int, ...]) -> Any:
    """Reshape a reduced array so that it broadcasts against the `shape` it came from."""
    if keepdims:
        return g
    axes = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    ones = {a % len(shape) for a in axes} if shape else set()
    return g.reshape([1 if i in ones else n for i, n in enumerate(shape)])


@op
def sum(xp, x, axis=None, keepdims=False):
    """y = Σ x;  dy/dx = 1."""
    shape = x.shape
    return total(x, axis, keepdims), (lambda g: xp.broadcast_to(_keep(g, axis, keepdims, shape), shape),)


@op
def mean(xp, x, axis=None, keepdims=False):
    """y = Σ x / n;  dy/dx = 1/n.  No elements: NaN."""
    shape = x.shape
    y = total(x, axis, keepdims)
    n = (x.size / y.size if y.size else 1.0) or math.nan
    return y / n, (lambda g: xp.broadcast_to(_keep(g / n, axis, keepdims, shape), shape),)


def _deviations(x: Any, axis: Any, correction: float) -> tuple[Any, float]:
    """x - mean, and the weight 1 / (n - correction) of each square in the variance: infinite for n ≤ correction."""
    sums = total(x, axis, keepdims=True)
    n = (x.size / sums.size if sums.size else 1.0) or math.nan
    d = x - sums / n
    d = d - total(d, axis, keepdims=True) / n  # corrects rounding: equal numbers give 0
    return d, math.inf if n <= correction else 1 / (n - correction)


@op
def var(xp, x, axis=None, correction=1.0, keepdims=False):
    """y = Σ (x - x̄)² / (n - correction);  dy/dx = 2 (x - x̄) / (n - correction).  n ≤ correction: 0/0 or infinite."""
    d, weight = _deviations(x, axis, correction)
    return total(d * d, axis, keepdims) * weight, (lambda g: _keep(g, axis, keepdims, d.shape) * d * (2 * weight),)


@op
def std(xp, x, axis=None, correction=1.0, keepdims=False):
    """y = √var;  dy/dx = (x - x̄) / ((n - correction) y), and 0 where y = 0.

    Squares are taken of (x - x̄) / s, s the largest of these: the root may be in range where they are not.
    """
    d, weight = _deviations(x, axis, correction)
    s = xp.abs(d).max(axis=axis, keepdims=True) if d.size else xp.ones_like(total(d, axis, keepdims=True))
    s = xp.where(s == 0, 1, s).astype(d.dtype)
    kept = s * xp.sqrt(total(xp.square(d / s), axis, keepdims=True) * weight)  # of size 1 along the axis
    y = kept if keepdims else kept.reshape(total(d, axis).shape)

    def d_x(g):
        slope = xp.where(kept == 0, 0.0, weight * (d / kept))
        return _keep(g, axis, keepdims, d.shape) * slope.astype(d.dtype)

    return y, (d_x,)


def _extremum(xp: Any, x: Any, y: Any, axis: Any, keepdims: bool) -> tuple[Any, tuple[Any]]:
    def d_x(g):
        ties = x == _keep(y, axis, keepdims, x.shape)
        count = ties.sum(axis=axis, keepdims=True)
        return _keep(g, axis, keepdims, x.shape) * (ties / count).astype(g.dtype)

    return y, (d_x,)


@op
def amax(xp, x, axis=None, keepdims=False):
    """y = max x;  elements that tie for the maximum share the gradient evenly."""
    return _extremum(xp, x, x.max(axis=axis, keepdims=keepdims), axis, keepdims)


@op
def amin(xp, x, axis=None, keepdims=False):
    """y = min x;  elements that tie for the minimum share the gradient evenly."""
    return _extremum(xp, x, x.min(axis=axis, keepdims=keepdims), axis, keepdims)


def _before(xp: Any, x: Any, axis: int) -> Any:
    """Product of the elements before each one, along `axis`."""
    along = (slice(None),) * (axis % x.ndim)
    ones = xp.ones_like(x[(*along, slice(0, 1))])
    return xp.concatenate([ones, x[(*along, slice(0, -1))]], axis=axis).cumprod(axis=axis)


@op
def prod(xp, x, axis, keepdims=False):
    """y = Π x along one axis;  dyᵢ/dxⱼ = product of all the others, so zeros are handled."""

    def d_x(g):
        if not x.size:
            return x
        others = _before(xp, x, axis) * xp.flip(_before(xp, xp.flip(x, axis), axis), axis)
        return _keep(g, axis, keepdims, x.shape) * others

    return x.prod(axis=axis, keepdims=keepdims), (d_x,)


@op
def cumsum(xp, x, axis):
    """yᵢ = Σ_{j ≤ i} xⱼ;  dL/dxⱼ = Σ_{i ≥ j} gᵢ."""
    return running(x, axis), (lambda g: xp.flip(running(xp.flip(g, axis), axis), axis),)
