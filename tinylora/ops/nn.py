"""The ops of a transformer, each with its gradient. (Reading path 2 of 6; next: tensor.py.)

Forward and backward of an op stand together and fit on a screen. Shapes: B batch, T tokens, C features, H heads,
D = C / H features per head, N rows of any kind, r the LoRA rank. `g` is dL/dy. Derivations: docs/derivations.md.
"""

from __future__ import annotations

import math

import numpy as np

from tinylora.backend import random_bits, scatter_sum, total
from tinylora.op import every_dtype, once, op
from tinylora.ops.elementwise import sigmoid

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


# ------------------------------------------------------------------------------------------- linear
def rows(x):
    """x as a matrix: (.., C) -> (N, C)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


@op
def linear(xp, x, weight, bias=None):
    """y = x Wᵀ + b,  W (out, in).

    dL/dx = g W      dL/dW = gᵀ x      dL/db = Σ g
    """
    y = rows(x) @ weight.T  # (N, in) (in, out) -> (N, out)
    if bias is not None:
        y = y + bias
    shape = x.shape

    def d_x(g):
        return (rows(g) @ weight).reshape(shape)

    def d_weight(g):
        return rows(g).T @ rows(x)  # only d_weight needs x: with W frozen, x is not kept

    def d_bias(g):
        return g

    return y.reshape(*shape[:-1], weight.shape[0]), (d_x, d_weight, d_bias)


@op
def lora_linear(xp, x, weight, bias, A, B, scale):
    """y = x Wᵀ + b + s (x A) B,  A (in, r), B (r, out).  Hu et al. 2021, "LoRA", equation 3.

    dL/dx = g W + s (g Bᵀ) Aᵀ      dL/dA = s xᵀ (g Bᵀ)      dL/dB = s (x A)ᵀ g
    """
    y, (d_x_linear, d_weight, d_bias) = linear.definition(xp, x, weight, bias)
    x_A = rows(x) @ A  # (N, r)
    y = y + (scale * (x_A @ B)).reshape(y.shape)
    g_B = once(lambda g: scale * (rows(g) @ B.T))  # (N, r)
    shape = x.shape

    def d_x(g):
        return d_x_linear(g) + (g_B(g) @ A.T).reshape(shape)

    def d_A(g):
        return rows(x).T @ g_B(g)

    def d_B(g):
        return scale * (x_A.T @ rows(g))

    return y, (d_x, d_weight, d_bias, d_A, d_B, None)


@every_dtype
def embedding(xp, weight, ids):
    """y = W[ids],  W (vocabulary, C), ids integers of any shape.  dL/dW: each g is added to its row."""
    shape, dtype = weight.shape, weight.dtype

    def d_weight(g):
        return scatter_sum(shape, ids, g).astype(dtype, copy=False)

    return weight[ids], (d_weight, None)


# ------------------------------------------------------------------------------- activation and norm
@op
def gelu(xp, x):
    """Tanh GELU: y = x/2 · (1 + t),  t = tanh(√(2/π) (x + 0.044715 x³)).  Hendrycks & Gimpel 2016.

    dy/dx = (1 + t)/2 + x/2 · (1 - t²) · du/dx,  u the argument of tanh
    """
    c = xp.minimum(xp.maximum(x, -10.0), 10.0)  # beyond, t is ±1, and x³ would overflow
    t = xp.tanh(SQRT_2_OVER_PI * (c + 0.044715 * c * c * c))

    def d_x(g):
        du = SQRT_2_OVER_PI * (1 + 3 * 0.044715 * c * c)
        return g * 0.5 * (1 + t + c * (1 - t * t) * du)

    return 0.5 * x * (1 + t), (d_x,)


@op
def swiglu(xp, gate, up):
    """y = u s v,  u the gate, s = sigmoid u, v = up: silu(gate) ∘ up.  Shazeer 2020, "GLU variants", equation 6.

    dL/du = g v s (1 + u (1 - s))      dL/dv = g u s
    """
    s, _ = sigmoid.definition(xp, gate)

    def d_gate(g):
        return g * up * s * (1 + gate * (1 - s))

    def d_up(g):
        return g * gate * s

    return gate * s * up, (d_gate, d_up)


def mean(x):
    """Mean over the last axis, kept as size 1; summed in float64 so that equal numbers have exact means; 0 if empty."""
    return (x.sum(axis=-1, keepdims=True, dtype=np.float64) / (x.shape[-1] or 1)).astype(x.dtype)


def inverse_root(xp, x, eps):
    """1 / √(mean x² + ε) over the last axis, kept as size 1. The squares are float64: in float32 they may overflow."""
    return (1 / xp.sqrt(mean(xp.square(x.astype(np.float64))) + eps)).astype(x.dtype)


@op
def layer_norm(xp, x, weight, bias, eps):
    """y = n w + b,  n = (x - mean) / √(variance + ε) over the last axis.  Ba, Kiros, Hinton 2016.

    dL/dx = (h - mean h - n · mean(h n)) / √(variance + ε),  h = g w      dL/dw = Σ g n      dL/db = Σ g
    """
    centred = x - mean(x)
    inverse = inverse_root(xp, centred, eps)  # 1 / √(variance + ε); a constant row: 1/√ε, finite
    n = centred * inverse

    def d_x(g):
        h = g * weight
        return inverse * (h - mean(h) - n * mean(h * n))

    def d_weight(g):
        return g * n

    def d_bias(g):
        return g

    return n * weight + bias, (d_x, d_weight, d_bias)


@op
def rms_norm(xp, x, weight, eps):
    """y = n w,  n = x / √(mean x² + ε) over the last axis.  Zhang & Sennrich 2019, equation 4.

    dL/dx = (h - n · mean(h n)) / √(mean x² + ε),  h = g w      dL/dw = Σ g n
    """
    inverse = inverse_root(xp, x, eps)
    n = x * inverse

    def d_x(g):
        h = g * weight
        return inverse * (h - n * mean(h * n))

    def d_weight(g):
        return g * n

    return n * weight, (d_x, d_weight)


@op
def dropout(xp, x, p, key):
    """y = x m / (1 - p),  m = 1 with probability 1 - p, drawn from `key`: the same key gives the same mask.

    dL/dx = g m / (1 - p)
    """
    scaled_mask = dropout_mask(xp, x.shape, p, key, x.dtype)
    return x * scaled_mask, (lambda g: g * scaled_mask, None, None)


def dropout_mask(xp, shape, p, key, dtype):
    """m / (1 - p), the factors 0 and 1 / (1 - p) of dropout."""
    if p == 1:
        return xp.zeros(shape, dtype)
    kept = random_bits(xp, shape, key) >= np.uint64(int(p * 2**64))
    return kept.astype(dtype) * (1 / (1 - p))


# -------------------------------------------------------------------------------- softmax and losses
def shifted(xp, x, axis):
    """x - max x: the softmax is the same, and no exponential overflows."""
    return x - x.max(axis=axis, keepdims=True) if x.size else x


@op
def softmax(xp, x, axis):
    """y = eˣ / Σ eˣ.      dL/dx = y (g - Σ g y)"""
    e = xp.exp(shifted(xp, x, axis))
    y = e / total(e, axis, keepdims=True)
    return y, (lambda g: y * (g - total(g * y, axis, keepdims=True)),)


@op
def log_softmax(xp, x, axis):
    """y = x - log Σ eˣ.      dL/dx = g - eʸ Σ g"""
    z = shifted(xp, x, axis)
    y = z - xp.log(total(xp.exp(z), axis, keepdims=True))
    return y, (lambda g: g - xp.exp(y) * total(g, axis, keepdims=True),)


@op
def cross_entropy(xp, logits, target, weight=None, ignore_index=-100, reduction="mean"):
    """L = Σ ℓᵢ / Σ wᵢ,  ℓᵢ = -wᵢ log softmax(zᵢ)[tᵢ],  logits z (N, classes), target t (N,), wᵢ = weight[tᵢ] or 1.

    dℓᵢ/dzᵢ = wᵢ (softmax(zᵢ) - onehot(tᵢ)).  Rows whose target is `ignore_index` have wᵢ = 0. "sum" does not divide,
    "none" returns ℓ (N,).
    """
    log_p, _ = log_softmax.definition(xp, logits, axis=-1)
    kept = target != ignore_index
    place = (xp.arange(len(target)), xp.where(kept, target, 0))  # of each row's target class
    w = kept.astype(logits.dtype) if weight is None else xp.where(kept, weight[place[1]], 0.0)
    losses = xp.where(kept, -w * log_p[place], 0.0)
    count = total(w) if reduction == "mean" else 1.0

    def d_logits(g):
        d = xp.exp(log_p)
        d[place] -= 1
        return d * xp.where(kept, g * w / count, 0.0)[:, None]

    return losses if reduction == "none" else total(losses) / count, (d_logits, None, None)


@op
def linear_cross_entropy(xp, x, weight, target, ignore_index=-100, d_x_too=True):
    """L = the mean cross-entropy of the logits x Wᵀ,  x (N, C), W (classes, C), target (N,): a head and its loss in one.

    dL/dx = dz W      dL/dW = dzᵀ x      dz = dL/dlogits, see `cross_entropy`. Tuned versions never hold all logits, and may
    work out dL/dx together with L: so `d_x_too` says whether it will be asked for.
    """
    logits, (through_x, through_weight, _) = linear.definition(xp, x, weight)  # (N, classes)
    loss, (through_logits, *_) = cross_entropy.definition(xp, logits, target, ignore_index=ignore_index)
    d_logits = once(through_logits)

    def d_x(g):
        return through_x(d_logits(g))

    def d_weight(g):
        return through_weight(d_logits(g))

    return loss, (d_x if d_x_too else None, d_weight, None)


# ----------------------------------------------------------------------------------------- attention
@op
def attention(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """y = (P ∘ M) v,  P = softmax(q kᵀ / √D).  Vaswani et al. 2017, equation 1.

    q (B, H, T, D), k and v (B, H_kv, S, D), y (B, H, T, D). With fewer key heads, H = G · H_kv, query head h reads key
    head h // G (Ainslie et al. 2023, "GQA"). Causal: the last query sees all S keys, the one before it S - 1, and so on.
    `mask`, which broadcasts to (B, H, T, S), is boolean (True: may be seen) or is added to the scores. A query that sees
    no key gets y = 0. M is the dropout mask (all ones for p = 0).

    dL/dv = (P ∘ M)ᵀ g      dP = (g vᵀ) ∘ M      dS = P ∘ (dP - Σ dP ∘ P)      dL/dq = dS k / √D      dL/dk = dSᵀ q / √D
    with dL/dk and dL/dv summed over the G query heads
    """
    G = max(1, q.shape[-3] // (k.shape[-3] or 1))
    k, v = k[..., None, :, :], v[..., None, :, :]  # (B, H_kv, S, D) -> (B, H_kv, 1, S, D)

    def grouped(x):  # (B, H, T, n) -> (B, H_kv, G, T, n)
        return x.reshape(*x.shape[:-3], x.shape[-3] // G, G, *x.shape[-2:])

    def joined(x):  # and back
        return x.reshape(*x.shape[:-4], x.shape[-4] * x.shape[-3], *x.shape[-2:])

    scale = 1 / math.sqrt(q.shape[-1] or 1)
    scores = scale * joined(grouped(q) @ k.swapaxes(-1, -2))  # (B, H, T, S)
    if causal:
        future = ~xp.tri(*scores.shape[-2:], k.shape[-2] - q.shape[-2], dtype=bool)
        scores = xp.where(future, -math.inf, scores)
    if mask is not None:
        scores = xp.where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
    sees = (scores > -math.inf).any(axis=-1, keepdims=True)  # (B, H, T, 1)
    P = sees * softmax.definition(xp, xp.maximum(scores, np.finfo(scores.dtype).min), axis=-1)[0]
    M = dropout_mask(xp, P.shape, p, key, P.dtype) if p else 1.0

    @once
    def d_scores(g):
        dP = M * joined(grouped(g) @ v.swapaxes(-1, -2))  # (B, H, T, S)
        return scale * P * (dP - total(dP * P, -1, keepdims=True))

    def d_q(g):
        return joined(grouped(d_scores(g)) @ k)

    def d_k(g):
        return (grouped(d_scores(g)).swapaxes(-1, -2) @ grouped(q)).sum(axis=-3)

    def d_v(g):
        return (grouped(P * M).swapaxes(-1, -2) @ grouped(g)).sum(axis=-3)

    return joined(grouped(P * M) @ v), (d_q, d_k, d_v)
