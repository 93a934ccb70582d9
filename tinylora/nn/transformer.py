"""Attention and the encoder as PyTorch's modules. (The models here have attention of their own: see models/gpt.py.)"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from tinylora.nn import functional as F
from tinylora.nn import init
from tinylora.nn.containers import ModuleList
from tinylora.nn.layers import Dropout, LayerNorm, Linear
from tinylora.nn.module import Module, Parameter
from tinylora.tensor import Tensor
from tinylora.torch_api.creation import empty, zeros_like


class MultiheadAttention(Module):
    """softmax(q kᵀ / √D + mask) v in each of the heads, for projections q, k, v of the inputs, then out_proj.

    Vaswani et al. 2017, "Attention is all you need". Weights (3 E, E) for q, k and v one below the other, as in PyTorch.
    Keys and values have the size of queries; `add_bias_kv`, `add_zero_attn`, `kdim` and `vdim` are not supported.

    >>> from tinylora import nn, randn
    >>> x = randn(2, 5, 8)
    >>> y, weights = nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> y.shape, weights.shape
    ((2, 5, 8), (2, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout, self.batch_first = dropout, batch_first
        where: Any = {"device": device, "dtype": dtype}
        self.in_proj_weight = Parameter(empty(3 * embed_dim, embed_dim, **where))
        self.register_parameter("in_proj_bias", Parameter(empty(3 * embed_dim, **where)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, **where)
        init.xavier_uniform_(self.in_proj_weight)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, weights) for (T, B, E), or (B, T, E) if batch_first, or (T, E).

        Masks are boolean, True where a key is NOT to be seen, or numbers added to the scores: key_padding_mask (B, S),
        attn_mask (T, S) or (B · H, T, S). `is_causal` needs the mask that it says attn_mask is. The weights are the mean
        over the heads, (B, T, S), or those of each head; None with need_weights=False.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("attention: is_causal says that attn_mask is causal, and there is none: pass it")
        single = query.array.ndim == 2
        if single:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q @ k.transpose(-1, -2)) * (1 / math.sqrt(self.head_dim))  # (B, H, T, S)
            weights = F.dropout(F.softmax(scores if mask is None else scores + mask, -1), p, p > 0)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, p)
        y = self.out_proj(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, E)
        if single:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        heads = []
        for x, w, b in zip((query, key, value), weights, biases, strict=True):
            y = F.linear(x, w, b)
            heads.append(y.reshape(*y.shape[:2], self.num_heads, self.head_dim).transpose(1, 2))  # (B, H, T, D)
        return heads

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        """Both masks as numbers to add to the scores (B, H, T, S)."""
        found = None
        for mask in (padding, attn_mask):
            if mask is None:
                continue
            added = zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf) if mask.dtype == bool else mask.to(q.dtype)
            if mask is padding:
                added = added[:, None, None, :]
            elif added.array.ndim == 3:
                added = added.reshape(q.shape[0], self.num_heads, q.shape[2], k.shape[2])
            found = added if found is None else found + added
        return found


def _activation(given: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    if callable(given):
        return given
    if given not in ("relu", "gelu"):
        raise RuntimeError(f"activation is 'relu', 'gelu' or a function, not {given!r}")
    return F.relu if given == "relu" else F.gelu


class TransformerEncoderLayer(Module):
    """x ← norm1(x + attention(x)), x ← norm2(x + linear2(f(linear1(x)))); with norm_first each norm is inside instead."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where: Any = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first, **where)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **where)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **where)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **where)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **where)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.norm_first, self.activation = norm_first, _activation(activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        masks = src_key_padding_mask, src_mask, is_causal
        if self.norm_first:
            x = src + self._attention(self.norm1(src), *masks)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(src + self._attention(src, *masks))
        return self.norm2(x + self._feed_forward(x))

    def _attention(self, x: Tensor, padding: Tensor | None, mask: Tensor | None, is_causal: bool) -> Tensor:
        y, _ = self.self_attn(x, x, x, padding, need_weights=False, attn_mask=mask, is_causal=is_causal)
        return self.dropout1(y)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoder(Module):
    """Copies of a layer, one after the other, and a norm if one is given."""

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        x = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, bool(is_causal))
        return x if self.norm is None else self.norm(x)
