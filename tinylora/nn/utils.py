"""torch.nn.utils: gradient clipping, parameters as one vector, sequences padded to one length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tinylora import ops
from tinylora.backend import array_module, overwrite, written
from tinylora.tensor import Tensor
from tinylora.torch_api.creation import full
from tinylora.torch_api.shaping import cat, stack


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients together so that their joint norm is at most `max_norm`. Returns the norm before.

    The norm is (Σ |g|ᵖ)^(1/p) for p = `norm_type`, the largest |g| for inf. With `error_if_nonfinite` a norm that is
    infinite or NaN raises RuntimeError, and nothing is scaled.

    Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    grads = _grads(parameters)
    if not grads:
        return Tensor(array_module().zeros((), "float32"))
    if float(norm_type) == 2.0:
        (norm, *scaled), _ = ops.clip_norm(*(g.array for g in grads), max_norm=max_norm)
    else:
        norm = _norm(grads, float(norm_type)).array
        xp = array_module(norm)
        factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
        scaled = [xp.asarray(g.array * factor.astype(g.dtype)) for g in grads]
    if error_if_nonfinite and not bool(array_module(norm).isfinite(norm)):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {float(norm)}")
    for g, array in zip(grads, scaled, strict=True):
        if array is not g.array:
            overwrite(g.array, array)
    written(*(g.array for g in grads))
    return Tensor(norm)


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float, foreach: bool | None = None) -> None:
    """Limit every number of every gradient to ± clip_value."""
    for g in _grads(parameters):
        g.clamp_(-clip_value, clip_value)


def _grads(parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    found = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in found if p.grad is not None]


def _norm(grads: list[Tensor], p: float) -> Tensor:
    if math.isinf(p):
        return stack([g.abs().max() for g in grads]).max()
    return stack([(g.abs() ** p).sum() for g in grads]).sum() ** (1 / p)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All numbers of all parameters as one vector, with a gradient.

    >>> from tinylora import nn
    >>> parameters_to_vector(nn.Linear(4, 3).parameters()).shape
    (15,)
    """
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """The reverse: each parameter's `.data` becomes its part of the vector."""
    begin = 0
    for p in parameters:
        p.data = vec[begin : begin + p.array.size].detach().reshape(p.shape)
        begin += p.array.size


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Tensors (Lᵢ, *) of different lengths as one, (L, B, *) or (B, L, *), filled up with `padding_value`.

    >>> import tinylora
    >>> pad_sequence([tinylora.tensor([1, 2, 3]), tinylora.tensor([4])], batch_first=True, padding_value=-1).tolist()
    [[1, 2, 3], [4, -1, -1]]
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side is 'left' or 'right', not {padding_side!r}")
    longest, rows = max(len(x) for x in sequences), []
    for x in sequences:
        filled = full((longest - len(x), *x.shape[1:]), padding_value, dtype=x.dtype, device=x.device)
        rows.append(cat([x, filled] if padding_side == "right" else [filled, x]))
    return stack(rows, 0 if batch_first else 1)
