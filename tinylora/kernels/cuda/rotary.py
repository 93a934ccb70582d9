"""Rotary embedding on a GPU: one pass, 16 bytes per thread at a time, from and to any layout of heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.again import is_spare
from tinylora.kernels.cuda.compile import NAMES, blocks, kernel, packs


@ops.rope.tune("cupy")
def rope(xp, x, cos, sin):
    """Keeps cos and sin. y is laid out (B, T, H, D). A gradient that nobody else reads is turned in place.

    Declines angles that are not float32 or differ from head to head, and halves of a head that do not fill 16-byte packs.
    """
    if x.ndim != 4 or not x.size or x.dtype not in NAMES or not cos.dtype == sin.dtype == np.float32:
        return NotImplemented
    (B, H, T, D), pack = x.shape, 16 // x.itemsize
    lanes = D // pack if D // pack in (2, 4, 8, 16, 32) else 0
    if D % (2 * pack) or x.size >= 2**31 or cos.shape != sin.shape or (cos.ndim > 2 and cos.shape[-3] != 1):
        return NotImplemented
    cos, sin = (xp.ascontiguousarray(a) for a in (cos, sin))
    try:
        angles = xp.broadcast_to(cos, (B, 1, T, D // 2)).strides
    except ValueError:
        return NotImplemented
    if angles[3] != 4:
        return NotImplemented

    def turned(x: Any, turn: float, in_place: bool = False) -> Any:
        x = x if _fits(x) else x.copy(order="C")
        y = x if in_place else xp.empty((B, T, H, D), x.dtype).transpose(0, 2, 1, 3)
        steps = [s // a.itemsize for a in (x, y) for s in a.strides[:3]]
        arguments = x, cos, sin, y, packs(x), H, T, D, *steps, angles[0] // 4, angles[2] // 4, turn
        kernel("rotary", "rope", x.dtype, LANES=lanes)(*blocks(packs(x)), arguments)
        return y

    def d_x(g):
        return turned(g, -1.0, is_spare(g) and _fits(g) and lanes > 0)

    return turned(x, 1.0), (d_x, None, None)


def _fits(x: Any) -> bool:
    """Whether each head's features are contiguous and 16-byte aligned, and no two elements share memory."""
    aligned = all(s % 16 == 0 and s > 0 for s in x.strides[:-1]) and x.data.ptr % 16 == 0
    return x.strides[-1] == x.itemsize and aligned
