"""Random choices: permutations, coins, and draws from given probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import backend
from tinylora.backend import int64, is_floating, to_device
from tinylora.tensor import Tensor
from tinylora.torch_api.creation import rand
from tinylora.torch_api.elementwise import add, mul


def randperm(n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The numbers 0 .. n - 1 in random order.

    >>> import tinylora
    >>> randperm(5).sort().values.tolist()
    [0, 1, 2, 3, 4]
    """
    if n < 0:
        raise RuntimeError(f"randperm: n is at least 0, not {n}")
    order = np.argsort(uniform((n,), generator), kind="stable").astype(dtype or int64)
    return Tensor(to_device(order, device if device is not None else backend.default_device()))


def bernoulli(input: Tensor, p: float | None = None, *, generator: Any = None) -> Tensor:
    """1 with probability input (or p), element by element, else 0. Its gradient is 0."""
    chance = to_device(input.array, "cpu") if p is None else np.full(input.shape, p)
    if p is None and not is_floating(input.dtype):
        raise RuntimeError(f"bernoulli: probabilities are floating-point numbers, and these are {input.dtype}")
    if chance.size and not (chance.min() >= 0 and chance.max() <= 1):
        raise RuntimeError(f"bernoulli: probabilities lie between 0 and 1, not {chance.min()}..{chance.max()}")
    drawn = (uniform(input.shape, generator) < chance.astype(np.float64)).astype(input.dtype)
    y = Tensor(to_device(drawn, input.device))
    return add(y, mul(input, 0.0)) if input.requires_grad else y


def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Indices drawn from rows of weights, which need not add up to 1: (classes,) -> (num_samples,), or row by row.

    Without replacement: the largest of log(w) + Gumbel noise (Kool, van Hoof, Welling 2019), so in the order drawn.

    >>> import tinylora
    >>> multinomial(tinylora.tensor([0.0, 0.0, 2.0]), 3, replacement=True).tolist()
    [2, 2, 2]
    """
    if not is_floating(input.dtype) or input.array.ndim not in (1, 2):
        raise RuntimeError(
            f"multinomial takes a vector or a matrix of floating-point weights, not {input.dtype} {input.shape}"
        )
    weights = to_device(input.array, "cpu").astype(np.float64).reshape(-1, input.shape[-1])
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise RuntimeError("multinomial: weights must be finite and at least 0")
    if num_samples < 1 or (weights.sum(axis=-1) <= 0).any():
        raise RuntimeError(f"multinomial: {num_samples} samples of weights whose sum is 0, or no samples")
    if not replacement and num_samples > weights.shape[-1]:
        raise RuntimeError(f"multinomial: {num_samples} of {weights.shape[-1]} classes need replacement=True")
    if replacement:
        upper = weights.cumsum(axis=-1)
        at = uniform((len(weights), num_samples), generator) * upper[:, -1:]
        last = (weights > 0).shape[-1] - 1 - (weights[:, ::-1] > 0).argmax(axis=-1)  # rounding must not lead beyond
        picks = np.stack([np.minimum(np.searchsorted(u, a, "right"), n) for u, a, n in zip(upper, at, last, strict=True)])
    else:
        with np.errstate(divide="ignore"):
            noisy = np.log(weights) - np.log(-np.log1p(-uniform(weights.shape, generator)))
        picks = np.argsort(-noisy, axis=-1, kind="stable")[:, :num_samples]
    return Tensor(to_device(picks.astype(int64).reshape(*input.shape[:-1], num_samples), input.device))


def uniform(shape: tuple[int, ...], generator: Any) -> np.ndarray:
    """float64 numbers in [0, 1) as an array on the CPU, from the seed or from a generator."""
    if generator is not None:
        return to_device(rand(shape, dtype=np.float64, device="cpu", generator=generator).array, "cpu")
    return to_device(backend.random("uniform", shape, np.dtype("float64"), "cpu"), "cpu")
