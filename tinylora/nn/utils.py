"""Gradient clipping, where PyTorch keeps it."""

from __future__ import annotations

from collections.abc import Iterable

from tinylora.backend import array_module
from tinylora.tensor import Tensor


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Tensor:
    """Scale all gradients together so that their joint 2-norm is at most `max_norm`. Returns the norm before.

    Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    found = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in found if p.grad is not None]
    if not grads:
        return Tensor(array_module().zeros((), "float32"))
    xp = array_module(grads[0].data)
    norm = xp.sqrt(sum((g.data * g.data).sum() for g in grads))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for g in grads:
        g.data = g.data * factor.astype(g.dtype)
    return Tensor(norm)
