"""Attention in blocks: beyond 256 keys, memory is linear in the sequence length.

Scores s are computed for a few query rows at a time, as e = e^(s - max s). Beyond 256 keys they are discarded: beside
k, v, the scaled q and the output y, only max s and Σ e of each row are kept, and the backward pass recomputes each block.
Up to 256 keys the blocks of e are kept.
Dao et al. 2022, "FlashAttention", section 3; Rabe & Staats 2021, "Self-attention does not need O(n²) memory".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import mix
from tinylora.backend.meta import MetaArray
from tinylora.kernels.cpu.linear import plain
from tinylora.kernels.cpu.products import SMALL
from tinylora.kernels.cpu.threads import get_num_threads, one_blas_thread, spread
from tinylora.op import once

ROWS = 64  # query rows in a block: fewer skip more masked keys, more multiply faster
SCORES = {"numpy": 2**18, "cupy": 2**26}  # scores computed at once: 1 MB stays in a core's cache, 256 MB fill a GPU
SHORT = 256  # up to this many keys the blocks are kept, since recomputing them costs more than it saves

Heads = tuple[slice, slice]  # slices of batch and heads: one thread's unit of work


@ops.attention.tune("numpy", "cupy")
def attention(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """The definition, a block of query rows (b, h, R, n) at a time; keys that are masked for a whole block are skipped.

    The G query heads of a key head are rows of one block, R = r · G for r tokens, so that one product serves
    all of them. P = e / Σ e is never formed. With a dropout mask M of 0 and 1, and per row g' = g / (Σ e · (1 - p)) and
    Δ = Σ g ∘ y / Σ e, dL/dv = (e ∘ M)ᵀ g' and dS = e ∘ ((g' vᵀ) ∘ M - Δ), and one pass over the blocks gives all three
    gradients. Declines zero sizes, p = 1, other dtypes than float32 and float64, k and v that differ in shape or from q in
    batch, causal queries that come before the first key, and masks that are not boolean or differ from head to head.
    """
    (*batch, T, D), S = q.shape, k.shape[-2]
    if len(batch) != 2 or k.ndim != 4 or v.shape != k.shape or 0 in (*q.shape, *k.shape) or batch[0] != len(k):
        return NotImplemented
    (B, H), H_kv = batch, k.shape[1]
    if k.shape[3] != D or H % H_kv or q.dtype.char not in "fd" or not q.dtype == k.dtype == v.dtype:
        return NotImplemented
    if isinstance(q, MetaArray) or p == 1 or (causal and S < T) or (seen := _seen(xp, mask, B, T, S)) is NotImplemented:
        return NotImplemented
    G, scale, kept = H // H_kv, 1 / math.sqrt(D), 1 / (1 - p)

    def scaled(x, factor):
        """x · factor, with the rows of a group contiguous in memory; a single head's rows keep their layout."""
        return x * factor if G == 1 else xp.multiply(x, factor, out=xp.empty(x.shape, x.dtype))

    def split(x):
        """(B, H, T, D) -> (B, H_kv, T, G, D), a view."""
        return x.reshape(B, H_kv, G, T, D).transpose(0, 1, 3, 2, 4)

    def by_token(x):
        """(b, h, R, n) -> (b, h, r, G, n)."""
        return x.reshape(*x.shape[:2], -1, G, x.shape[-1])

    scaled_q = scaled(split(q), scale).reshape(B, H_kv, T * G, D)
    y = xp.empty_like(q)  # in q's memory layout, so that joining the heads needs no copy
    top, total = (xp.empty((B, H_kv, T * G, 1), q.dtype) for _ in range(2))
    blocks = list(_rows(T, S, causal, ROWS))
    for_each = spread if xp is np and q.size * S > SMALL else _one_by_one
    threads = get_num_threads() if for_each is spread else 1
    heads = list(_groups(B, H_kv, SCORES[xp.__name__] // (min(blocks[0][0].stop, T) * G * S), threads))
    split_in = min(threads, len(blocks)) if len(heads) % threads else 1  # too few heads to divide evenly
    pieces = [(part, b, h, blocks[part::split_in]) for b, h in heads for part in range(split_in)]
    saved: list[list[Any]] = [[] for _ in pieces]  # e and M of every block
    triangle = _limits(
        xp, xp.tri(min(ROWS, T), dtype=bool)[:, None], q.dtype
    )  # (R, 1, R), of the keys of a block's own rows

    def weights(b, h, i, n, first):
        """e and M of a block, (b, h, R, n)."""
        rows = slice(i.start * G, i.stop * G)
        s = scaled_q[b, h, rows] @ k[b, h, :n].swapaxes(-1, -2)
        if causal:  # of the last r keys, token t of the block sees the first t + 1
            r = i.stop - i.start
            _hide(xp, by_token(s)[..., n - r :], triangle[:r, :, :r])
        if seen is not None:
            _hide(xp, by_token(s), _limits(xp, seen[b, :, i, :, :n], s.dtype))
        if first:
            top[b, h, rows] = s.max(axis=-1, keepdims=True)
            if seen is not None:  # rows that see no key: e is 0 instead of NaN
                xp.maximum(top[b, h, rows], np.finfo(s.dtype).min, out=top[b, h, rows])
        s -= top[b, h, rows]
        return xp.exp(s, out=s), _dropped(xp, (B, H_kv, G, T, S), (b, h, i, n), p, key, s.dtype) if p else None

    def forward(j):
        _, b, h, mine = pieces[j]
        for i, n in mine:
            rows = slice(i.start * G, i.stop * G)
            e, M = weights(b, h, i, n, first=True)
            total[b, h, rows] = e @ xp.ones((n, 1), e.dtype)
            if seen is not None:  # the largest e of a row is 1, or all are 0
                xp.maximum(total[b, h, rows], 1.0, out=total[b, h, rows])
            e_v = (e if M is None else e * M) @ v[b, h, :n]
            xp.multiply(by_token(e_v), kept / by_token(total[b, h, rows]), out=split(y)[b, h, i])
            if S <= SHORT:
                saved[j].append((e, M))

    for_each(forward, range(len(pieces)))

    def gradients(g):
        d_q = xp.empty_like(q)
        d_ks, d_vs = ([xp.zeros_like(x) for _ in range(split_in)] for x in (k, v))

        def backward(j):
            part, b, h, mine = pieces[j]
            d_k, d_v = d_ks[part], d_vs[part]
            for place, (i, n) in enumerate(mine):
                rows = slice(i.start * G, i.stop * G)
                e, M = saved[j][place] if saved[j] else weights(b, h, i, n, first=False)
                g_y = (split(g)[b, h, i] * split(y)[b, h, i]).sum(axis=-1).reshape(*e.shape[:3], 1)
                g_ = scaled(split(g)[b, h, i], kept / by_token(total[b, h, rows]))
                g_ = g_.reshape(*e.shape[:3], D)
                d_scores = g_ @ v[b, h, :n].swapaxes(-1, -2)
                if M is not None:
                    d_scores *= M
                d_scores -= g_y / total[b, h, rows]
                d_scores *= e
                d_v[b, h, :n] += (e if M is None else e * M).swapaxes(-1, -2) @ g_
                d_k[b, h, :n] += d_scores.swapaxes(-1, -2) @ scaled_q[b, h, rows]
                xp.multiply(by_token(d_scores @ k[b, h, :n]), scale, out=split(d_q)[b, h, i])

        for_each(backward, range(len(pieces)))
        return d_q, functools.reduce(xp.add, d_ks), functools.reduce(xp.add, d_vs)

    return y, by_input(gradients)


@ops.attention.tune("numpy")
def attention_of_one(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """The definition for a single query that sees all keys, as in text generation. Declines more, dropout and masks.

    The work is a few microseconds: planning blocks and waking threads for it would take longer. Gradients come from blocks.
    """
    if q.ndim != 4 or q.shape[2] != 1 or mask is not None or p or k.shape != v.shape or 0 in (*q.shape, *k.shape):
        return NotImplemented
    (B, H, _, D), H_kv = q.shape, k.shape[1]
    if not plain(q, k, v) or k.shape[::3] != (B, D) or H % H_kv:
        return NotImplemented
    with one_blas_thread:
        e = (q * (1 / math.sqrt(D))).reshape(B, H_kv, H // H_kv, D) @ k.swapaxes(-1, -2)  # (B, H_kv, G, S)
        e -= e.max(axis=-1, keepdims=True)
        np.exp(e, out=e)
        e /= e.sum(axis=-1, keepdims=True)
        y = (e @ v).reshape(q.shape)
    return y, by_input(lambda g: [vjp(g) for vjp in attention(xp, q, k, v, causal)[1]])


def _seen(xp: Any, mask: Any, B: int, T: int, S: int) -> Any:
    """A boolean mask shared by all heads, as (B, 1, T, 1, S); None without a mask; NotImplemented for other masks."""
    if mask is None:
        return None
    if mask.dtype != bool or (mask.ndim > 2 and mask.shape[-3] != 1):
        return NotImplemented
    return xp.broadcast_to(mask, (B, 1, T, S))[:, :, :, None]


def _limits(xp: Any, seen: Any, dtype: Any) -> Any:
    """The largest score that each key may have: -∞ where it is masked, else ∞."""
    return xp.where(seen, math.inf, -math.inf).astype(dtype)


def _hide(xp: Any, scores: Any, limits: Any) -> None:
    """Replace the scores of masked keys by -∞, also where they are NaN."""
    xp.fmin(scores, limits, out=scores)


def _dropped(xp: Any, sizes: tuple[int, ...], block: tuple[Any, ...], p: float, key: int, dtype: Any) -> Any:
    """The part of the definition's dropout mask that covers a block, as 0 and 1, (b, h, R, n)."""
    (B, H_kv, G, T, S), (b, h, i, n) = sizes, block
    batch, heads, tokens, keys = (xp.arange(length, dtype=np.uint64) for length in (B, H_kv * G, T, n))
    positions = batch[b, None, None, None] * np.uint64(H_kv * G) + heads.reshape(H_kv, 1, G)[h]  # (b, h, 1, G)
    positions = positions * np.uint64(T) + tokens[i, None]  # (b, h, r, G)
    positions = positions[..., None] * np.uint64(S) + keys
    drawn = mix(positions, key) >= np.uint64(int(p * 2**64))
    return drawn.astype(dtype).reshape(*drawn.shape[:2], -1, n)


def by_input(gradients):
    """d_q, d_k and d_v of an op that computes all three at once."""
    shared = once(gradients)

    def d_q(g):
        return shared(g)[0]

    def d_k(g):
        return shared(g)[1]

    def d_v(g):
        return shared(g)[2]

    return d_q, d_k, d_v


def _rows(T: int, S: int, causal: bool, at_most: int) -> Iterator[tuple[slice, int]]:
    """Split T query rows into blocks, each with the number of keys that its last row sees."""
    for start in range(0, T, at_most):
        rows = slice(start, min(start + at_most, T))
        yield rows, S - T + rows.stop if causal else S


def _groups(B: int, H: int, at_most: int, threads: int) -> Iterator[Heads]:
    """Split (B, H) into groups of about `at_most` heads or whole rows of the batch, at least one per thread if possible."""
    heads = max(1, min(at_most, B * H // threads))
    count = -(-B // max(1, heads // H))
    count = min(B, -(-count // threads) * threads)  # the same number for each thread
    for i in range(count):
        for h in range(0, H, heads):
            yield slice(B * i // count, B * (i + 1) // count), slice(h, min(h + heads, H))


def _one_by_one(work: Callable[[int], None], pieces: Iterable[int]) -> None:
    for piece in pieces:
        work(piece)
