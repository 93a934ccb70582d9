"""Several LoRA layers of one input as one op, so that they may share work."""

from __future__ import annotations

import functools
import operator

from tinylora.op import op
from tinylora.ops.nn import lora_linear


@op
def lora_linears(xp, x, scales, *layers):
    """W, b, A, B of k layers in a row, and a tuple of k scales: k outputs yᵢ (.., outᵢ) = x Wᵢᵀ + bᵢ + sᵢ (x Aᵢ) Bᵢ.

    dL/dx = Σ of those of the layers      Wᵢ, bᵢ, Aᵢ, Bᵢ as in lora_linear, with gᵢ
    """
    each = [lora_linear.definition(xp, x, *layers[4 * i : 4 * i + 4], s) for i, s in enumerate(scales)]
    return gathered(xp, each, layers)


def gathered(xp, each, layers):
    """Outputs and vjps of lora_linears from those of `each` layer alone. What no output led to gets zeros."""
    d_xs = [vjps[0] for _, vjps in each]

    def d_x(g):  # from the last to the first, in the order in which the gradients of layers one by one add up
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
