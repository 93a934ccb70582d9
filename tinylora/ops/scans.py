"""Running products along an axis. (Running sums are in reduce.py.)"""

from __future__ import annotations

from tinylora.op import op
from tinylora.ops.reduce import _before


@op
def cumprod(xp, x, axis):
    """yᵢ = Π_{j ≤ i} xⱼ;  dL/dxⱼ = (Π_{k < j} xₖ) sⱼ with sⱼ = gⱼ + xⱼ₊₁ sⱼ₊₁, so zeros need no division."""

    def d_x(g):
        if not x.size:
            return g
        rows, d = xp.moveaxis(x, axis, 0), xp.array(xp.moveaxis(g, axis, 0))
        for j in range(len(rows) - 2, -1, -1):
            d[j] += rows[j + 1] * d[j + 1]
        return xp.moveaxis(d, 0, axis) * _before(xp, x, axis)

    return x.cumprod(axis=axis), (d_x,)
