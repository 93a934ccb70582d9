"""Several layers of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinylora.nn.module import Module
from tinylora.tensor import Tensor

Together = Callable[[Sequence[Any], Tensor], Any]

IN_ONE_OP: dict[type[Module], Together] = {}  # by type of layer: runs several in one op, or returns NotImplemented


def side_by_side(x: Tensor, *layers: Module) -> list[Tensor]:
    """[layer(x) for layer in layers], all in one op where their type knows one.

    >>> from tinylora import nn, randn
    >>> [y.shape for y in side_by_side(randn(2, 4), nn.Linear(4, 3), nn.Linear(4, 5))]
    [(2, 3), (2, 5)]
    """
    together = IN_ONE_OP.get(type(layers[0]))
    own = any("forward" in vars(layer) or type(layer) is not type(layers[0]) for layer in layers)  # a way of its own
    found = together(layers, x) if together and not own else NotImplemented
    return [layer(x) for layer in layers] if found is NotImplemented else found
