"""The number formats of GGUF: how the bytes of each are laid out, and how they become float32.

A tensor is a row of blocks; a block holds `length` numbers with their common scale(s). In a block of 32, byte i of `q` has
number i in its lower four bits and number i + 16 in its upper four; a fifth bit stands in `high`. A block of 256 (Q4_K and
Q6_K) has smaller blocks inside, whose own scales are whole numbers times the block's `d`. The layouts and formulas are those
of ggml-common.h and ggml-quants.c in https://github.com/ggml-org/ggml, and so are the results, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinylora.formats.safetensors import widened


class Block(NamedTuple):
    """`length` numbers are stored as one item of `dtype`; `write(blocks, out)` puts them as float32 into out (n, length)."""

    length: int
    dtype: np.dtype
    write: Callable[[np.ndarray, np.ndarray], None]

    def finite(self, blocks: np.ndarray, out: np.ndarray) -> bool:
        """Are all numbers of `blocks`, written to `out`, finite? In a quantised block they are if the scales are."""
        if self.dtype.names is None:
            return bool(np.isfinite(out).all())
        return all(np.isfinite(blocks[name]).all() for name in self.dtype.names if blocks[name].dtype.kind == "f")


def _plain(b: np.ndarray, out: np.ndarray) -> None:
    out[:, 0] = b


def _bf16(b: np.ndarray, out: np.ndarray) -> None:
    out[:, 0] = widened(b)


def _halves(b: np.ndarray, out: np.ndarray) -> None:
    """The four-bit numbers of blocks of 32."""
    np.bitwise_and(b["q"], 15, out=out[:, :16], casting="unsafe")
    np.right_shift(b["q"], 4, out=out[:, 16:], casting="unsafe")


def _with_fifth_bit(b: np.ndarray, out: np.ndarray) -> None:
    low = np.concatenate([b["q"] & 15, b["q"] >> 4], axis=1)  # (n, 32)
    high = np.unpackbits(b["high"], axis=1, bitorder="little")  # (n, 4) -> (n, 32)
    out[:] = low | high << 4


def _q4_0(b: np.ndarray, out: np.ndarray) -> None:
    _halves(b, out)
    out -= 8
    out *= _column(b["d"])


def _q4_1(b: np.ndarray, out: np.ndarray) -> None:
    _halves(b, out)
    out *= _column(b["d"])
    out += _column(b["m"])


def _q5_0(b: np.ndarray, out: np.ndarray) -> None:
    _with_fifth_bit(b, out)
    out -= 16
    out *= _column(b["d"])


def _q5_1(b: np.ndarray, out: np.ndarray) -> None:
    _with_fifth_bit(b, out)
    out *= _column(b["d"])
    out += _column(b["m"])


def _q8_0(b: np.ndarray, out: np.ndarray) -> None:
    np.multiply(b["q"], _column(b["d"]), out=out)


def _q4_k(b: np.ndarray, out: np.ndarray) -> None:
    """Eight blocks of 32, each with a scale and a minimum of six bits: the first four plain, the last four in pieces."""
    scale, least, rest = b["s"][:, :4], b["s"][:, 4:8], b["s"][:, 8:]
    scales = np.concatenate([scale & 63, rest & 15 | scale >> 2 & 48], axis=1)  # (n, 8)
    minima = np.concatenate([least & 63, rest >> 4 | least >> 2 & 48], axis=1)
    q, groups = b["q"].reshape(-1, 4, 32), out.reshape(-1, 4, 2, 32)
    groups[:, :, 0], groups[:, :, 1] = q & 15, q >> 4
    groups *= (_column(b["d"]) * scales).reshape(-1, 4, 2, 1)
    groups -= (_column(b["m"]) * minima).reshape(-1, 4, 2, 1)


def _q6_k(b: np.ndarray, out: np.ndarray) -> None:
    """Sixteen blocks of 16 with a scale of eight bits; of each number four bits stand in `q` and two in `high`."""
    q, high, groups = b["q"].reshape(-1, 2, 64), b["high"].reshape(-1, 2, 32), out.reshape(-1, 2, 2, 2, 32)
    for i in range(2):  # the lower four bits, the upper four
        low = (q >> 4 * i & 15).reshape(-1, 2, 2, 32)
        for j in range(2):
            groups[:, :, i, j] = low[:, :, j] | (high >> 2 * (2 * i + j) & 3) << 4
    out -= 32
    small = out.reshape(-1, 16, 16)
    small *= (_column(b["d"]) * b["s"])[:, :, None]


def _column(scale: np.ndarray) -> np.ndarray:
    return scale.astype(np.float32)[:, None]  # (n,) -> (n, 1)


def _dtype(*fields: tuple) -> np.dtype:
    return np.dtype(list(fields))


BLOCKS = {
    "F32": Block(1, np.dtype("<f4"), _plain),
    "F16": Block(1, np.dtype("<f2"), _plain),
    "BF16": Block(1, np.dtype("<u2"), _bf16),
    "Q4_0": Block(32, _dtype(("d", "<f2"), ("q", "u1", 16)), _q4_0),
    "Q4_1": Block(32, _dtype(("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)), _q4_1),
    "Q5_0": Block(32, _dtype(("d", "<f2"), ("high", "u1", 4), ("q", "u1", 16)), _q5_0),
    "Q5_1": Block(32, _dtype(("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("q", "u1", 16)), _q5_1),
    "Q8_0": Block(32, _dtype(("d", "<f2"), ("q", "i1", 32)), _q8_0),
    "Q4_K": Block(256, _dtype(("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("q", "u1", 128)), _q4_k),
    "Q6_K": Block(256, _dtype(("q", "u1", 128), ("high", "u1", 64), ("s", "i1", 16), ("d", "<f2")), _q6_k),
}
