"""Attention in blocks: beyond 256 keys, memory grows with the sequence and not with its square.

Scores s are computed for a few query rows at a time, as e = e^(s - max s). Beyond 256 keys these are thrown away: beside
k, v, the scaled q and the output y, two numbers per row are kept, max s and Σ e, and with these the backward pass computes
each block again. Up to 256 keys the blocks of e are kept for it.
Dao et al. 2022, "FlashAttention", section 3; Rabe & Staats 2021, "Self-attention does not need O(n²) memory".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import mix
from tinylora.backend.meta import MetaArray
from tinylora.kernels.cpu.products import SMALL
from tinylora.kernels.cpu.threads import get_num_threads, spread
from tinylora.op import once

ROWS = 64  # query rows in a block: few skip more of the future, many multiply faster
SCORES = {"numpy": 2**18, "cupy": 2**26}  # scores computed at once: 1 MB stays in a core's cache, 256 MB fill a GPU
SHORT = 256  # up to so many keys the blocks are kept after all: computing them again would cost more than it saves

Heads = tuple[slice, slice]  # of the batch, and of the heads of one: what one thread works on at a time


@ops.attention.tune("numpy", "cupy")
def attention(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """The definition, a block of query rows (b, h, R, n) at a time; keys that are future to a whole block are skipped.

    P = e / Σ e is never formed. With a mask M of 0 and 1, and per row g' = g / (Σ e · (1 - p)) and Δ = Σ g ∘ y / Σ e, dL/dv
    = (e ∘ M)ᵀ g' and dS = e ∘ ((g' vᵀ) ∘ M - Δ), and one walk over the blocks gives all three gradients. Declines masks,
    zero sizes, p = 1, other dtypes than float32 and float64, k and v that differ in shape or from q in batch, and causal
    queries that come before the first key.
    """
    (*batch, T, D), S = q.shape, k.shape[-2]
    if len(batch) != 2 or k.shape != (*batch, S, D) or v.shape != k.shape or 0 in (*q.shape, S):
        return NotImplemented
    if not q.dtype == k.dtype == v.dtype or q.dtype.char not in "fd" or isinstance(q, MetaArray):
        return NotImplemented
    if mask is not None or p == 1 or (causal and S < T):
        return NotImplemented
    (B, H), scale, kept = batch, 1 / math.sqrt(D), 1 / (1 - p)
    scaled_q = q * scale
    y = xp.empty_like(q)  # in memory laid out as q is, so that joining the heads again is free
    top, total = (xp.empty((B, H, T, 1), q.dtype) for _ in range(2))
    blocks = list(_rows(T, S, causal, ROWS))
    for_each = spread if xp is np and q.size * S > SMALL else _one_by_one
    threads = get_num_threads() if for_each is spread else 1
    groups = list(_groups(B, H, SCORES[xp.__name__] // (min(blocks[0][0].stop, T) * S), threads))
    saved: list[list[Any]] = [[] for _ in groups]  # e and M of every block

    def weights(b, h, i, n, first):
        """e and M of a block, (b, h, R, n)."""
        s = scaled_q[b, h, i] @ k[b, h, :n].swapaxes(-1, -2)
        if causal:  # of the last R keys, row r of the block may see r + 1
            R = s.shape[-2]
            limit = xp.where(xp.tri(R, dtype=bool), math.inf, -math.inf).astype(s.dtype)
            xp.fmin(s[..., n - R :], limit, out=s[..., n - R :])
        if first:
            top[b, h, i] = s.max(axis=-1, keepdims=True)
        s -= top[b, h, i]
        return xp.exp(s, out=s), dropped(b, h, i, n) if p else None

    def dropped(b, h, i, n):
        """The part of the definition's dropout mask that covers a block, as 0 and 1."""
        axes = [xp.arange(length, dtype=np.uint64) for length in (B, H, T, n)]
        positions = axes[0][b, None] * np.uint64(H) + axes[1][h]
        positions = positions[..., None] * np.uint64(T) + axes[2][i]
        positions = positions[..., None] * np.uint64(S) + axes[3]
        return (mix(positions, key) >= np.uint64(int(p * 2**64))).astype(q.dtype)

    def forward(j):
        b, h = groups[j]
        for i, n in blocks:
            e, M = weights(b, h, i, n, first=True)
            total[b, h, i] = e @ xp.ones((n, 1), e.dtype)
            xp.multiply((e if M is None else e * M) @ v[b, h, :n], kept / total[b, h, i], out=y[b, h, i])
            if S <= SHORT:
                saved[j].append((e, M))

    for_each(forward, range(len(groups)))

    def gradients(g):
        d_q, d_k, d_v = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)

        def backward(j):
            b, h = groups[j]
            for place, (i, n) in enumerate(blocks):
                delta = (g[b, h, i] * y[b, h, i]).sum(axis=-1, keepdims=True) / total[b, h, i]
                g_ = g[b, h, i] * (kept / total[b, h, i])
                e, M = saved[j][place] if saved[j] else weights(b, h, i, n, first=False)
                d_scores = g_ @ v[b, h, :n].swapaxes(-1, -2)
                if M is not None:
                    d_scores *= M
                d_scores -= delta
                d_scores *= e
                d_v[b, h, :n] += (e if M is None else e * M).swapaxes(-1, -2) @ g_
                d_k[b, h, :n] += d_scores.swapaxes(-1, -2) @ scaled_q[b, h, i]
                xp.multiply(d_scores @ k[b, h, :n], scale, out=d_q[b, h, i])

        for_each(backward, range(len(groups)))
        return d_q, d_k, d_v

    return y, by_input(gradients)


def by_input(gradients):
    """d_q, d_k and d_v of an op that works out all three at once."""
    shared = once(gradients)

    def d_q(g):
        return shared(g)[0]

    def d_k(g):
        return shared(g)[1]

    def d_v(g):
        return shared(g)[2]

    return d_q, d_k, d_v


def _rows(T: int, S: int, causal: bool, at_most: int) -> Iterator[tuple[slice, int]]:
    """Cut T query rows into blocks, each with the number of keys that its last row sees."""
    for start in range(0, T, at_most):
        rows = slice(start, min(start + at_most, T))
        yield rows, S - T + rows.stop if causal else S


def _groups(B: int, H: int, at_most: int, threads: int) -> Iterator[Heads]:
    """Cut (B, H) into groups of about `at_most` heads, or of whole rows of the batch: one a thread, if there are enough."""
    heads = max(1, min(at_most, B * H // threads))
    for b in range(0, B, max(1, heads // H)):
        for h in range(0, H, heads):
            yield slice(b, min(b + max(1, heads // H), B)), slice(h, min(h + heads, H))


def _one_by_one(work: Callable[[int], None], pieces: Iterable[int]) -> None:
    for piece in pieces:
        work(piece)
