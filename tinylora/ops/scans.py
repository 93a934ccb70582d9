"""Running products, and logarithms of running sums of exponentials, along an axis. (Running sums are in reduce.py.)"""

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


@op
def logcumsumexp(xp, x, axis):
    """yᵢ = ln Σ_{j ≤ i} eˣʲ;  dL/dxⱼ = Σ_{i ≥ j} gᵢ e^(xⱼ - yᵢ), row by row, so that nothing overflows."""
    y = xp.array(x)
    rows, sums = xp.moveaxis(x, axis, 0), xp.moveaxis(y, axis, 0)
    for i in range(1, len(rows)):
        sums[i] = xp.logaddexp(sums[i - 1], rows[i])

    def d_x(g):
        d = xp.zeros(x.shape, g.dtype)
        total, at, gs = xp.zeros(rows.shape[1:], g.dtype), xp.moveaxis(d, axis, 0), xp.moveaxis(g, axis, 0)
        for i in range(len(rows) - 1, -1, -1):  # total = Σ_{k ≥ i} gₖ e^(yᵢ - yₖ)
            total = gs[i] + (total * xp.exp(sums[i] - sums[i + 1]) if i + 1 < len(rows) else 0.0)
            at[i] = total * xp.exp(rows[i] - sums[i])
        return d

    return y, (d_x,)
