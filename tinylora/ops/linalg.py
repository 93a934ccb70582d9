"""Matrix products and einsum."""

from __future__ import annotations

from typing import Any

from tinylora.op import op


@op
def matmul(xp, a, b):
    """y = a b over the last two axes, the others broadcast;  dL/da = g bᵀ, dL/db = aᵀ g.

    A vector is a row on the left, a column on the right, and its axis is dropped from y.
    """
    a_is_row, b_is_column = a.ndim == 1, b.ndim == 1
    left = a[None, :] if a_is_row else a  # (.., n, k): kept for d_b only
    right = b[:, None] if b_is_column else b  # (.., k, m): kept for d_a only

    def matrix(g: Any) -> Any:
        g = xp.expand_dims(g, -1) if b_is_column else g
        return xp.expand_dims(g, -2) if a_is_row else g  # (.., n, m)

    def d_a(g):
        d = matrix(g) @ right.swapaxes(-1, -2)
        return d[..., 0, :] if a_is_row else d

    def d_b(g):
        d = left.swapaxes(-1, -2) @ matrix(g)
        return d[..., 0] if b_is_column else d

    return xp.matmul(a, b), (d_a, d_b)


@op
def einsum(xp, *operands, inputs, output):
    """y = Σ Π operands, by index letters;  dL/dxᵢ = einsum of g with the other operands.

    `inputs` are the letters of each operand, `output` those of y; no letter stands twice in one operand.
    """
    sizes = {c: n for letters, x in zip(inputs, operands, strict=True) for c, n in zip(letters, x.shape, strict=True)}

    def vjp(i: int) -> Any:
        mine = inputs[i]
        others = [j for j in range(len(operands)) if j != i]
        arrays = [operands[j] for j in others]
        known = set(output).union(*(inputs[j] for j in others))
        found = "".join(c for c in mine if c in known)  # a letter that occurs nowhere else was summed: broadcast it

        def d_operand(g):
            letters = ",".join([output, *(inputs[j] for j in others)])
            d = xp.einsum(f"{letters}->{found}", g, *arrays)
            missing = tuple(k for k, c in enumerate(mine) if c not in known)
            return xp.broadcast_to(xp.expand_dims(d, missing), [sizes[c] for c in mine])

        return d_operand

    return xp.einsum(f"{','.join(inputs)}->{output}", *operands), tuple(map(vjp, range(len(operands))))
