"""Ops that move values without changing them: views, indexing, joining."""

from __future__ import annotations

import math
from typing import Any

from tinylora.backend import scatter_sum, wide
from tinylora.op import every_dtype


@every_dtype
def reshape(xp, x, shape):
    """Same numbers, new shape;  the gradient takes the old one."""
    own = x.shape
    return x.reshape(shape), (lambda g: g.reshape(own),)


@every_dtype
def permute(xp, x, axes):
    """Axis i of the output is axis axes[i] of x;  the gradient is permuted back."""
    back = sorted(range(len(axes)), key=axes.__getitem__)
    return x.transpose(axes), (lambda g: g.transpose(back),)


@every_dtype
def expand(xp, x, shape):
    """Repeat x along its axes of size 1, by broadcasting;  the gradient is the sum over the copies."""
    return x.reshape(shape) if math.prod(shape) == x.size else xp.broadcast_to(x, shape), (lambda g: g,)


@every_dtype
def tril(xp, x, diagonal=0):
    """The lower triangle of the last two axes, zeros above;  the gradient likewise."""
    return xp.tril(x, diagonal), (lambda g: xp.tril(g, diagonal),)


@every_dtype
def triu(xp, x, diagonal=0):
    """The upper triangle of the last two axes, zeros below;  the gradient likewise."""
    return xp.triu(x, diagonal), (lambda g: xp.triu(g, diagonal),)


# ------------------------------------------------------------------------------------------ indexing
@every_dtype
def getitem(xp, x, index):
    """y = x[index];  each gradient is added where its element came from, as often as it was taken."""
    shape, dtype = x.shape, x.dtype

    def d_x(g):
        if any(hasattr(i, "dtype") for i in index):
            return scatter_sum(shape, index, g).astype(dtype, copy=False)  # an element taken twice gets both gradients
        d = xp.zeros(shape, dtype)
        d[index] = g
        return d

    return x[(*index, ...)], (d_x,)  # with "..." also a single number is a view, a 0-d array


@every_dtype
def setitem(xp, x, value, index):
    """y = x, but y[index] = value;  x gets no gradient where it was replaced."""
    y = x.copy()
    y[index] = value

    def d_x(g):
        rest = xp.array(g)
        rest[index] = 0
        return rest

    return y, (d_x, lambda g: g[index])


@every_dtype
def gather(xp, x, index, axis):
    """y[.., i, ..] = x[.., index[.., i, ..], ..];  the gradient is scattered back and added."""
    shape, dtype = x.shape, x.dtype
    places = _places(xp, index, axis)

    def d_x(g):
        return scatter_sum(shape, places, g).astype(dtype, copy=False)

    return x[places], (d_x, None)


@every_dtype
def scatter_add(xp, x, index, source, axis):
    """y = x, and y[.., index[.., i, ..], ..] += source[.., i, ..];  the gradient of source is gathered."""
    places = _places(xp, index, axis)
    shape, dtype, used = source.shape, source.dtype, tuple(slice(n) for n in index.shape)
    y = (wide(x) + scatter_sum(x.shape, places, wide(source[used]))).astype(x.dtype, copy=False)

    def d_source(g):
        d = xp.zeros(shape, dtype)
        d[used] = g[places]
        return d

    return y, (lambda g: g, None, d_source)


def _places(xp: Any, index: Any, axis: int) -> tuple[Any, ...]:
    """Index arrays that select element (.., index, ..) for every position of `index`."""
    grid = [xp.arange(n).reshape([-1 if i == a else 1 for i in range(index.ndim)]) for a, n in enumerate(index.shape)]
    grid[axis] = index
    return tuple(grid)


# ------------------------------------------------------------------------------------------- joining
@every_dtype
def cat(xp, *parts, axis):
    """Join along an axis;  each part gets its own slice of the gradient."""
    vjps, start = [], 0
    for part in parts:
        stop = start + part.shape[axis]
        vjps.append(_slice_of(axis % part.ndim, start, stop))
        start = stop
    return xp.concatenate(parts, axis=axis), tuple(vjps)


def _slice_of(axis: int, start: int, stop: int) -> Any:
    return lambda g: g[(slice(None),) * axis + (slice(start, stop),)]
