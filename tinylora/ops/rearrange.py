"""Ops that put elements elsewhere: reversed, rotated, padded, on and off a diagonal, in windows, scattered."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora.op import every_dtype, op
from tinylora.ops.shape import _places


@every_dtype
def flip(xp, x, axes):
    """Each of `axes` in reverse order;  the gradient is reversed back."""
    return xp.flip(x, axes).copy(), (lambda g: xp.flip(g, axes),)


@every_dtype
def roll(xp, x, shifts, axes):
    """Moved by shifts[i] along axes[i], what leaves at the end comes in at the start;  the gradient is moved back."""
    return xp.roll(x, shifts, axes), (lambda g: xp.roll(g, tuple(-n for n in shifts), axes),)


@every_dtype
def pad(xp, x, widths, value=0.0):
    """x with (before, after) elements of `value` added to each axis; negative widths cut;  the gradient is cut out."""
    shape = x.shape
    inner = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(shape, widths, strict=True))
    place = tuple(slice(max(0, a), max(0, a) + n + min(a, 0) + min(b, 0)) for n, (a, b) in zip(shape, widths, strict=True))
    y = xp.full([n + a + b for n, (a, b) in zip(shape, widths, strict=True)], value, x.dtype)
    y[place] = x[inner]

    def d_x(g):
        d = xp.zeros(shape, g.dtype)
        d[inner] = g[place]
        return d

    return y, (d_x,)


def diagonal_view(x: Any, offset: int, axes: tuple[int, int]) -> Any:
    """The diagonal as a view that can be written to; NumPy's own is read-only."""
    view = x.diagonal(offset, *axes)
    if isinstance(x, np.ndarray) and x.flags.writeable:
        view.flags.writeable = True
    return view


@every_dtype
def diagonal(xp, x, offset, axes):
    """y[.., i] = x[.., i, .., i + offset, ..], the diagonal of two axes as a last one;  the gradient goes back there."""
    shape = x.shape

    def d_x(g):
        d = xp.zeros(shape, g.dtype)
        diagonal_view(d, offset, axes)[...] = g
        return d

    return diagonal_view(x, offset, axes), (d_x,)


@every_dtype
def diag_embed(xp, x, offset, axes):
    """The last axis of x as the diagonal of two new axes, zeros elsewhere;  the gradient is the diagonal of g."""
    n = x.shape[-1] + abs(offset)
    shape = list(x.shape[:-1])
    for a in sorted(axes):
        shape.insert(a, n)
    y = xp.zeros(shape, x.dtype)
    diagonal_view(y, offset, axes)[...] = x
    return y, (lambda g: g.diagonal(offset, *axes),)


@every_dtype
def unfold(xp, x, axis, size, apart):
    """Windows of `size` elements of an axis, `apart` apart, as a new last axis;  overlapping gradients are added."""
    shape, count = x.shape, (x.shape[axis] - size) // apart + 1
    strides = (*x.strides[:axis], x.strides[axis] * apart, *x.strides[axis + 1 :], x.strides[axis])
    y = xp.lib.stride_tricks.as_strided(x, (*shape[:axis], count, *shape[axis + 1 :], size), strides)

    def d_x(g):
        d = xp.zeros(shape, g.dtype)
        for k in range(size):  # element k of every window
            d[(slice(None),) * axis + (slice(k, k + (count - 1) * apart + 1, apart),)] += g[..., k]
        return d

    return y, (d_x,)


# ----------------------------------------------------------------------------------------- scattering
@every_dtype
def scatter(xp, x, index, source, axis):
    """y = x, but y[.., index[.., i, ..], ..] = source[.., i, ..];  x gets no gradient where it was replaced.

    source is an array at least as large as index, or a number. Of several sources for one place, any may win.
    """
    y = x.copy()
    places = _places(xp, index, axis)
    number = not getattr(source, "ndim", 0)
    shape, dtype, used = getattr(source, "shape", ()), x.dtype, tuple(slice(n) for n in index.shape)
    y[places] = source if number else source[used]

    def d_x(g):
        d = xp.array(g)
        d[places] = 0
        return d

    def d_source(g):
        if number:
            replaced = xp.zeros(y.shape, bool)
            replaced[places] = True
            return (g * replaced).sum()
        d = xp.zeros(shape, dtype)
        d[used] = g[places]
        return d

    return y, (d_x, None, d_source)


@op
def scatter_reduce(xp, x, index, source, axis, reduce):
    """y = x, and y[.., index[.., i, ..], ..] becomes its "amax", "amin" or "prod" with source[.., i, ..].

    "amax", "amin": whatever equals the result shares the gradient evenly. "prod": dL/dx = g · the product of the others.
    """
    if reduce == "prod":
        return _scatter_product(xp, x, index, source, axis)
    y, places, used = x.copy(), _places(xp, index, axis), tuple(slice(n) for n in index.shape)
    part = source[used]
    {"amax": xp.maximum, "amin": xp.minimum}[reduce].at(y, places, part)

    def share(g):
        count = (x == y).astype(g.dtype)
        xp.add.at(count, places, (part == y[places]).astype(g.dtype))
        return g / count

    def d_x(g):
        return share(g) * (x == y)

    def d_source(g):
        d = xp.zeros(source.shape, g.dtype)
        d[used] = share(g)[places] * (part == y[places])
        return d

    return y, (d_x, None, d_source)


def _scatter_product(xp: Any, x: Any, index: Any, source: Any, axis: int) -> Any:
    """`scatter_reduce` by products: the gradient of each factor is the product of all the others."""
    places, used = _places(xp, index, axis), tuple(slice(n) for n in index.shape)
    part = source[used]
    y, without_zeros, zeros = x.copy(), xp.where(x == 0, xp.ones_like(x), x), (x == 0).astype(np.int64)
    xp.multiply.at(y, places, part)

    def others(factor, product, count):
        """The product of all factors but this one, of which `count` are 0, and `product` is that of all but those."""
        alone = xp.where(factor == 0, product, product / xp.where(factor == 0, xp.ones_like(factor), factor))
        return xp.where(count == (factor == 0), alone, xp.zeros_like(alone))

    def d_x(g):
        return g * others(x, without_zeros, zeros)

    def d_source(g):
        d = xp.zeros(source.shape, g.dtype)
        d[used] = g[places] * others(part, without_zeros[places], zeros[places])
        return d

    xp.multiply.at(without_zeros, places, xp.where(part == 0, xp.ones_like(part), part))
    xp.add.at(zeros, places, (part == 0).astype(np.int64))
    return y, (d_x, None, d_source)
