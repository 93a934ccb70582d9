"""In-place functions: they write into the memory of their tensor, so that all its views see it, as in PyTorch.

Inside a graph the tensor, its views and what it is a view of get new places in the graph. What an earlier op keeps for its
gradient must not be written to: backward raises then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import backend
from tinylora.backend import is_floating
from tinylora.tensor import Node, Tensor
from tinylora.torch_api import elementwise
from tinylora.torch_api.conversion import to
from tinylora.torch_api.functional import matmul
from tinylora.torch_api.promote import number, operand
from tinylora.torch_api.shaping import expand
from tinylora.torch_api.views import assign, tracked


def _before(input: Tensor, *others: Any) -> Tensor:
    """The tensor with its numbers of now: inside a graph a copy, since the op's gradient may need them after the write."""
    return Tensor(input.array.copy(), node=input.node) if tracked(input, *others) else input


def store(input: Tensor, new: Tensor) -> Tensor:
    """Write `new`, which has the same shape, into `input`, cast to its dtype."""
    if new.shape != input.shape:
        raise RuntimeError(f"in place, a tensor of shape {input.shape} cannot become {new.shape}")
    if is_floating(new.dtype) and not is_floating(input.dtype):
        raise RuntimeError(f"in place, a tensor of {input.dtype} cannot become {new.dtype}")
    new = to(new, input.dtype)
    return assign(input, new.array, new.node, derived=True)


# -------------------------------------------------------------------------------------- arithmetic
def add_(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """input += alpha · other."""
    return store(input, elementwise.add(_before(input, other), other, alpha=alpha))


def sub_(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """input -= alpha · other."""
    return store(input, elementwise.sub(_before(input, other), other, alpha=alpha))


def mul_(input: Tensor, other: Any) -> Tensor:
    """input *= other."""
    return store(input, elementwise.mul(_before(input, other), other))


def div_(input: Tensor, other: Any) -> Tensor:
    """input /= other."""
    return store(input, elementwise.div(_before(input, other), other))


def pow_(input: Tensor, exponent: Any) -> Tensor:
    """input **= exponent."""
    return store(input, elementwise.pow(_before(input, exponent), exponent))


def matmul_(input: Tensor, other: Any) -> Tensor:
    """input @= other."""
    return store(input, matmul(_before(input, other), other))


def clamp_(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limit to [min, max]."""
    return store(input, elementwise.clamp(_before(input, min, max), min, max))


# ------------------------------------------------------------------------------------------ filling
def masked_fill_(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Fill with `value` where mask is true."""
    return store(input, elementwise.masked_fill(_before(input, value), mask, value))


def copy_(input: Tensor, other: Any) -> Tensor:
    """Take over the numbers of `other`, broadcast to this shape and cast to this dtype."""
    other = operand(other)
    if not isinstance(other, Tensor):
        return fill_(input, other)
    new = to(expand(other, input.shape), input.device, input.dtype)
    return assign(input, new.array, new.node)


def fill_(input: Tensor, value: Any) -> Tensor:
    """Set every element to `value`, a number or a 0-d tensor."""
    value = operand(value)
    return copy_(input, value) if isinstance(value, Tensor) else assign(input, number(value, input.dtype))


def zero_(input: Tensor) -> Tensor:
    """Set every element to 0."""
    return fill_(input, 0)


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal random numbers."""
    drawn = backend.random("normal", input.shape, _drawn_in(input), input.device, generator=generator)
    return assign(input, (drawn * std + mean).astype(input.dtype, copy=False))


def uniform_(input: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with random numbers from [low, high)."""
    drawn = backend.random("uniform", input.shape, _drawn_in(input), input.device, low, high, generator)
    return assign(input, drawn.astype(input.dtype, copy=False))


def _drawn_in(input: Tensor) -> np.dtype:
    return input.dtype if input.dtype == np.float64 else np.dtype("float32")


def set_data(input: Tensor, new: Tensor) -> None:
    """Replace the values and leave the graph as it is. A leaf may take another shape."""
    if not isinstance(new, Tensor):
        raise TypeError(f".data takes a Tensor, not {type(new).__name__}")
    if input.node is not None and not is_floating(new.dtype):
        raise RuntimeError(f".data of a tensor that requires grad has to be floating-point, not {new.dtype}")
    if not input.is_leaf and new.shape != input.shape:
        raise RuntimeError(f".data of a computed tensor keeps its shape: expected {input.shape}, got {new.shape}")
    input.array = new.array
    if input.node is not None and input.node.shape != new.shape:
        input.node = Node(new.shape, (), leaf=input)


def requires_grad_(input: Tensor, requires_grad: bool = True) -> Tensor:
    """Set requires_grad, and return the tensor."""
    input.requires_grad = requires_grad
    return input
