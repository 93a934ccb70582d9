"""One generated token on a GPU: attention over the cache in one launch, and the likeliest token of each row."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tinylora.backend import Array
from tinylora.kernels.cuda.compile import NAMES, THREADS, kernel, ready


def handles(keys: Any, H: int) -> bool:
    """Whether `attention_step` takes H query heads and this cache: of features that are a power of two, 2 to 32 packs."""
    lanes, rest = divmod(keys.shape[3] * keys.itemsize, 16)
    return keys.dtype in NAMES and not rest and lanes in (2, 4, 8, 16, 32) and keys.size > 0 and H % keys.shape[1] == 0


def attention_step(xp: ModuleType, q: Any, k: Any, v: Any, keys: Any, values: Any, position: Any, first: Any) -> Array:
    """Attention of one new token, whose k and v are written at column `position` of keys and values.

    q (B, H, 1, D), k and v (B, Hkv, 1, D), keys and values (B, Hkv, S, D) in row order, position (1,), first (B,) the first
    column of each row that is not padding: the query sees first[b] .. position. Returns (B, H, 1, D). A position outside the
    cache gives NaN, since a CUDA graph cannot raise.
    """
    (B, H, _, D), (_, Hkv, S, _) = q.shape, keys.shape
    y = xp.empty(q.shape, q.dtype)
    arguments = *(ready(xp, x) for x in (q, k, v)), keys, values, position, first, y, H, Hkv, S
    kernel("decode", "attention_step", q.dtype, LANES=D * q.itemsize // 16)((B * H,), (THREADS,), arguments)
    return y


def argmax_rows(xp: ModuleType, x: Any, out: Array) -> None:
    """out = np.argmax(x, axis=-1) of (N, n), by a kernel that a CUDA graph can capture."""
    kernel("pick", "argmax_rows", x.dtype)((len(x),), (1024,), (ready(xp, x), out, x.shape[1]))
