"""Keys and values kept, so that a new token costs one position's work instead of the whole text's.

What a block does at one position depends on the positions before it through their keys and values alone, and those never
change. So they are kept, and of a text that grows only the new positions are computed. Same numbers as `GPTModel.features`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

from tinylora import ops
from tinylora.backend import Array, array_module
from tinylora.models.gpt import GPTModel, MultiHeadAttention
from tinylora.tensor import Tensor, no_grad, record
from tinylora.torch_api import functional as F


class Cache:
    """Keys and values, (B, H, S, D) each, of every block of `model` at the first `length` positions of B texts.

    There is room for `size` positions from the start, by default the context: a token is written, and nothing is moved.
    `padding` says how many tokens in front of each text are no text: none of the text sees them, and its positions count
    from behind them.

    >>> from tinylora import tensor
    >>> from tinylora.models.folders import load_model
    >>> model = load_model("nano")
    >>> cache = Cache(model)
    >>> features(model, tensor([[72, 101, 108]]), cache).shape, features(model, tensor([[108]]), cache).shape, cache.length
    ((1, 3, 256), (1, 1, 256), 4)
    """

    def __init__(self, model: GPTModel, padding: Sequence[int] = (0,), size: int | None = None) -> None:
        cfg, weight = model.cfg, model.tok_emb.weight.data
        self.size, self.length = size or cfg["context_length"], 0
        self.padding = padding if any(padding) else None
        shape = (len(padding), cfg["n_heads"], self.size, cfg["emb_dim"] // cfg["n_heads"])
        xp = array_module(weight)
        self.blocks = [tuple(xp.empty(shape, weight.dtype) for _ in "kv") for _ in model.trf_blocks]


@no_grad()
def features(model: GPTModel, ids: Tensor, cache: Cache) -> Tensor:
    """What the head sees at the next T positions, (B, T, C), for their token ids (B, T). The cache grows by T.

    For a model in evaluation mode: there is no dropout in it, and nothing is recorded for backward. Raises ValueError if
    the positions do not fit the cache, RuntimeError in training mode.
    """
    start, stop = cache.length, cache.length + ids.shape[-1]
    if stop > cache.size:
        raise ValueError(f"{stop} tokens do not fit a cache of {cache.size}")
    if model.training:
        raise RuntimeError("keys and values are kept for evaluation alone: call model.eval()")
    positions, hidden = _places(cache, array_module(ids.data), start, stop)
    x = model.tok_emb(ids) + model.pos_emb(Tensor(positions))
    for block, kept in zip(model.trf_blocks, cache.blocks, strict=True):
        x = x + _attend(block.att, block.norm1(x), kept, start, stop, hidden)
        x = x + block.ff(block.norm2(x))
    cache.length = stop
    return model.final_norm(x)


def _places(cache: Cache, xp: ModuleType, start: int, stop: int) -> tuple[Array, Tensor | None]:
    """Where in its text each new token stands, (1, T) or (B, T), and what is hidden from it, (B, 1, T, S) or nothing."""
    columns, seen = xp.arange(start, stop), xp.arange(stop)
    if cache.padding is None:
        return columns[None], None
    padding = xp.asarray(cache.padding)[:, None]
    unseen = (seen > columns[:, None]) | (seen < padding)[:, None]  # (B, T, S)
    unseen &= seen != columns[:, None]  # padding sees itself: a softmax over nothing would be NaN
    return xp.maximum(columns - padding, 0), Tensor(unseen[:, None])


def _attend(
    att: MultiHeadAttention, x: Tensor, kept: tuple[Array, ...], start: int, stop: int, hidden: Tensor | None
) -> Tensor:
    """MultiHeadAttention of the tokens start to stop, (B, T, C) -> (B, T, C); their keys and values go into `kept`."""
    for array, W in zip(kept, (att.W_key, att.W_value), strict=True):
        array[:, :, start:stop] = att.heads(W(x)).data
    q, k, v = att.heads(att.W_query(x)), *(Tensor(array[:, :, :stop]) for array in kept)  # (B, H, T, D), (B, H, S, D)
    if hidden is None:
        context = record(ops.attention, q, k, v, causal=True)
    else:
        scores = F.masked_fill(q @ k.mT * (1 / math.sqrt(q.shape[-1])), hidden, -math.inf)
        context = F.softmax(scores, -1) @ v
    return att.out_proj(context.transpose(1, 2).flatten(2))
