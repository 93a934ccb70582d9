"""The functions that networks are made of, by PyTorch's names: products, norms, attention, losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, bfloat16, float32, is_floating, next_key, seen
from tinylora.tensor import Tensor, grad_enabled, record
from tinylora.torch_api.promote import follow, need_float, one_dtype, wide


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
    if input.array.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(f"linear: input of shape {input.shape} does not fit a weight of shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"linear: bias of shape {bias.shape} does not fit a weight of shape {weight.shape}")
    dtypes = {input.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype}
    if len(dtypes) > 1 or not is_floating(weight.dtype):
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


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """weight[input]: ids of any shape -> (.., C). Raises IndexError for ids outside the vocabulary."""
    ids = input.array
    if ids.dtype.kind not in "iu":
        raise RuntimeError(f"embedding: ids must be integers, and these are {ids.dtype}")
    known = seen(ids)
    if known.size and not (known.min() >= 0 and known.max() < weight.shape[0]):
        raise IndexError(f"embedding: ids {known.min()}..{known.max()} outside the vocabulary 0..{weight.shape[0] - 1}")
    return record(ops.embedding, weight, ids)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p); nothing when not training."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be between 0 and 1, not {p}")
    need_float("dropout", input)
    return record(ops.dropout, input, float(p), next_key()) if training and p > 0 else input


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
    It is a constant. With `is_causal` query t sees the keys 0 .. t of these. With `enable_gqa` there may be fewer key
    heads, if their number divides H. A query that sees no key gives 0.

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


def _mask(query: Tensor, key: Tensor, mask: Tensor | None) -> Any:
    """attn_mask as an array: boolean, or of the queries' dtype."""
    if mask is None:
        return None
    if mask.requires_grad:
        raise NotImplementedError(
            "attention: attn_mask is a constant here; add a bias that is trained to the scores yourself"
        )
    if mask.dtype not in (np.dtype(bool), float32, query.dtype):
        raise RuntimeError(f"attention: attn_mask must be boolean or {query.dtype}, and this one is {mask.dtype}")
    scores = (*query.shape[:-1], key.shape[-2])
    if _broadcast(mask.shape, scores) != scores:
        raise RuntimeError(f"attention: attn_mask of shape {mask.shape} does not broadcast to the scores' {scores}")
    wide_enough = float32 if query.dtype == bfloat16 else query.dtype
    return mask.array if mask.dtype == bool else mask.array.astype(wide_enough, copy=False)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits)[target]. Logits (N, classes) or (N, classes, d1, ..) or (classes,); target integers.

    Rows whose target is `ignore_index` count nothing; `weight` (classes,) weighs each row by its class.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    need_float("cross_entropy", input)
    input = wide(input)
    if weight is not None and weight.shape != input.shape[:2][-1:]:
        raise RuntimeError(f"cross_entropy: weight of shape {weight.shape} does not fit logits of shape {input.shape}")
    if input.array.ndim == 1:
        loss = cross_entropy(input[None], target.reshape(1), weight, ignore_index, reduction)
        return loss.reshape(()) if reduction == "none" else loss
    if target.shape != (input.shape[:1] + input.shape[2:]):
        raise ValueError(f"cross_entropy: logits of shape {input.shape} do not fit targets of shape {target.shape}")
    classes = input.shape[1]
    logits = input.permute(0, *range(2, input.array.ndim), 1).reshape(target.array.size, classes)
    flat = _targets("cross_entropy", target, classes, ignore_index)
    w = None if weight is None else weight.array
    loss = record(ops.cross_entropy, logits, flat, w, ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(target.shape) if reduction == "none" else loss


def _targets(name: str, target: Tensor, classes: int, ignore_index: int) -> Any:
    """The targets as one row of an array, if each is a class or `ignore_index`."""
    if target.dtype.kind not in "iu":
        raise RuntimeError(f"{name}: targets must be integers (class numbers), and these are {target.dtype}")
    known = seen(flat := target.array.reshape(-1))
    wrong = known[((known < 0) | (known >= classes)) & (known != ignore_index)]
    if wrong.size:
        raise IndexError(f"{name}: target {int(wrong[0])} is not one of the {classes} classes 0..{classes - 1}")
    return flat


def linear_cross_entropy(input: Tensor, weight: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor:
    """cross_entropy(input Wᵀ, target), averaged, for input (.., C), W (classes, C) and target (..): no logits are stored.

    >>> import tinylora
    >>> x, W, target = tinylora.randn(2, 5, 8), tinylora.randn(100, 8), tinylora.zeros(2, 5).long()
    >>> logits = tinylora.nn.functional.linear(x, W)
    >>> expected = cross_entropy(logits.flatten(0, 1), target.flatten())
    >>> tinylora.allclose(linear_cross_entropy(x, W, target), expected)
    True
    """
    input, _ = _check_linear(input, weight, None)
    if target.shape != input.shape[:-1]:
        raise ValueError(f"linear_cross_entropy: input of shape {input.shape} does not fit targets of shape {target.shape}")
    flat = _targets("linear_cross_entropy", target, weight.shape[0], ignore_index)
    x = record(ops.reshape, input, shape=(flat.size, input.shape[-1]))
    d_x_too = x.requires_grad and grad_enabled()
    return record(ops.linear_cross_entropy, x, weight, flat, ignore_index=ignore_index, d_x_too=d_x_too)
