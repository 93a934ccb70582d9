"""Several layers of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinylora.nn.module import Module
from tinylora.tensor import Tensor

Together = Callable[[Sequence[Any], Tensor], Any]

IN_ONE_OP: dict[type[Module], Together] = {}  # layers of which type have a way to run together, or NotImplemented


def side_by_side(x: Tensor, *layers: Module) -> list[Tensor]:
    """[layer(x) for layer in layers], all in one op where their type knows one.

    >>> from tinylora import nn, randn
    >>> [y.shape for y in side_by_side(randn(2, 4), nn.Linear(4, 3), nn.Linear(4, 5))]
    [(2, 3), (2, 5)]
    """
    together = IN_ONE_OP.get(type(layers[0]))
    found = together(layers, x) if together and len({type(layer) for layer in layers}) == 1 else NotImplemented
    return [layer(x) for layer in layers] if found is NotImplemented else found
