"""Gradient clipping, where PyTorch keeps it."""

from __future__ import annotations

from collections.abc import Iterable

from tinylora.backend import array_module
from tinylora.kernels.cuda import many
from tinylora.tensor import Tensor


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Tensor:
    """Scale all gradients together so that their joint 2-norm is at most `max_norm`. Returns the norm before.

    Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    found = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in found if p.grad is not None]
    if not grads:
        return Tensor(array_module().zeros((), "float32"))
    arrays = [g.data for g in grads]
    xp = array_module(arrays[0])
    norm = many.norm(arrays)
    norm = xp.sqrt(sum((g * g).sum() for g in arrays)) if norm is None else norm
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    new = many.scaled(arrays, factor) or [g * factor.astype(g.dtype) for g in arrays]
    for g, array in zip(grads, new, strict=True):
        g.data = array
    return Tensor(norm)
