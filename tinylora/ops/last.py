"""What one position of each row asks of the others: see models/last.py."""

from __future__ import annotations

import math

from tinylora.op import once, op
from tinylora.ops.nn import dropout_mask, softmax


@op
def rows_at(xp, x, last):
    """y[b] = x[b, last[b]],  x (B, T, C), last (B,) -> (B, C).      dL/dx: g[b] at last[b], zeros elsewhere"""
    shape, place = x.shape, (xp.arange(len(last)), last)

    def d_x(g):
        d = xp.zeros(shape, g.dtype)
        d[place] = g
        return d

    return x[place], (d_x, None)


@op
def attention_at(xp, q, k, v, last, heads, p=0.0, key=0):
    """Attention with one query a row, which sees the keys 0 .. last[b]: q (B, C), k and v (B, T, C), last (B,) -> (B, C).

    For each head y = (P ∘ M) v with P = softmax(q kᵀ / √D), and gradients, as in `attention`.
    """
    B, T, C = k.shape
    scale = 1 / math.sqrt(C // heads or 1)

    def split(x):
        return x.reshape(B, x.shape[1], heads, C // heads).swapaxes(1, 2)  # (B, 1 or T, C) -> (B, H, 1 or T, D)

    def join(x):
        return x.swapaxes(1, 2).reshape(B, x.shape[2], C)

    q, k, v = split(q[:, None]), split(k), split(v)
    later = xp.arange(T) > last[:, None, None, None]  # (B, 1, 1, T)
    scores = xp.where(later, -math.inf, scale * (q @ k.swapaxes(-1, -2)))  # (B, H, 1, T)
    P, (through_softmax,) = softmax.definition(xp, scores, axis=-1)
    M = dropout_mask(xp, P.shape, p, key, P.dtype) if p else 1.0
    d_scores = once(lambda g: scale * through_softmax((split(g[:, None]) @ v.swapaxes(-1, -2)) * M))

    def d_q(g):
        return join(d_scores(g) @ k)[:, 0]

    def d_k(g):
        return join(d_scores(g).swapaxes(-1, -2) @ q)

    def d_v(g):
        return join((P * M).swapaxes(-1, -2) @ split(g[:, None]))

    return join((P * M) @ v)[:, 0], (d_q, d_k, d_v, None)
