"""In-place functions. Each computes a new array, which the tensor takes over: no array is ever overwritten."""

from __future__ import annotations

from typing import Any

from tinylora.backend import is_floating
from tinylora.tensor import Tensor, grad_enabled
from tinylora.torch_api import creation, elementwise
from tinylora.torch_api.conversion import to
from tinylora.torch_api.functional import matmul
from tinylora.torch_api.shaping import expand


def replace_(input: Tensor, new: Tensor) -> Tensor:
    """Take over the array and the node of `new`. All in-place functions end here.

    A leaf that requires grad keeps its own node, and may only be replaced under `no_grad()`.
    """
    if input.node is not None and input.is_leaf:
        if grad_enabled():
            raise RuntimeError("a leaf tensor that requires grad cannot be changed in place outside no_grad()")
    else:
        input.node = new.node
    input.array = new.array
    return input


def _store(input: Tensor, new: Tensor) -> Tensor:
    """`replace_`, for a result of the same shape, which is cast to the same dtype."""
    if new.shape != input.shape:
        raise RuntimeError(f"in place, a tensor of shape {input.shape} cannot become {new.shape}")
    if is_floating(new.dtype) and not is_floating(input.dtype):
        raise RuntimeError(f"in place, a tensor of {input.dtype} cannot become {new.dtype}")
    return replace_(input, to(new, input.dtype))


# -------------------------------------------------------------------------------------- arithmetic
def add_(input: Tensor, other: Any) -> Tensor:
    return _store(input, elementwise.add(input, other))


def sub_(input: Tensor, other: Any) -> Tensor:
    return _store(input, elementwise.sub(input, other))


def mul_(input: Tensor, other: Any) -> Tensor:
    return _store(input, elementwise.mul(input, other))


def div_(input: Tensor, other: Any) -> Tensor:
    return _store(input, elementwise.div(input, other))


def pow_(input: Tensor, exponent: Any) -> Tensor:
    return _store(input, elementwise.pow(input, exponent))


def matmul_(input: Tensor, other: Any) -> Tensor:
    """input @= other."""
    return _store(input, matmul(input, other))


def clamp_(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return _store(input, elementwise.clamp(input, min, max))


# ------------------------------------------------------------------------------------------ filling
def masked_fill_(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Fill with `value` where mask is true."""
    return _store(input, elementwise.masked_fill(input, mask, value))


def copy_(input: Tensor, other: Tensor) -> Tensor:
    """Take over the numbers of `other`, broadcast to this shape."""
    return _store(input, to(expand(other, input.shape), input.device, input.dtype))


def fill_(input: Tensor, value: float) -> Tensor:
    """Set every element to `value`."""
    return replace_(input, creation.full_like(input, value))


def zero_(input: Tensor) -> Tensor:
    """Set every element to 0."""
    return fill_(input, 0)


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal random numbers."""
    return replace_(input, creation.randn_like(input) * std + mean)


def uniform_(input: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fill with random numbers from [low, high)."""
    return replace_(input, creation.rand_like(input) * (high - low) + low)


def requires_grad_(input: Tensor, requires_grad: bool = True) -> Tensor:
    """Set requires_grad, and return the tensor."""
    input.requires_grad = requires_grad
    return input
