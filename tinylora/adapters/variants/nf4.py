"""A Linear with its weight in 4 bits (NF4): 16 levels at quantiles of the normal distribution."""

from __future__ import annotations

from typing import Any

from tinylora import ops
from tinylora.adapters.variants.quantized import QuantizedLinear
from tinylora.backend import Array, array_module
from tinylora.ops.quantized import NF4_BLOCK as BLOCK
from tinylora.ops.quantized import NF4_SCALES as SCALES
from tinylora.ops.quantized import nf4_scales, normal_float_levels

LEVELS = normal_float_levels()


class NF4Linear(QuantizedLinear):
    """Ŵ = s ∘ L[c]: 4-bit codes c of the nearest level, two to a byte, and s = max |W| of each block of 64 weights.

    The scales themselves are kept in 8 bits, less their mean and in blocks of 256 ("double quantisation"). Dettmers et al.
    2023, "QLoRA", sections 2 and 3. Raises ValueError for a weight whose size is not a multiple of 64.

    >>> from tinylora import nn
    >>> layer = NF4Linear(nn.Linear(768, 768))
    >>> round(8 * layer.nbytes / 768**2, 2)  # bits for a number
    4.13
    """

    def encode(self, weight: Array) -> dict[str, Array]:
        if weight.size % BLOCK:
            raise ValueError(f"a weight of shape {weight.shape} cannot be cut into blocks of {BLOCK}")
        xp = array_module(weight)
        blocks = weight.reshape(-1, BLOCK)
        top = abs(blocks).max(axis=1)  # (blocks,)
        mean = top.mean(keepdims=True)
        rest = xp.zeros(-(-len(top) // SCALES) * SCALES, weight.dtype)
        rest[: len(top)] = top - mean
        rest = rest.reshape(-1, SCALES)
        step = abs(rest).max(axis=1, keepdims=True) / 127
        fine = xp.rint(rest / xp.where(step == 0, 1, step)).astype("int8").reshape(-1)[: len(top)]
        scale = nf4_scales(xp, fine, step, mean)[:, None]
        bounds = xp.asarray((LEVELS[1:] + LEVELS[:-1]) / 2, dtype=weight.dtype)  # midpoints between levels
        codes = xp.searchsorted(bounds, blocks / xp.where(scale == 0, 1, scale)).astype("uint8").reshape(-1, 2)
        return {"codes": codes[:, 0] * 16 + codes[:, 1], "scales": fine, "steps": step, "mean": mean}

    def decode(self, xp: Any, *parts: Array) -> Array:
        return ops.nf4_weight(*parts, (self.out_features, self.in_features))[0]
