"""Attention on a GPU with fewer heads of keys than of queries, by the versions for as many: one of each group at a time.

Query head i of every group attends with the keys of its group, so nothing is repeated in memory.
"""

from __future__ import annotations

from tinylora import ops
from tinylora.op import once, run


@ops.attention.tune("cupy")
def attention(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """Declines masks and dropout, which count all heads, and heads that do not divide."""
    if mask is not None or p or q.ndim != 4 or k.ndim != 4 or not q.size or not k.size or q.shape[1] == k.shape[1]:
        return NotImplemented
    (B, H, T, D), Hkv = q.shape, k.shape[1]
    if H % Hkv:
        return NotImplemented

    def one_of_each(x):
        """(B, H, T, D) -> G × (B, Hkv, T, D)"""
        grouped = x.reshape(B, Hkv, H // Hkv, T, D)
        return [grouped[:, :, i] for i in range(H // Hkv)]

    def together(parts):
        """G × (B, Hkv, T, D) -> (B, H, T, D)"""
        return xp.stack(parts, axis=2).reshape(B, H, T, D)

    results = [run(ops.attention, part, k, v, causal=causal) for part in one_of_each(q)]
    parts = once(one_of_each)  # of g: the three gradients of a result are worked out together

    def d_q(g):
        return together([vjps[0](part) for part, (_, vjps) in zip(parts(g), results, strict=True)])

    def d_k(g):
        return sum(vjps[1](part) for part, (_, vjps) in zip(parts(g), results, strict=True))

    def d_v(g):
        return sum(vjps[2](part) for part, (_, vjps) in zip(parts(g), results, strict=True))

    return together([y for y, _ in results]), (d_q, d_k, d_v)
