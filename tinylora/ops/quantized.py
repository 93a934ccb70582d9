"""Products with a quantised weight, which is dequantised for each product and not kept."""

from __future__ import annotations

from tinylora.op import op
from tinylora.ops.nn import rows


@op
def quantized_linear(xp, x, bias, *parts, weight):
    """y = x Ŵᵀ + b,  Ŵ = weight(xp, *parts) of shape (out, in).  Dettmers et al. 2023, "QLoRA", equation 5.

    dL/dx = g Ŵ, for which Ŵ is formed again      dL/db = Σ g      The parts are constants.
    """
    shape = x.shape
    y = rows(x) @ weight(xp, *parts).T.astype(x.dtype, copy=False)  # (N, in) (in, out) -> (N, out)
    if bias is not None:
        y = y + bias

    def d_x(g):
        return (rows(g) @ weight(xp, *parts).astype(g.dtype, copy=False)).reshape(shape)

    def d_bias(g):
        return g

    return y.reshape(*shape[:-1], y.shape[-1]), (d_x, d_bias, *[None] * len(parts))
