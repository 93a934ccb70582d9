"""How gradients that meet at one place of the graph are added up."""

from __future__ import annotations

from collections.abc import Callable

from tinylora.backend import Array
from tinylora.ops.elementwise import add


def arrived(so_far: Array | None, vjp: Callable[..., Array], g: Array, shape: tuple[int, ...]) -> Array:
    """so_far + vjp(g) at a node of `shape`, or vjp(g) alone if it is the first to arrive there."""
    if so_far is not None and hasattr(vjp, "adds"):
        return vjp(g, so_far)
    d = sum_to(vjp(g), shape)
    return d if so_far is None else add(so_far, d)[0]


def sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """Undo broadcasting: add up the copies that were made of an input of `shape`. (Ops leave this to the engine.)"""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    copied = tuple(i for i in range(g.ndim) if i < lead or (shape[i - lead] == 1 and g.shape[i] != 1))
    return g.sum(axis=copied).reshape(shape)


def adds(vjp: Callable[..., Array]) -> Callable[..., Array]:
    """Mark a tuned vjp(g, so_far=None) that adds inside, where it costs less than in a pass of its own: so_far + dL/dx.

    The gradient has the shape and dtype of the input, and so has `so_far`, which it must not write into.
    """
    vjp.adds = True  # type: ignore[attr-defined]  # functions take attributes; their stubs do not
    return vjp
