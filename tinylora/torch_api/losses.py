"""Loss functions, by PyTorch's names. `reduction` is "mean", "sum", or "none" for one loss per element or row."""

from __future__ import annotations

import math
from typing import Any

from tinylora import ops
from tinylora.backend import is_floating, seen
from tinylora.tensor import Tensor, grad_enabled, record
from tinylora.torch_api.activations import logsigmoid, softplus
from tinylora.torch_api.distances import cosine_similarity, pairwise_distance
from tinylora.torch_api.elementwise import abs, add, div, exp, log, maximum, mul, neg, sub, where
from tinylora.torch_api.functional import log_softmax, mean, sum
from tinylora.torch_api.network import _check_linear, linear
from tinylora.torch_api.promote import need_float, wide
from tinylora.torch_api.rearranging import broadcast_shapes
from tinylora.torch_api.shaping import gather, reshape, unsqueeze


def _reduced(name: str, losses: Tensor, reduction: str) -> Tensor:
    _known(name, reduction)
    return losses if reduction == "none" else mean(losses) if reduction == "mean" else sum(losses)


def _known(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


# ------------------------------------------------------------------------------------ between classes
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(logits)[target]. Logits (N, classes) or (N, classes, d1, ..) or (classes,); targets class numbers.

    Rows whose target is `ignore_index` count nothing; `weight` (classes,) weighs each row by its class. Targets may be
    probabilities of the shape of the logits: -Σ p log softmax. `label_smoothing` s mixes the targets with s / classes
    for every class.

    >>> import tinylora
    >>> cross_entropy(tinylora.zeros(2, 4), tinylora.tensor([0, 3])).item()  # ln 4
    1.3862943649291992
    """
    _known("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"cross_entropy: label_smoothing lies between 0 and 1, not {label_smoothing}")
    need_float("cross_entropy", input)
    if weight is not None and weight.shape != input.shape[:2][-1:]:
        raise RuntimeError(f"cross_entropy: weight of shape {weight.shape} does not fit logits of shape {input.shape}")
    if input.array.ndim == 1:
        options: Any = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
        row = cross_entropy(input[None], target[None], weight, **options)
        return reshape(row, ()) if reduction == "none" else row
    if is_floating(target.dtype) and target.shape == input.shape:
        return _between_distributions(input, target, weight, reduction, label_smoothing)
    _fits("cross_entropy", input, target)
    if label_smoothing:
        return _smoothed(input, target, weight, ignore_index, reduction, label_smoothing)
    logits, classes = wide(input), input.shape[1]
    if input.array.ndim > 2:
        logits = reshape(logits.permute(0, *range(2, input.array.ndim), 1), target.array.size, classes)
    flat, w = _targets("cross_entropy", target, classes, ignore_index), None if weight is None else weight.array
    loss = record(ops.cross_entropy, logits, flat, w, ignore_index=ignore_index, reduction=reduction).to(input.dtype)
    return reshape(loss, target.shape) if reduction == "none" else loss


def _fits(name: str, input: Tensor, target: Tensor) -> None:
    if target.shape != (input.shape[:1] + input.shape[2:]):
        raise ValueError(f"{name}: input of shape {input.shape} does not fit targets of shape {target.shape}")


def _per_class(weight: Tensor, input: Tensor) -> Tensor:
    """One number for each class, in the shape that broadcasts to (N, classes, d1, ..)."""
    return reshape(weight, [-1] + [1] * (input.array.ndim - 2))


def _smoothed(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    """(1 - s) · the loss of the targets + s · the mean loss of all classes."""
    log_p, classes = log_softmax(input, 1), input.shape[1]
    sharp = nll_loss(log_p, target, weight, ignore_index=ignore_index, reduction=reduction)
    kept = target != ignore_index
    even = where(kept, neg(sum(log_p if weight is None else mul(log_p, _per_class(weight, input)), 1)), 0.0)
    if reduction != "none":
        even = sum(even)
    if reduction == "mean":
        ids = where(kept, target, 0)
        weights = kept.to(input.dtype) if weight is None else where(kept, weight.detach()[ids], 0.0)
        even = div(even, sum(weights))
    return add(mul(sharp, 1 - smoothing), mul(even, smoothing / classes))


def _between_distributions(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float) -> Tensor:
    """-Σ p log softmax over the classes; its mean divides by the number of rows."""
    if smoothing:
        target = add(mul(target, 1 - smoothing), smoothing / input.shape[1])
    terms = mul(log_softmax(input, 1), target)
    losses = neg(sum(terms if weight is None else mul(terms, _per_class(weight, input)), 1))
    return _reduced("cross_entropy", losses, reduction)


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-input[target] for log-probabilities (N, classes), (N, classes, d1, ..) or (classes,): see `cross_entropy`.

    "mean" divides by the sum of the weights of the rows that count.
    """
    _known("nll_loss", reduction)
    need_float("nll_loss", input)
    if input.array.ndim == 1 and target.array.ndim == 0:
        row = nll_loss(input[None], target[None], weight, ignore_index=ignore_index, reduction=reduction)
        return reshape(row, ()) if reduction == "none" else row
    if input.array.ndim < 2:
        raise ValueError(f"nll_loss: input of shape {input.shape} does not fit targets of shape {target.shape}")
    _fits("nll_loss", input, target)
    classes = input.shape[1]
    if weight is not None and weight.shape != (classes,):
        raise RuntimeError(f"nll_loss: weight of shape {weight.shape} does not fit input of shape {input.shape}")
    _targets("nll_loss", target, classes, ignore_index)
    kept = target != ignore_index
    ids = where(kept, target, 0)
    picked = reshape(gather(input, 1, unsqueeze(ids, 1)), target.shape)
    weights = kept.to(input.dtype) if weight is None else where(kept, weight.detach()[ids], 0.0)
    losses = where(kept, mul(neg(picked), weights), 0.0)
    if reduction == "none":
        return losses
    return div(sum(losses), sum(weights)) if reduction == "mean" else sum(losses)


def _targets(name: str, target: Tensor, classes: int, ignore_index: int) -> Any:
    """The targets as one row of an array, if each is a class or `ignore_index`."""
    if target.dtype.kind not in "iu":
        raise RuntimeError(f"{name}: targets must be integers (class numbers), and these are {target.dtype}")
    known = seen(flat := target.array.reshape(-1))
    wrong = known[((known < 0) | (known >= classes)) & (known != ignore_index)]
    if wrong.size:
        raise IndexError(f"{name}: target {int(wrong[0])} is not one of the {classes} classes 0..{classes - 1}")
    return flat


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """cross_entropy(input Wᵀ, target) for input (.., C), W = linear_weight (classes, C), target (..).

    The mean without bias, weight or label smoothing is one op, which never stores all logits.

    >>> import tinylora
    >>> x, W, target = tinylora.randn(2, 5, 8), tinylora.randn(100, 8), tinylora.zeros(2, 5).long()
    >>> logits = tinylora.nn.functional.linear(x, W)
    >>> expected = cross_entropy(logits.flatten(0, 1), target.flatten())
    >>> tinylora.allclose(linear_cross_entropy(x, W, target), expected)
    True
    """
    checked, bias = _check_linear(input, linear_weight, linear_bias)
    if target.shape != input.shape[:-1]:
        raise ValueError(f"linear_cross_entropy: input of shape {input.shape} does not fit targets of shape {target.shape}")
    x = record(ops.reshape, checked, shape=(target.array.size, input.shape[-1]))
    if bias is not None or weight is not None or label_smoothing or reduction != "mean":
        options: Any = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
        loss = cross_entropy(linear(x, linear_weight, bias), reshape(target, -1), weight, **options)
        return reshape(loss, target.shape) if reduction == "none" else loss
    flat = _targets("linear_cross_entropy", target, linear_weight.shape[0], ignore_index)
    d_x_too = x.requires_grad and grad_enabled()
    return record(ops.linear_cross_entropy, x, linear_weight, flat, ignore_index=ignore_index, d_x_too=d_x_too)


def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """p (ln p - input) for log-probabilities `input` and probabilities p = target (e^target with log_target).

    "batchmean" divides the sum by the number of rows, as the definition of the divergence does; "mean" by all elements.
    """
    if log_target:
        losses = mul(exp(target), sub(target, input))
    else:
        positive = target > 0
        p_ln_p = mul(target, log(where(positive, target, 1.0)))
        losses = sub(where(target != target, target, p_ln_p), mul(target, input))
    if reduction == "batchmean":
        return div(sum(losses), losses.shape[0] if losses.array.ndim else 1)
    return _reduced("kl_div", losses, reduction)


def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
    """-(t ln p + (1 - t) ln(1 - p)) for probabilities p = input; each logarithm is at least -100."""
    if input.shape != target.shape:
        raise ValueError(f"binary_cross_entropy: input of shape {input.shape}, target of shape {target.shape}")
    known = seen(input.array)
    if known.size and not ((known >= 0) & (known <= 1)).all():
        raise RuntimeError(f"binary_cross_entropy: probabilities lie between 0 and 1, not {known.min()}..{known.max()}")
    yes, no = maximum(log(input), -100.0), maximum(log(sub(1.0, input)), -100.0)
    losses = neg(add(mul(target, yes), mul(sub(1.0, target), no)))
    return _reduced("binary_cross_entropy", losses if weight is None else mul(losses, weight), reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """binary_cross_entropy(sigmoid(x), t), without overflow: (1 - t) x + ln(1 + e⁻ˣ), the last weighed by pos_weight."""
    if input.shape != target.shape:
        raise ValueError(f"binary_cross_entropy_with_logits: input of shape {input.shape}, target of {target.shape}")
    rest = neg(logsigmoid(input))  # ln(1 + e⁻ˣ)
    if pos_weight is not None:
        rest = mul(rest, add(mul(sub(pos_weight, 1.0), target), 1.0))
    losses = add(mul(sub(1.0, target), input), rest)
    return _reduced("binary_cross_entropy_with_logits", losses if weight is None else mul(losses, weight), reduction)


# ------------------------------------------------------------------------------------ between numbers
def _difference(name: str, input: Tensor, target: Tensor) -> Tensor:
    broadcast_shapes(input.shape, target.shape)
    return sub(input, target)


def _weighed(losses: Tensor, weight: Tensor | None, name: str, reduction: str) -> Tensor:
    """The losses times their weights, by the sum of which "mean" divides."""
    if weight is None:
        return _reduced(name, losses, reduction)
    if weight.shape != losses.shape:
        raise ValueError(f"{name}: weight of shape {weight.shape} does not fit losses of shape {losses.shape}")
    _known(name, reduction)
    losses = mul(losses, weight)
    return losses if reduction == "none" else div(sum(losses), sum(weight)) if reduction == "mean" else sum(losses)


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """(input - target)².  Gradient of each: 2 (input - target).

    >>> import tinylora
    >>> mse_loss(tinylora.tensor([1.0, 5.0]), tinylora.tensor([1.0, 3.0])).item()
    2.0
    """
    d = _difference("mse_loss", input, target)
    return _weighed(mul(d, d), weight, "mse_loss", reduction)


def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """|input - target|."""
    return _weighed(abs(_difference("l1_loss", input, target)), weight, "l1_loss", reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d² / (2 beta) where |d| < beta, else |d| - beta / 2, for d = input - target.  Girshick 2015."""
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss: beta is at least 0, not {beta}")
    d = _difference("smooth_l1_loss", input, target)
    if beta == 0:
        return _reduced("smooth_l1_loss", abs(d), reduction)
    losses = where(abs(d.detach()) < beta, mul(mul(d, d), 0.5 / beta), sub(abs(d), 0.5 * beta))
    return _reduced("smooth_l1_loss", losses, reduction)


def huber_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d² / 2 where |d| ≤ delta, else delta (|d| - delta / 2), for d = input - target."""
    if delta <= 0:
        raise RuntimeError(f"huber_loss: delta is positive, not {delta}")
    d = _difference("huber_loss", input, target)
    losses = where(abs(d.detach()) <= delta, mul(mul(d, d), 0.5), mul(sub(abs(d), 0.5 * delta), delta))
    return _weighed(losses, weight, "huber_loss", reduction)


# ------------------------------------------------------------------------------------ between vectors
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """1 - cos where target = 1, max(0, cos - margin) where target = -1."""
    cos = cosine_similarity(input1, input2, -1)
    zero = mul(cos, 0.0)
    losses = add(where(target == 1, sub(1.0, cos), zero), where(target == -1, maximum(sub(cos, margin), 0.0), zero))
    return _reduced("cosine_embedding_loss", losses, reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """max(0, -target (input1 - input2) + margin): input1 should rank higher where target = 1, input2 where -1."""
    return _reduced("margin_ranking_loss", maximum(add(mul(neg(target), sub(input1, input2)), margin), 0.0), reduction)


def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """ln(1 + e⁻ᵗˣ) for targets t = ±1."""
    return _reduced("soft_margin_loss", softplus(neg(mul(target, input)), threshold=math.inf), reduction)


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean") -> Tensor:
    """x where target = 1, max(0, margin - x) where target = -1."""
    zero = mul(input, 0.0)
    losses = add(where(target != 1, maximum(sub(margin, input), 0.0), zero), where(target != -1, input, zero))
    return _reduced("hinge_embedding_loss", losses, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Any, full: bool = False, eps: float = 1e-6, *, reduction: str = "mean"
) -> Tensor:
    """½ (ln v + (input - target)² / v), v = max(var, eps), whose limit has no gradient; plus ½ ln 2π with full=True."""
    v = var if isinstance(var, Tensor) else input.new_full(input.shape, var)
    if v.shape != input.shape:
        if input.shape[:-1] == v.shape:
            v = unsqueeze(v, -1)
        elif input.shape[:-1] != v.shape[:-1] or v.shape[-1] != 1:
            raise ValueError(f"gaussian_nll_loss: var of shape {v.shape} does not fit an input of shape {input.shape}")
    if (v.array < 0).any():
        raise ValueError("gaussian_nll_loss: var has a number below 0")
    v = add(v, maximum(sub(eps, v.detach()), 0.0))
    d = sub(input, target)
    losses = mul(add(log(v), div(mul(d, d), v)), 0.5)
    return _reduced("gaussian_nll_loss", add(losses, 0.5 * math.log(2 * math.pi)) if full else losses, reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    *,
    reduction: str = "mean",
) -> Tensor:
    """eˣ - t x, or x - t ln(x + eps) with log_input=False; full=True adds Stirling's t ln t - t + ½ ln 2πt where t > 1."""
    losses = sub(exp(input), mul(target, input)) if log_input else sub(input, mul(target, log(add(input, eps))))
    if full:
        t = where(target > 1, target, 1.0)
        stirling = add(sub(mul(t, log(t)), t), mul(log(mul(t, 2 * math.pi)), 0.5))
        losses = add(losses, where(target > 1, stirling, 0.0))
    return _reduced("poisson_nll_loss", losses, reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """max(0, ‖anchor - positive‖ - ‖anchor - negative‖ + margin); with swap the nearer of anchor and positive counts."""
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: margin is positive, not {margin}")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        from_positive = pairwise_distance(positive, negative, p, eps)
        far = where(far.detach() < from_positive.detach(), far, from_positive)
    return _reduced("triplet_margin_loss", maximum(add(sub(near, far), margin), 0.0), reduction)
