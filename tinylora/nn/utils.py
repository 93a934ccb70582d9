"""Gradient clipping, where PyTorch keeps it."""

from __future__ import annotations

from collections.abc import Iterable

from tinylora import ops
from tinylora.backend import array_module, overwrite, written
from tinylora.tensor import Tensor


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Tensor:
    """Scale all gradients together so that their joint 2-norm is at most `max_norm`. Returns the norm before.

    Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    found = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in found if p.grad is not None]
    if not grads:
        return Tensor(array_module().zeros((), "float32"))
    (norm, *scaled), _ = ops.clip_norm(*(g.array for g in grads), max_norm=max_norm)
    for g, array in zip(grads, scaled, strict=True):
        if array is not g.array:
            overwrite(g.array, array)
    written(*(g.array for g in grads))
    return Tensor(norm)
