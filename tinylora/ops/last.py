"""One position of each row: picked, and attending to the others. A classifier's last block needs no more."""

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
def attention_at(xp, q, k, v, last, p=0.0, key=0):
    """Attention with one query a row, which sees the keys 0 .. last[b]: q (B, H, D), k and v (B, Hkv, T, D), last (B,).

    y (B, H, D) = (P ∘ M) v with P = softmax(q kᵀ / √D); Hkv divides H, and each G = H / Hkv query heads in a row share one
    head of keys and values. Gradients as in `attention`, those of k and v summed over the G.
    """
    (B, Hkv, T, D), scale = k.shape, 1 / math.sqrt(k.shape[-1] or 1)
    shape = q.shape
    q = q.reshape(B, Hkv, shape[1] // (Hkv or 1), D)  # (B, H, D) -> (B, Hkv, G, D)
    later = xp.arange(T) > last[:, None, None, None]  # (B, 1, 1, T)
    scores = xp.where(later, -math.inf, scale * (q @ k.swapaxes(-1, -2)))  # (B, Hkv, G, T)
    P, (through_softmax,) = softmax.definition(xp, scores, axis=-1)
    M = dropout_mask(xp, P.shape, p, key, P.dtype) if p else 1.0
    grouped = once(lambda g: g.reshape(q.shape))
    d_scores = once(lambda g: scale * through_softmax((grouped(g) @ v.swapaxes(-1, -2)) * M))

    def d_q(g):
        return (d_scores(g) @ k).reshape(shape)

    def d_k(g):
        return d_scores(g).swapaxes(-1, -2) @ q

    def d_v(g):
        return (P * M).swapaxes(-1, -2) @ grouped(g)

    return ((P * M) @ v).reshape(shape), (d_q, d_k, d_v, None)
