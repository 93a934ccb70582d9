"""Key-value cache: generating a token computes one position instead of the whole text.

A block's output at one position depends on earlier positions only through their keys and values, which never change. They
are stored, and only new positions are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tinylora import ops
from tinylora.backend import Array, array_module, next_key
from tinylora.tensor import Tensor, record


class LayerCache(Protocol):
    """The cache that attention gets beside its input; it holds the keys and values of other positions."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, p: float = 0.0) -> Tensor:
        """Attention of the queries, (B, H, T, D) -> (B, H, T, D), to the stored and the new keys and values
        (B, Hkv, T, D); p is the dropout probability."""


class Cache:
    """Keys and values, (B, Hkv, S, D) each, of every block at the first `length` positions of B texts.

    Made by `model.new_cache`. Memory for S = `size` positions is allocated at the start, so adding a token moves nothing.
    `padding` is the number of padding tokens in front of each text: they are masked out, and positions count from the first
    token after them. Evaluation only: nothing is recorded for backward. `cache[i]` is passed to block i.

    >>> import tinylora
    >>> model = tinylora.load_model("nano")
    >>> cache = model.new_cache()
    >>> with tinylora.no_grad():
    ...     shapes = [model.features(tinylora.tensor(ids), cache).shape for ids in ([[72, 101, 108]], [[108]])]
    >>> shapes, cache.length
    ([(1, 3, 256), (1, 1, 256)], 4)
    """

    def __init__(self, blocks: int, shape: tuple[int, int, int, int], like: Array, padding: Sequence[int]) -> None:
        self.size, self.length = shape[2], 0
        self.padding = padding if any(padding) else None
        xp = array_module(like)
        self.layers = [_Layer(self, xp.empty(shape, like.dtype), xp.empty(shape, like.dtype)) for _ in range(blocks)]

    def __getitem__(self, i: int) -> LayerCache:
        return self.layers[i]

    def positions(self, T: int) -> Tensor:
        """Positions of the next T tokens in their texts: (T,), or (B, T) with padding. Raises ValueError if the cache
        is full."""
        if self.length + T > self.size:
            raise ValueError(f"{self.length + T} tokens do not fit a cache of {self.size}")
        xp = array_module(self.layers[0].keys)
        columns = xp.arange(self.length, self.length + T)
        if self.padding is None:
            return Tensor(columns)
        return Tensor(xp.maximum(columns - xp.asarray(self.padding)[:, None], 0))


class _Layer:
    """One block's keys and values. The last block advances `length`."""

    def __init__(self, cache: Cache, keys: Array, values: Array) -> None:
        self.cache, self.keys, self.values = cache, keys, values

    def attend(self, q: Tensor, k: Tensor, v: Tensor, p: float = 0.0) -> Tensor:
        cache, T = self.cache, q.shape[2]
        start, stop = cache.length, cache.length + T
        if p or q.requires_grad or k.requires_grad or v.requires_grad:
            raise RuntimeError(
                "keys and values are kept for evaluation alone: call model.eval(), and run it under no_grad()"
            )
        if k.shape[1::2] != self.keys.shape[1::2]:
            raise ValueError(f"the cache has {self._heads(self.keys)}, and the block {self._heads(k)}: define kv_heads")
        self.keys[:, :, start:stop], self.values[:, :, start:stop] = k.array, v.array
        k, v = Tensor(self.keys[:, :, :stop]), Tensor(self.values[:, :, :stop])
        y = record(ops.attention, q, k, v, causal=True, mask=self._visible(start, stop))
        if cache.layers[-1] is self:
            cache.length = stop
        return y

    @staticmethod
    def _heads(keys: Array | Tensor) -> str:
        return f"{keys.shape[1]} key heads of {keys.shape[3]}"

    def _visible(self, start: int, stop: int) -> Array | None:
        """Attention mask (B, 1, T, S), True for text; None without padding. A padding token sees itself: no row is empty."""
        if self.cache.padding is None:
            return None
        xp = array_module(self.keys)
        seen, columns = xp.arange(stop), xp.arange(start, stop)[:, None]
        text = seen >= xp.asarray(self.cache.padding)[:, None]  # (B, S)
        return (text[:, None] | (seen == columns))[:, None]


class LastPosition:
    """Keys and values of all positions, for one query per row at position `last` (B,). Records for backward."""

    def __init__(self, last: Tensor, keys: Tensor, values: Tensor) -> None:
        self.last, self.keys, self.values = last, keys, values

    def attend(self, q: Tensor, k: Tensor, v: Tensor, p: float = 0.0) -> Tensor:
        """k and v are ignored: `keys` and `values` already include position `last`."""
        key = next_key() if p else 0
        return record(ops.attention_at, q[:, :, 0], self.keys, self.values, self.last, p=float(p), key=key)[:, :, None]
