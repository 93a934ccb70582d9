"""Products with a quantised weight, which is dequantised for each product and not kept."""

from __future__ import annotations

import functools

import numpy as np

from tinylora.op import op
from tinylora.ops.nn import rows

NF4_BLOCK = 64  # weights per scale
NF4_SCALES = 256  # scales per second-level scale
OFFSET = 0.9677083  # the outermost quantile: that of the paper's levels


@functools.cache
def normal_float_levels() -> np.ndarray:
    """The 16 levels of NormalFloat, quantiles of N(0, 1) scaled to [-1, 1]: 7 below 0, 0 itself and 8 above it.

    Dettmers et al. 2023, "QLoRA", equation 4 and appendix E.

    >>> normal_float_levels()[[0, 1, 7, 8, 15]].round(4).tolist()
    [-1.0, -0.6962, 0.0, 0.0796, 1.0]
    """
    from statistics import NormalDist  # here, since it takes a tenth of what `import tinylora` does

    quantile = np.vectorize(NormalDist().inv_cdf)
    below, above = -quantile(np.linspace(OFFSET, 0.5, 8)[:-1]), quantile(np.linspace(0.5, OFFSET, 9)[1:])
    return np.concatenate([below, [0.0], above]) / above[-1]


@functools.cache
def _pairs() -> np.ndarray:
    """(256, 2): the two levels that a byte stands for."""
    levels = normal_float_levels()
    return np.stack([np.repeat(levels, 16), np.tile(levels, 16)], 1)


@op
def nf4_weight(xp, codes, scales, steps, mean, shape):
    """Ŵ = s ∘ L[c],  c 4-bit codes, two to a byte, the first in the high half; s = scales · steps + mean.

    A scale, 8 bits, for each block of 64 weights, a step, (n, 1), for 256 scales, and one mean: Dettmers et al. 2023,
    "QLoRA", sections 2 and 3. Ŵ has the dtype of the steps. Constants: no vjps.
    """
    W = xp.asarray(_pairs(), dtype=steps.dtype).take(codes, axis=0).reshape(-1, NF4_BLOCK)
    W *= nf4_scales(xp, scales, steps, mean)[:, None]
    return W.reshape(shape), (None,) * 5


def nf4_scales(xp, scales, steps, mean):
    """The scales of the blocks, decoded from 8 bits."""
    return scales * xp.repeat(steps, NF4_SCALES)[: len(scales)] + mean


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
