"""Layers of one input as one op, for what they share."""

from __future__ import annotations

import functools

from tinylora.op import op
from tinylora.ops.nn import lora_linear


@op
def lora_linears(xp, x, scale, *layers):
    """k layers, W, b, A, B of each: y (.., k, out) with y[.., i, :] = x Wᵢᵀ + bᵢ + s (x Aᵢ) Bᵢ.

    dL/dx = Σ of those of the layers      Wᵢ, bᵢ, Aᵢ, Bᵢ as in lora_linear, with g[.., i, :]
    """
    each = [lora_linear.definition(xp, x, *layers[i : i + 4], scale) for i in range(0, len(layers), 4)]

    def d_x(g):
        return sum(vjps[0](g[..., i, :]) for i, (_, vjps) in enumerate(each))

    def of_layer(i, vjp):
        @functools.wraps(vjp)
        def of_part(g):
            return vjp(g[..., i, :])

        return of_part

    others = [of_layer(i, vjp) for i, (_, vjps) in enumerate(each) for vjp in vjps[1:5]]
    return xp.stack([y for y, _ in each], axis=-2), (d_x, None, *others)
