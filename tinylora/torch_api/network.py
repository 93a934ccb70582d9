"""The functions of a network's layers, by PyTorch's names: shapes and dtypes are checked here, computed in ops/nn.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import float32, is_floating, next_key, seen
from tinylora.tensor import Tensor, record
from tinylora.torch_api.promote import follow, need_float, promote, wide


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


def _one_dtype(name: str, *tensors: Tensor | None) -> None:
    """All of them floating-point, and of one kind."""
    given = [x for x in tensors if x is not None]
    need_float(name, given[0])
    for x in given[1:]:
        if x.dtype != given[0].dtype:
            raise RuntimeError(f"{name}: expected one dtype, got {given[0].dtype} and {x.dtype}")


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    """Input and bias, in the dtype of the weight where `follow` allows it."""
    if input.data.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(f"linear: input of shape {input.shape} does not fit a weight of shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"linear: bias of shape {bias.shape} does not fit a weight of shape {weight.shape}")
    dtypes = {input.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype}
    if len(dtypes) > 1 or not is_floating(weight.dtype):
        input, bias = follow(weight, input, bias)
        _one_dtype("linear", input, weight, bias)
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
    _one_dtype("layer_norm", input, weight, bias)
    if len(shape) == 1:
        return record(ops.layer_norm, input, 1.0 if weight is None else weight, 0.0 if bias is None else bias, eps=eps)
    size = math.prod(shape)
    flat = record(ops.reshape, input, shape=(*input.shape[: -len(shape)], size))
    flat_weight = 1.0 if weight is None else record(ops.reshape, weight, shape=(size,))
    flat_bias = 0.0 if bias is None else record(ops.reshape, bias, shape=(size,))
    y = record(ops.layer_norm, flat, flat_weight, flat_bias, eps=eps)
    return record(ops.reshape, y, shape=input.shape)


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """weight[input]: ids of any shape -> (.., C). Raises IndexError for ids outside the vocabulary."""
    ids = input.data
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


def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    """The last axes, `normalized_shape`, divided by the root of their mean square, then scaled; eps as PyTorch's default."""
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise RuntimeError(f"rms_norm: an input of shape {input.shape} does not end in {shape}")
    if weight is not None and weight.shape != shape:
        raise RuntimeError(f"rms_norm: weight needs the shape {shape}")
    input = input if weight is None else follow(weight, input)[0]
    _one_dtype("rms_norm", input, weight)
    eps = float(np.finfo(input.dtype if input.dtype.kind == "f" else float32).eps) if eps is None else eps
    size = math.prod(shape)
    flat = record(ops.reshape, input, shape=(*input.shape[: -len(shape)], size)) if len(shape) > 1 else input
    scale = 1.0 if weight is None else record(ops.reshape, weight, shape=(size,)) if len(shape) > 1 else weight
    y = record(ops.rms_norm, flat, scale, eps=eps)
    return record(ops.reshape, y, shape=input.shape) if len(shape) > 1 else y


def rope(input: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (.., T, D): features i and i + D / 2 turned by the angle whose cos and sin, (.., T, D / 2), are
    given."""
    if input.data.ndim < 2 or input.shape[-1] != 2 * cos.shape[-1]:
        raise RuntimeError(f"rope: cos of shape {cos.shape} does not fit an input of shape {input.shape}")
    return record(ops.rope, input, cos.data.astype(input.dtype, copy=False), sin.data.astype(input.dtype, copy=False))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ∘ up, in one op."""
    gate, up = promote(gate, up, floating=True)
    return record(ops.swiglu, gate, up)


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
    """softmax(q kᵀ · scale + mask) v over (B, H, T, D), fused: see `ops.nn.attention`. The scale is 1/√D unless given.

    attn_mask is boolean (True may be seen) or added to the scores, and broadcasts to (B, H, T, S). With enable_gqa key and
    value may have fewer heads than query, a number that divides it. is_causal goes without a mask, for as many queries as
    keys.
    """
    if not 0 <= dropout_p < 1:
        raise ValueError(f"attention: dropout_p must be at least 0 and below 1, not {dropout_p}")
    if is_causal and attn_mask is not None:
        raise RuntimeError("attention: give attn_mask or is_causal, not both")
    if is_causal and query.shape[-2] != key.shape[-2]:
        raise RuntimeError(f"attention: causal needs as many queries as keys, got {query.shape[-2]} and {key.shape[-2]}")
    _one_dtype("attention", query, key, value)
    if query.data.ndim == 2:  # no heads: one
        q, k, v = query[None], key[None], value[None]
        return scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, scale)[0]
    shapes = f"query, key, value have shapes {query.shape}, {key.shape}, {value.shape}"
    if enable_gqa and query.data.ndim > 2 and key.shape[-3] and query.shape[-3] % key.shape[-3]:
        raise RuntimeError(f"attention: {shapes}: the heads of key do not divide those of query")
    if not enable_gqa and query.shape[-3] != key.shape[-3]:
        raise RuntimeError(f"attention: {shapes}, which do not fit; enable_gqa=True lets query heads share keys")
    if attn_mask is not None and attn_mask.dtype != bool and attn_mask.dtype != query.dtype:
        raise RuntimeError(f"attention: attn_mask is boolean or {query.dtype}, not {attn_mask.dtype}")
    if scale is not None:
        query = query * (scale * math.sqrt(query.shape[-1]))
    options: dict[str, Any] = {} if attn_mask is None else {"mask": attn_mask.data}
    if dropout_p:
        options |= {"p": float(dropout_p), "key": next_key()}
    try:
        return record(ops.attention, query, key, value, causal=is_causal, **options)
    except ValueError:
        raise RuntimeError(f"attention: {shapes}, which do not fit") from None


def linear_cross_entropy(input: Tensor, weight: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor:
    """Mean cross-entropy of the scores input Wᵀ, without them: input (N, C), weight (V, C), target (N,) integers.

    The head and the loss of a language model as one op, see `ops.loss`. Rows whose target is `ignore_index` count nothing.
    """
    if target.dtype.kind not in "iu" or input.data.ndim != 2 or target.shape != input.shape[:1]:
        raise RuntimeError(f"linear_cross_entropy: input {input.shape} and integer targets {target.shape} do not fit")
    input, _ = _check_linear(input, weight, None)
    check_targets("linear_cross_entropy", target.data, weight.shape[0], ignore_index)
    return record(ops.linear_cross_entropy, input, weight, target.data, ignore_index=ignore_index)


def check_targets(name: str, targets: Any, classes: int, ignore_index: int) -> None:
    """Raise IndexError for a target that is no class and not `ignore_index`."""
    known = seen(targets)
    wrong = known[((known < 0) | (known >= classes)) & (known != ignore_index)]
    if wrong.size:
        raise IndexError(f"{name}: target {int(wrong[0])} is not one of the {classes} classes 0..{classes - 1}")


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
    if target.dtype.kind not in "iu":
        raise RuntimeError(f"cross_entropy: targets must be integers (class numbers), and these are {target.dtype}")
    need_float("cross_entropy", input)
    input = wide(input)
    if weight is not None and weight.shape != input.shape[:2][-1:]:
        raise RuntimeError(f"cross_entropy: weight of shape {weight.shape} does not fit logits of shape {input.shape}")
    if input.data.ndim == 1:
        loss = cross_entropy(input[None], target.reshape(1), weight, ignore_index, reduction)
        return loss.reshape(()) if reduction == "none" else loss
    if target.shape != (input.shape[:1] + input.shape[2:]):
        raise ValueError(f"cross_entropy: logits of shape {input.shape} do not fit targets of shape {target.shape}")
    classes = input.shape[1]
    logits = input.permute(0, *range(2, input.data.ndim), 1).reshape(target.data.size, classes)
    flat = target.data.reshape(-1)
    check_targets("cross_entropy", flat, classes, ignore_index)
    w = None if weight is None else weight.data
    loss = record(ops.cross_entropy, logits, flat, w, ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(target.shape) if reduction == "none" else loss
