"""Rotary position embedding: queries and keys are turned by angles that grow with their position."""

from __future__ import annotations

from tinylora.op import op


@op
def rope(xp, x, cos, sin):
    """y₁ = x₁ cos - x₂ sin,  y₂ = x₂ cos + x₁ sin,  x₁ and x₂ the halves of the last axis.  Su et al. 2021, equation 34.

    Feature i is paired with i + D/2. x (B, H, T, D); cos and sin broadcast to (B, H, T, D/2), and are constants.
    dL/dx turns g back: by the same angles with their sign changed.
    """
    return turned(xp, x, cos, sin), (lambda g: turned(xp, g, cos, -sin), None, None)


def turned(xp, x, cos, sin):
    """Each pair of features of x, turned by its angle."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return xp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
