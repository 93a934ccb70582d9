"""Angles of the rotary position embedding, and their scaling for long contexts.

Pair i of a head's D features turns by position · base^(-2i/D): the first pairs fast, the last ones slowly. Su et al. 2021,
"RoFormer". The rotation itself is the op `rope`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from tinylora.backend import Array, array_module, to_device
from tinylora.models.config import check_choice, check_number, check_size
from tinylora.tensor import Tensor

KINDS = ("linear", "llama3")


@dataclass(frozen=True)
class RopeScaling:
    """Scales angles down so that a model can read longer texts than it was first trained on.

    "linear" divides all by `factor` (Chen et al. 2023, "Extending Context Window .. via Positional Interpolation"). "llama3"
    divides those with a wavelength over original_context / low_freq_factor tokens, keeps those with a wavelength below
    original_context / high_freq_factor, and interpolates in between. Raises ValueError that names the entry.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        check_choice("rope scaling kind", self.kind, KINDS)
        check_number("rope scaling factor", self.factor, low=1.0)
        check_number("low_freq_factor", self.low_freq_factor, low=1e-6)
        check_number("high_freq_factor", self.high_freq_factor, low=1e-6)
        check_size("original_context", self.original_context)
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(f"low_freq_factor must be below high_freq_factor, not {self.low_freq_factor}")


@functools.lru_cache(maxsize=16)
def frequencies(head_dim: int, base: float, scaling: RopeScaling | None) -> np.ndarray:
    """Radians per position of each pair, (D / 2,), in float32 as transformers computes them."""
    exponents = np.arange(0, head_dim, 2, dtype=np.int64).astype(np.float32) / np.float32(head_dim)
    found = (np.float32(1.0) / np.power(np.float32(base), exponents)).astype(np.float32)
    if scaling is None:
        return found
    if scaling.kind == "linear":
        return found / np.float32(scaling.factor)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = np.float32(scaling.original_context) * found / np.float32(2 * math.pi)  # turns within the original context
    smooth = np.clip((turns - np.float32(low)) / np.float32(high - low), 0, 1)  # 0 for slow pairs, 1 for fast ones
    return ((1 - smooth) * (found / np.float32(scaling.factor)) + smooth * found).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _on_device(device: str, head_dim: int, base: float, scaling: RopeScaling | None) -> Array:
    """`frequencies`, sent to a device once: a CUDA graph that is being captured cannot be sent anything."""
    return to_device(frequencies(head_dim, base, scaling), device)


def rotary_tables(positions: Tensor, head_dim: int, base: float, scaling: RopeScaling | None) -> tuple[Tensor, Tensor]:
    """cos and sin of every pair's angle at positions (T,) or (B, T): each (1 or B, 1, T, D / 2), in float32."""
    xp = array_module(positions.array)
    per_position = _on_device(str(positions.device), head_dim, base, scaling)
    at = positions.array.astype(np.float32)
    angles = at.reshape(-1, 1, at.shape[-1], 1) * per_position  # (1 or B, 1, T, D / 2)
    wide = angles.astype(np.float64)  # so that every device rounds to the same numbers
    return Tensor(xp.cos(wide).astype(np.float32)), Tensor(xp.sin(wide).astype(np.float32))
