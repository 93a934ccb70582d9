"""Rotary position embedding: rotates queries and keys by angles proportional to their position."""

from __future__ import annotations

from tinylora.op import op


@op
def rope(xp, x, cos, sin):
    """y₁ = x₁ cos - x₂ sin,  y₂ = x₂ cos + x₁ sin,  x₁ and x₂ the halves of the last axis.  Su et al. 2021, equation 34.

    Feature i is paired with i + D/2. x (B, H, T, D); cos and sin broadcast to (B, H, T, D/2), and are constants.
    dL/dx is g rotated by the negative angles.
    """
    return turned(xp, x, cos, sin), (lambda g: turned(xp, g, cos, -sin), None, None)


def turned(xp, x, cos, sin):
    """Rotate each pair of features of x by its angle."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return xp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
