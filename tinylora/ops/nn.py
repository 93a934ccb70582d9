"""The ops of a transformer, each with its gradient. (Reading path 2 of 6; next: tensor.py.)

Forward and backward of an op stand together and fit on a screen. Shapes: B batch, T tokens, C features, H heads,
D = C / H features per head, N rows of any kind, r the LoRA rank. `g` is dL/dy. Derivations: docs/derivations.md.
"""

from __future__ import annotations

import math

import numpy as np

from tinylora.backend import random_bits
from tinylora.op import once, op

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
        return rows(g).T @ rows(x)  # only this needs x: frozen W, and x is not kept

    def d_bias(g):
        return g

    return y.reshape(*shape[:-1], weight.shape[0]), (d_x, d_weight, d_bias)


@op
def lora_linear(xp, x, weight, bias, A, B, scale):
    """y = x Wᵀ + b + s (x A) B,  A (in, r), B (r, out).  Hu et al. 2021, "LoRA", equation 3.

    dL/dx = g W + s (g Bᵀ) Aᵀ      dL/dA = s xᵀ (g Bᵀ)      dL/dB = s (x A)ᵀ g
    """
    y, (d_x_linear, d_weight, d_bias) = linear.definition(xp, x, weight, bias)
    x_A = rows(x) @ A  # (N, r): all that r costs
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


@op
def embedding(xp, weight, ids):
    """y = W[ids],  W (vocabulary, C), ids integers of any shape.  dL/dW: each g is added to its row."""
    shape, dtype = weight.shape, weight.dtype

    def d_weight(g):
        d = xp.zeros(shape, dtype)
        xp.add.at(d, ids, g)
        return d

    return weight[ids], (d_weight, None)


# ------------------------------------------------------------------------------- activation and norm
@op
def gelu(xp, x):
    """Tanh GELU: y = x/2 · (1 + t),  t = tanh(√(2/π) (x + 0.044715 x³)).  Hendrycks & Gimpel 2016.

    dy/dx = (1 + t)/2 + x/2 · (1 - t²) · du/dx,  u the argument of tanh
    """
    t = xp.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x))

    def d_x(g):
        du = SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
        return g * 0.5 * (1 + t + x * (1 - t * t) * du)

    return 0.5 * x * (1 + t), (d_x,)


def mean(x):
    """Over the last axis, which stays, added up in float64 so that equal numbers have that number as mean; of none, 0."""
    return (x.sum(axis=-1, keepdims=True, dtype=np.float64) / (x.shape[-1] or 1)).astype(x.dtype)


@op
def layer_norm(xp, x, weight, bias, eps):
    """y = n w + b,  n = (x - mean) / √(variance + ε) over the last axis.  Ba, Kiros, Hinton 2016.

    dL/dx = (h - mean h - n · mean(h n)) / √(variance + ε),  h = g w      dL/dw = Σ g n      dL/db = Σ g
    """
    centred = x - mean(x)
    inverse = 1 / xp.sqrt(mean(centred * centred) + eps)  # a constant row: 1/√ε, finite
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
    """y = n w,  n = x / √(mean x² + ε) over the last axis.  Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".

    dL/dx = (h - n · mean(h n)) / √(mean x² + ε),  h = g w      dL/dw = Σ g n
    """
    inverse = 1 / xp.sqrt(mean(x * x) + eps)
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
    y = e / e.sum(axis=axis, keepdims=True)
    return y, (lambda g: y * (g - (g * y).sum(axis=axis, keepdims=True)),)


@op
def log_softmax(xp, x, axis):
    """y = x - log Σ eˣ.      dL/dx = g - eʸ Σ g"""
    z = shifted(xp, x, axis)
    y = z - xp.log(xp.exp(z).sum(axis=axis, keepdims=True))
    return y, (lambda g: g - xp.exp(y) * g.sum(axis=axis, keepdims=True),)


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
    total = w.sum() if reduction == "mean" else 1.0

    def d_logits(g):
        d = xp.exp(log_p)
        d[place] -= 1
        return d * xp.where(kept, g * w / total, 0.0)[:, None]

    return losses if reduction == "none" else losses.sum() / total, (d_logits, None, None)


# ----------------------------------------------------------------------------------------- attention
@op
def attention(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """y = (P ∘ M) v,  P = softmax(q kᵀ / √D + mask).  Vaswani et al. 2017, equation 1.

    q (B, H, T, D), k and v (B, Hkv, S, D), y (B, H, T, D). Each of the Hkv heads of keys and values is read by G = H / Hkv
    query heads (Ainslie et al. 2023, "GQA"): a group's queries stand side by side, (B, Hkv, G, T, D), and nothing is
    repeated. Causal: the last query sees all S keys, the one before it S - 1, and so on. mask, which broadcasts to
    (B, H, T, S), is boolean (what may be seen) or added to the scores. A query that sees nothing gives zeros. M is the
    dropout mask (all ones for p = 0).

    dL/dv = (P ∘ M)ᵀ g      dP = (g vᵀ) ∘ M      dS = P ∘ (dP - Σ dP ∘ P)      dL/dq = dS k / √D      dL/dk = dSᵀ q / √D
    """
    Hkv, scale = k.shape[-3], 1 / math.sqrt(q.shape[-1] or 1)

    def grouped(x):
        return x.reshape(*x.shape[:-3], Hkv, x.shape[-3] // (Hkv or 1), *x.shape[-2:])  # (B, H, ..) -> (B, Hkv, G, ..)

    def heads(x):
        return x.reshape(*x.shape[:-4], -1, *x.shape[-2:]) if x.size else x.reshape(*x.shape[:-4], q_heads, *x.shape[-2:])

    q_heads, q, k, v = q.shape[-3], grouped(q), k[..., None, :, :], v[..., None, :, :]
    scores = scale * (q @ k.swapaxes(-1, -2))  # (B, Hkv, G, T, D) (B, Hkv, 1, D, S) -> (B, Hkv, G, T, S)
    if mask is not None:
        mask = mask if mask.ndim < 3 else mask[..., None, :, :] if mask.shape[-3] == 1 else grouped(mask)
        scores = xp.where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask.astype(scores.dtype)
    if causal:
        future = ~xp.tri(*scores.shape[-2:], k.shape[-2] - q.shape[-2], dtype=bool)
        scores = xp.where(future, -math.inf, scores)
    P, (through_softmax,) = softmax.definition(xp, scores, axis=-1)
    if mask is not None:
        P, (through_softmax,) = unseen_as_zero(xp, scores, P)
    M = dropout_mask(xp, (*P.shape[:-4], q_heads, *P.shape[-2:]), p, key, P.dtype).reshape(P.shape) if p else 1.0

    d_scores = once(lambda g: scale * through_softmax((grouped(g) @ v.swapaxes(-1, -2)) * M))  # (B, Hkv, G, T, S)

    def d_q(g):
        return heads(d_scores(g) @ k)

    def d_k(g):
        return (d_scores(g).swapaxes(-1, -2) @ q).sum(axis=-3)  # over the group

    def d_v(g):
        return ((P * M).swapaxes(-1, -2) @ grouped(g)).sum(axis=-3)

    return heads((P * M) @ v), (d_q, d_k, d_v)


def unseen_as_zero(xp, scores, P):
    """Softmax P of scores, with zeros in rows of -∞ alone, where it is 0 / 0; and its vjp."""
    P = xp.where(xp.isneginf(scores), 0.0, P)
    return P, (lambda g: P * (g - (g * P).sum(axis=-1, keepdims=True)),)
