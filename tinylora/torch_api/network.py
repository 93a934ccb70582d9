"""The functions that networks are made of, by PyTorch's names: products, norms, attention. (Losses are in losses.py.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, bfloat16, float32, next_key, seen
from tinylora.tensor import Tensor, record
from tinylora.torch_api.elementwise import where
from tinylora.torch_api.promote import follow, need_float, one_dtype


# ------------------------------------------------------------------------------------------- products
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input Wᵀ + bias: (.., in) -> (.., out) with W (out, in)."""
    input, bias = _check_linear(input, weight, bias)
    return record(ops.linear, input, weight, bias)


def lora_linear(input: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float = 1.0) -> Tensor:
    """input Wᵀ + bias + scale · (input A) B in one op, with A (in, r) and B (r, out)."""
    input, bias = _check_linear(input, weight, bias)
    if A.shape != (weight.shape[1], B.shape[0]) or B.shape[1] != weight.shape[0]:
        raise RuntimeError(f"lora_linear: A {A.shape} and B {B.shape} do not fit a weight of shape {weight.shape}")
    return record(ops.lora_linear, input, weight, bias, A, B, float(scale))


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    """Input and bias, in the dtype of the weight where `follow` allows it."""
    if not isinstance(input, Tensor):
        raise TypeError(f"linear: input is a Tensor, not {type(input).__name__}: tinylora.tensor(..) makes one")
    if input.array.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(f"linear: input of shape {input.shape} does not fit a weight of shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"linear: bias of shape {bias.shape} does not fit a weight of shape {weight.shape}")
    if len({input.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype}) > 1:
        input, bias = follow(weight, input, bias)
        one_dtype("linear", input, weight, bias)
    return input, bias


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """Shift and scale the last axes, `normalized_shape`, to mean 0 and variance 1, then apply weight and bias."""
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise RuntimeError(f"layer_norm: an input of shape {input.shape} does not end in {shape}")
    if any(p is not None and p.shape != shape for p in (weight, bias)):
        raise RuntimeError(f"layer_norm: weight and bias need the shape {shape}")
    input, bias = (input, bias) if weight is None else follow(weight, input, bias)
    one_dtype("layer_norm", input, weight, bias)
    if len(shape) == 1:
        return record(ops.layer_norm, input, 1.0 if weight is None else weight, 0.0 if bias is None else bias, eps=eps)
    size = math.prod(shape)
    flat = record(ops.reshape, input, shape=(*input.shape[: -len(shape)], size))
    flat_weight = 1.0 if weight is None else record(ops.reshape, weight, shape=(size,))
    flat_bias = 0.0 if bias is None else record(ops.reshape, bias, shape=(size,))
    y = record(ops.layer_norm, flat, flat_weight, flat_bias, eps=eps)
    return record(ops.reshape, y, shape=input.shape)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """input / √(mean input² + eps) · weight over the last axes, `normalized_shape`. eps is by default that of the dtype.

    >>> import tinylora
    >>> rms_norm(tinylora.tensor([[3.0, 4.0, 0.0, 0.0]]), (4,), eps=0.0).tolist()
    [[1.2000000476837158, 1.600000023841858, 0.0, 0.0]]
    """
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise RuntimeError(f"rms_norm: an input of shape {input.shape} does not end in {shape}")
    if weight is not None and weight.shape != shape:
        raise RuntimeError(f"rms_norm: weight needs the shape {shape}, and has {weight.shape}")
    input = input if weight is None else follow(weight, input)[0]
    one_dtype("rms_norm", input, weight)
    eps = float(np.finfo(np.float64 if input.dtype == np.float64 else np.float32).eps) if eps is None else eps
    if len(shape) == 1:
        return record(ops.rms_norm, input, 1.0 if weight is None else weight, eps=eps)
    size = math.prod(shape)
    flat = record(ops.reshape, input, shape=(*input.shape[: -len(shape)], size))
    y = record(ops.rms_norm, flat, 1.0 if weight is None else record(ops.reshape, weight, shape=(size,)), eps=eps)
    return record(ops.reshape, y, shape=input.shape)


def rope(input: Tensor, cos: Any, sin: Any) -> Tensor:
    """Rotary embedding of input (B, H, T, D) by tables (.., T, D/2), which are constants: feature i is paired with i + D/2.

    >>> import tinylora
    >>> quarter = tinylora.tensor([[1.0], [0.0]]), tinylora.tensor([[0.0], [1.0]])  # (T, D/2): cos and sin of 0 and π/2
    >>> rope(tinylora.tensor([[[[1.0, 2.0], [1.0, 2.0]]]]), *quarter).tolist()
    [[[[1.0, 2.0], [-2.0, 1.0]]]]
    """
    need_float("rope", input)
    dtype = float32 if input.dtype == bfloat16 else input.dtype
    tables = [(x.array if isinstance(x, Tensor) else x).astype(dtype, copy=False) for x in (cos, sin)]
    half = (*input.shape[:-1], input.shape[-1] // 2)
    if input.shape[-1] % 2 or any(_broadcast(table.shape, half) != half for table in tables):
        shapes = f"{tuple(tables[0].shape)} and {tuple(tables[1].shape)}"
        raise RuntimeError(f"rope: tables of shape {shapes} do not fit an input of shape {input.shape}")
    return record(ops.rope, input, *tables)


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that they broadcast to, None if they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """weight[input]: ids of any shape -> (.., C). Raises IndexError for ids outside the vocabulary.

    The row `padding_idx` gets no gradient.
    """
    ids = input.array
    if weight.array.ndim != 2:
        raise RuntimeError(f"embedding: weight is a matrix (vocabulary, C), and its shape is {weight.shape}")
    if ids.dtype.kind not in "iu":
        raise RuntimeError(f"embedding: ids must be integers, and these are {ids.dtype}")
    known = seen(ids)
    if known.size and not (known.min() >= 0 and known.max() < weight.shape[0]):
        raise IndexError(f"embedding: ids {known.min()}..{known.max()} outside the vocabulary 0..{weight.shape[0] - 1}")
    y = record(ops.embedding, weight, ids)
    if padding_idx is None or not y.requires_grad:
        return y
    if not -weight.shape[0] <= padding_idx < weight.shape[0]:
        raise RuntimeError(f"embedding: padding_idx {padding_idx} is outside the vocabulary 0..{weight.shape[0] - 1}")
    return where(input.unsqueeze(-1) == padding_idx % weight.shape[0], y.detach(), y)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p); nothing when not training."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be between 0 and 1, not {p}")
    need_float("dropout", input)
    if not training or p == 0:
        return input
    y = record(ops.dropout, input, float(p), next_key())  # its gradient needs no input
    return input.copy_(y) if inplace else y


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ · scale) v for q (B, H, T, D), k and v (B, H, S, D), fused: see `ops.nn.attention`. scale is 1/√D.

    `attn_mask` broadcasts to (B, H, T, S): boolean, True where a key may be seen, or numbers that are added to the scores.
    A mask that requires grad gets one, step by step rather than fused. With `is_causal` query t sees the keys 0 .. t of
    these. With `enable_gqa` there may be fewer key heads, if their number divides H. A query that sees no key gives 0.

    >>> from tinylora import randn
    >>> scaled_dot_product_attention(randn(2, 9, 5, 8), randn(2, 3, 5, 8), randn(2, 3, 5, 8), enable_gqa=True).shape
    (2, 9, 5, 8)
    """
    if not 0 <= dropout_p < 1:
        raise ValueError(f"attention: dropout_p must be at least 0 and below 1, not {dropout_p}")
    one_dtype("attention", query, key, value)
    if query.array.ndim == 2:
        one_head = query[None], key[None], value[None], attn_mask, dropout_p, is_causal, scale
        return scaled_dot_product_attention(*one_head)[0]
    _check_heads(query, key, value, enable_gqa)
    if attn_mask is not None and attn_mask.requires_grad:
        return _attention_with_trained_mask(query, key, value, attn_mask, dropout_p, is_causal, scale)
    mask = _mask(query, key, attn_mask)
    T, S = query.shape[-2], key.shape[-2]
    if is_causal and T != S:  # the op lets the last query see all keys; in PyTorch the first query sees one
        xp = array_module(query.array)
        early = xp.tri(T, S, dtype=bool)
        mask = early if mask is None else early & mask if mask.dtype == bool else xp.where(early, mask, -math.inf)
    if scale is not None:
        query = query * (scale * math.sqrt(query.shape[-1]))
    rng = next_key() if dropout_p else 0
    return record(ops.attention, query, key, value, causal=is_causal and T == S, p=float(dropout_p), key=rng, mask=mask)


def _check_heads(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    H, H_kv = query.shape[-3], key.shape[-3]
    batch = _broadcast(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    fits = query.shape[-1] == key.shape[-1] and key.shape[-3:-1] == value.shape[-3:-1] and batch is not None
    if not fits or (H_kv != H and min(H, H_kv) != 1 and not enable_gqa):
        hint = "" if not fits else "; fewer key heads need enable_gqa=True"
        shapes = f"{query.shape}, {key.shape}, {value.shape}"
        raise RuntimeError(f"attention: query, key, value have shapes {shapes}, which do not fit{hint}")
    if enable_gqa and (H_kv == 0 or H % H_kv):
        raise RuntimeError(f"attention: {H_kv} key heads do not divide {H} query heads")


def _attention_with_trained_mask(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, p: float, causal: bool, scale: float | None
) -> Tensor:
    """The definition, for a mask such as a relative position bias, which has a gradient of its own."""
    group = query.shape[-3] // (key.shape[-3] or 1)
    key, value = ((x.repeat_interleave(group, -3) if group > 1 else x) for x in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale) + mask  # (B, H, T, S)
    if causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=np.dtype(bool)).triu(1), -math.inf)
    unseen = (scores == -math.inf).all(-1, keepdim=True)
    P = scores.masked_fill(unseen, 0.0).softmax(-1).masked_fill(unseen, 0.0)
    return dropout(P, p) @ value


def _mask(query: Tensor, key: Tensor, mask: Tensor | None) -> Any:
    """attn_mask as an array: boolean, or of the queries' dtype."""
    if mask is None:
        return None
    if mask.dtype not in (np.dtype(bool), float32, query.dtype):
        raise RuntimeError(f"attention: attn_mask must be boolean or {query.dtype}, and this one is {mask.dtype}")
    scores = (*query.shape[:-1], key.shape[-2])
    if _broadcast(mask.shape, scores) != scores:
        raise RuntimeError(f"attention: attn_mask of shape {mask.shape} does not broadcast to the scores' {scores}")
    wide_enough = float32 if query.dtype == bfloat16 else query.dtype
    return mask.array if mask.dtype == bool else mask.array.astype(wide_enough, copy=False)
