"""A Linear with its weight in 4 bits (NF4): 16 levels at quantiles of the normal distribution."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from tinylora.adapters.variants.quantized import QuantizedLinear
from tinylora.backend import Array, array_module

BLOCK = 64  # weights per scale
SCALES = 256  # scales per second-level scale
OFFSET = 0.9677083  # the outermost quantile: that of the paper's levels


def normal_float_levels() -> np.ndarray:
    """The 16 levels of NormalFloat, quantiles of N(0, 1) scaled to [-1, 1]: 7 below 0, 0 itself and 8 above it.

    Dettmers et al. 2023, "QLoRA", equation 4 and appendix E.

    >>> normal_float_levels()[[0, 1, 7, 8, 15]].round(4).tolist()
    [-1.0, -0.6962, 0.0, 0.0796, 1.0]
    """
    quantile = np.vectorize(NormalDist().inv_cdf)
    below, above = -quantile(np.linspace(OFFSET, 0.5, 8)[:-1]), quantile(np.linspace(0.5, OFFSET, 9)[1:])
    return np.concatenate([below, [0.0], above]) / above[-1]


LEVELS = normal_float_levels()
PAIRS = np.stack([np.repeat(LEVELS, 16), np.tile(LEVELS, 16)], 1)  # (256, 2): the two numbers that a byte stands for


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
        scale = _scales(xp, fine, step, mean)[:, None]
        bounds = xp.asarray((LEVELS[1:] + LEVELS[:-1]) / 2, dtype=weight.dtype)  # midpoints between levels
        codes = xp.searchsorted(bounds, blocks / xp.where(scale == 0, 1, scale)).astype("uint8").reshape(-1, 2)
        return {"codes": codes[:, 0] * 16 + codes[:, 1], "scales": fine, "steps": step, "mean": mean}

    def decode(self, xp: Any, *parts: Array) -> Array:
        codes, fine, step, mean = parts
        W = xp.asarray(PAIRS, dtype=step.dtype).take(codes, axis=0).reshape(-1, BLOCK)
        W *= _scales(xp, fine, step, mean)[:, None]
        return W.reshape(self.out_features, self.in_features)


def _scales(xp: Any, fine: Array, step: Array, mean: Array) -> Array:
    """The scales of the blocks, decoded from 8 bits."""
    return fine * xp.repeat(step, SCALES)[: len(fine)] + mean
