"""Initial values of weights, written into a tensor: `nn.init.xavier_uniform_(layer.weight)`. Each returns the tensor.

A weight of shape (out, in, *receptive) has fan_in = in · ∏ receptive inputs per output, and fan_out = out · ∏ receptive.
Random numbers come from the seed of `manual_seed`, or from `generator`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinylora.backend import Generator, default_generator, random
from tinylora.tensor import Tensor, no_grad

GAINS = {"linear": 1.0, "identity": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4} | {
    f"conv{'_transpose' * turned}{n}d": 1.0 for n in (1, 2, 3) for turned in (0, 1)
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """How much a weight must grow for its outputs to keep their variance through a nonlinearity.

    "leaky_relu" takes its slope as `param`, 0.01 by default.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in GAINS:
        raise ValueError(f"no gain is known for {nonlinearity!r}: expected leaky_relu, {', '.join(GAINS)}")
    return GAINS[nonlinearity]


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight. PyTorch's name for it, which programs call in spite of the underscore."""
    if tensor.array.ndim < 2:
        raise ValueError(f"fan in and fan out need a weight of at least 2 dimensions, and this has shape {tensor.shape}")
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def _fill(tensor: Tensor, array: Any) -> Tensor:
    with no_grad():
        tensor.copy_(Tensor(array))
    return tensor


def _draw(tensor: Tensor, kind: str, low: float, high: float, generator: Generator | None) -> Tensor:
    """Fill with numbers that are uniform in [low, high), or normal with mean `low` and standard deviation `high`."""
    if tensor.device == "meta":
        return tensor
    if kind == "uniform":
        return _fill(tensor, random(kind, tensor.shape, tensor.dtype, tensor.device, low, high, generator))
    return _fill(tensor, random(kind, tensor.shape, tensor.dtype, tensor.device, generator=generator) * high + low)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in [a, b)."""
    return _draw(tensor, "uniform", a, b, generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal.

    >>> import tinylora
    >>> from tinylora import nn
    >>> layer = nn.Linear(1000, 1000)
    >>> 0.0199 < nn.init.normal_(layer.weight, std=0.02).std().item() < 0.0201
    True
    """
    if std < 0:
        raise ValueError(f"std is at least 0, not {std}")
    return _draw(tensor, "normal", mean, std, generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal, drawn again until it is in [a, b]."""
    if not a < b:
        raise ValueError(f"trunc_normal_: nothing lies between a = {a} and b = {b}")
    if tensor.device == "meta":
        return tensor
    source, low, high = (generator or default_generator).numbers, (a - mean) / std, (b - mean) / std
    inside = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2  # the part of a normal distribution
    nearest = min(max(0.0, low), high)  # where the density is highest
    drawn, missing = np.empty(0), math.prod(tensor.shape)
    while missing:
        n = 2 * missing + 16
        if inside > 0.1:
            found = source.standard_normal(n)
        else:  # the tails: uniform numbers, each kept with a probability in proportion to the density
            found = source.uniform(low, min(high, low + 40) if low > 0 else high, n)
            found = found[source.random(n) < np.exp((nearest**2 - found**2) / 2)]
        drawn = np.concatenate([drawn, found[(found >= low) & (found <= high)][:missing]])
        missing = math.prod(tensor.shape) - drawn.size
    values = np.clip(drawn.reshape(tensor.shape) * std + mean, a, b).astype(tensor.dtype)
    return _fill(tensor, Tensor(values).to(tensor.device).array)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """`val` everywhere."""
    with no_grad():
        tensor.fill_(val)
    return tensor


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix."""
    if tensor.array.ndim != 2:
        raise ValueError(f"eye_ takes a matrix, and this has shape {tensor.shape}")
    return _fill(tensor, Tensor(np.eye(*tensor.shape, dtype=tensor.dtype)).to(tensor.device).array)


# ------------------------------------------------------------------------------ by the fans of a weight
def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in ± gain · √(6 / (fan_in + fan_out)). Glorot & Bengio 2010, equation 16."""
    bound = gain * math.sqrt(6 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with standard deviation gain · √(2 / (fan_in + fan_out)). Glorot & Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_calculate_fan_in_and_fan_out(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is 'fan_in' or 'fan_out', not {mode!r}")
    fan = _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform in ± gain · √(3 / fan). He et al. 2015, "Delving deep into rectifiers". a is the slope of leaky_relu."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with standard deviation gain / √fan. He et al. 2015. a is the slope of leaky_relu."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """gain · a matrix (out, the rest) with orthonormal rows or columns. Saxe, McClelland, Ganguli 2013."""
    if tensor.array.ndim < 2:
        raise ValueError(f"orthogonal_ takes at least 2 dimensions, and this has shape {tensor.shape}")
    if not tensor.array.size or tensor.device == "meta":
        return tensor
    rows, columns = tensor.shape[0], tensor.array.size // tensor.shape[0]
    normal = (generator or default_generator).numbers.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    values = (gain * (q if rows >= columns else q.T)).reshape(tensor.shape).astype(tensor.dtype)
    return _fill(tensor, Tensor(values).to(tensor.device).array)


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Tensor:
    """Normal, with the part `sparsity` of each column set to 0. Martens 2010, "Deep learning via Hessian-free"."""
    if tensor.array.ndim != 2:
        raise ValueError(f"sparse_ takes a matrix, and this has shape {tensor.shape}")
    source, (rows, columns) = (generator or default_generator).numbers, tensor.shape
    values = source.standard_normal((rows, columns)) * std
    for column in range(columns):
        values[source.permutation(rows)[: math.ceil(sparsity * rows)], column] = 0.0
    return _fill(tensor, Tensor(values.astype(tensor.dtype)).to(tensor.device).array)
