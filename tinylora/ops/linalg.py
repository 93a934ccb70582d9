"""Matrix products and einsum."""

from __future__ import annotations

import math
from typing import Any

from tinylora.backend import total
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

    `inputs` are the letters of each operand, `output` those of y; no letter stands twice in one operand. An axis of size 1
    is repeated where another operand has more under its letter.
    """
    size: dict[str, int] = {}
    for letters, x in zip(inputs, operands, strict=True):
        for c, n in zip(letters, x.shape, strict=True):
            if size.setdefault(c, n) == 1:
                size[c] = n
            elif n not in (1, size[c]):
                raise ValueError(f"the letter {c!r} has sizes {size[c]} and {n}")

    if unknown := set(output) - size.keys():
        raise ValueError(f"the output has letters of no operand: {sorted(unknown)}")
    terms = list(zip(inputs, operands, strict=True))

    def vjp(i: int) -> Any:
        mine, shape = inputs[i], operands[i].shape
        others = [term for j, term in enumerate(terms) if j != i]
        summed = {c for c, n in zip(mine, shape, strict=True) if n != size[c]}  # repeated in the product

        def d_operand(g):
            return xp.broadcast_to(_contract(xp, [(output, g), *others], mine, without=summed), shape)

        return d_operand

    y = _contract(xp, terms, output)
    return xp.broadcast_to(y, [size[c] for c in output]), tuple(map(vjp, range(len(operands))))


def _contract(xp: Any, terms: list[tuple[str, Any]], output: str, without: Any = ()) -> Any:
    """Σ Π of (letters, array) pairs, two at a time from the left, over all letters but those of `output`.

    The result has size 1 under the letters `without`, and under those that all terms have size 1 for, or do not have.
    """
    found = set(output) - set(without)
    terms = [_squeezed(letters, x) for letters, x in terms]
    letters, x = terms[0]
    for k, (more, y) in enumerate(terms[1:], 2):
        letters, x = _pair(xp, letters, x, more, y, found.union(*(later for later, _ in terms[k:])))
    letters, x = _summed(letters, x, found)
    x = x.transpose([letters.index(c) for c in output if c in letters])
    return xp.expand_dims(x, tuple(i for i, c in enumerate(output) if c not in letters))


def _squeezed(letters: str, x: Any) -> tuple[str, Any]:
    """Without the axes of size 1: a product does not depend on them."""
    return "".join(c for c, n in zip(letters, x.shape, strict=True) if n != 1), x.reshape(
        tuple(n for n in x.shape if n != 1)
    )


def _summed(letters: str, x: Any, wanted: set[str]) -> tuple[str, Any]:
    """Without the axes that are not `wanted`."""
    axes = tuple(i for i, c in enumerate(letters) if c not in wanted)
    return "".join(c for c in letters if c in wanted), total(x, axes) if axes else x


def _pair(xp: Any, a: str, x: Any, b: str, y: Any, wanted: set[str]) -> tuple[str, Any]:
    """The product of two terms as one product of matrices, summed over the letters that are not `wanted` any more."""
    a, x = _summed(a, x, wanted | set(b))
    b, y = _summed(b, y, wanted | set(a))
    batch, inner = ([c for c in a if c in b and (c in wanted) == kept] for kept in (True, False))
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]
    x = x.transpose([a.index(c) for c in batch + rows + inner])
    y = y.transpose([b.index(c) for c in batch + inner + columns])
    lead, n, m = x.shape[: len(batch)], x.shape[len(batch) :][: len(rows)], y.shape[y.ndim - len(columns) :]
    k = math.prod(x.shape[len(batch) + len(rows) :])
    z = xp.matmul(x.reshape(*lead, math.prod(n), k), y.reshape(*lead, k, math.prod(m)))
    return "".join(batch + rows + columns), z.reshape((*lead, *n, *m))
