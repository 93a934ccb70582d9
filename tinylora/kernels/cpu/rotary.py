"""Rotary embedding as a complex product, in blocks of tokens."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.kernels.cpu.blocks import in_blocks
from tinylora.kernels.cpu.linear import plain


@ops.rope.tune("numpy")
def rope(xp, x, cos, sin):
    """(x₁ + i x₂) (cos + i sin). Keeps only the table. Declines tables without a row for each token."""
    if not plain(x, cos, sin) or x.ndim != 4 or not x.size or x.shape[3] % 2:
        return NotImplemented
    if cos.shape != sin.shape or not 2 <= cos.ndim <= 4 or cos.shape[-2:] != (x.shape[2], x.shape[3] // 2):
        return NotImplemented
    table = np.empty(cos.shape, np.result_type(x, np.complex64))
    table.real, table.imag = cos, sin
    table = table.reshape((1,) * (4 - table.ndim) + table.shape)
    return turned(x, table), (lambda g: turned(g, table.conj()), None, None)


def turned(x, table):
    """Multiply each pair of features of x (B, H, T, D), as a complex number, by its entry of `table`."""
    y, half = np.empty_like(x), x.shape[3] // 2  # in x's memory layout
    source, result, table = (a.transpose(2, 0, 1, 3) for a in (x, y, table))  # (T, B, H, D)

    def work(t, pairs):
        pairs.real, pairs.imag = source[t, ..., :half], source[t, ..., half:]
        pairs *= table[t]
        result[t, ..., :half], result[t, ..., half:] = pairs.real, pairs.imag

    in_blocks(work, (*source.shape[:3], half), table.dtype, buffers=1)
    return y
