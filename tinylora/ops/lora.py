"""LoRA with dropout as one op, and several LoRA layers of one input as one, so that they may share work."""

from __future__ import annotations

import functools
import operator

from tinylora.op import once, op
from tinylora.ops.nn import dropout_mask, linear, lora_linear, rows


@op
def dropout_lora_linear(xp, x, weight, bias, A, B, scale, p, key):
    """y = x Wᵀ + b + s (M ∘ x) A B,  M the mask that `dropout` draws from `key`, of zeros with probability p.

    dL/dx = g W + M ∘ (s (g Bᵀ) Aᵀ)      dL/dA = s (M ∘ x)ᵀ (g Bᵀ)      dL/dB = s ((M ∘ x) A)ᵀ g
    """
    y, (d_x_linear, d_weight, d_bias) = linear.definition(xp, x, weight, bias)
    M, shape = dropout_mask(xp, x.shape, p, key, x.dtype), x.shape
    x_A = rows(x * M) @ A  # (N, r)
    g_B = once(lambda g: scale * (rows(g) @ B.T))  # (N, r)

    def d_x(g):
        return d_x_linear(g) + M * (g_B(g) @ A.T).reshape(shape)

    def d_A(g):
        return rows(x * M).T @ g_B(g)

    def d_B(g):
        return scale * (x_A.T @ rows(g))

    return y + (scale * (x_A @ B)).reshape(y.shape), (d_x, d_weight, d_bias, d_A, d_B, None, None, None)


@op
def lora_linears(xp, x, scales, *layers):
    """W, b, A, B of k layers in a row, and a tuple of k scales: k outputs yᵢ (.., outᵢ) = x Wᵢᵀ + bᵢ + sᵢ (x Aᵢ) Bᵢ.

    dL/dx = Σ of those of the layers      Wᵢ, bᵢ, Aᵢ, Bᵢ as in lora_linear, with gᵢ
    """
    each = [lora_linear.definition(xp, x, *layers[4 * i : 4 * i + 4], s) for i, s in enumerate(scales)]
    return gathered(xp, each, layers)


def gathered(xp, each, layers):
    """Outputs and vjps of lora_linears from those of `each` layer. Layers whose output was not used get zeros."""
    d_xs = [vjps[0] for _, vjps in each]

    def d_x(g):  # last to first: the order in which gradients of separate layers are added
        return functools.reduce(operator.add, [d_xs[i](g[i]) for i in sorted(g, reverse=True)])

    def of_layer(i, vjp, parameter):
        shape, dtype = getattr(parameter, "shape", ()), getattr(parameter, "dtype", None)

        @functools.wraps(vjp)
        def of_output(g):
            return vjp(g[i]) if i in g else xp.zeros(shape, dtype)

        return of_output

    parameters = iter(layers)
    others = [of_layer(i, vjp, next(parameters)) for i, (_, vjps) in enumerate(each) for vjp in vjps[1:5]]
    return tuple(y for y, _ in each), (d_x, None, *others)
