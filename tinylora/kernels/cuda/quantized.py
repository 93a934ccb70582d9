"""NF4 weights on a GPU: dequantised in one pass, for one product at a time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.again import cheap
from tinylora.kernels.cuda.compile import NAMES, blocks, kernel, ready
from tinylora.ops.quantized import NF4_BLOCK, normal_float_levels


@ops.nf4_weight.tune("cupy")
def nf4_weight(xp, codes, scales, steps, mean, shape):
    """The weight is cheap to compute again, so that a LoRA layer around it does not keep it for backward."""
    size = 2 * codes.size
    fits = codes.dtype == np.uint8 and scales.dtype == np.int8 and steps.dtype == mean.dtype and steps.dtype in NAMES
    if not fits or not size or size % NF4_BLOCK or scales.size * NF4_BLOCK != size:
        return NotImplemented
    parts = [ready(xp, part) for part in (codes, scales, steps, mean)]

    def weight(_: Any = None) -> Any:
        y, threads = xp.empty(shape, steps.dtype), size // 16
        arguments = *parts, _levels(xp, xp.cuda.device.get_device_id()), y, threads
        kernel("nf4", "nf4_weight", steps.dtype)(*blocks(threads), arguments)
        return y

    return cheap(weight(), weight), (None,) * 5


@functools.cache
def _levels(xp: Any, device: int) -> Any:
    return xp.asarray(normal_float_levels(), np.float32)
