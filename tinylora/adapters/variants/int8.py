"""A Linear with its weight in 8 bits, one scale per output."""

from __future__ import annotations

from typing import Any

from tinylora.adapters.variants.quantized import QuantizedLinear
from tinylora.backend import Array, array_module


class Int8Linear(QuantizedLinear):
    """Ŵ = s ∘ C,  C = round(W / s) in -127..127,  s = max |W| / 127 of each row, that is of each output.

    Dettmers et al. 2022, "LLM.int8()", section 2.1, absmax quantisation, with the row-wise scales of section 3.1.

    >>> from tinylora import nn
    >>> layer = Int8Linear(nn.Linear(768, 768))
    >>> layer.codes.dtype, round(8 * layer.nbytes / 768**2, 2)  # bits for a number
    (dtype('int8'), 8.04)
    """

    def encode(self, weight: Array) -> dict[str, Array]:
        xp = array_module(weight)
        scales = abs(weight).max(axis=1, keepdims=True) / 127  # (out, 1)
        codes = xp.rint(weight / xp.where(scales == 0, 1, scales)).astype("int8")
        return {"codes": codes, "scales": scales.astype(weight.dtype)}

    def decode(self, xp: Any, *parts: Array) -> Array:
        codes, scales = parts
        return codes * scales
