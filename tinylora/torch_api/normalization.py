"""Group, instance and batch normalization. (layer_norm and rms_norm are in network.py.)"""

from __future__ import annotations

from typing import Any

from tinylora.tensor import Tensor, no_grad
from tinylora.torch_api.elementwise import add, mul, rsqrt, sub
from tinylora.torch_api.functional import mean, var
from tinylora.torch_api.promote import need_float
from tinylora.torch_api.shaping import reshape


def _per_channel(x: Any, ndim: int) -> Any:
    """One number for each channel, in the shape that broadcasts to (N, C, ..)."""
    return reshape(x, [1, -1] + [1] * (ndim - 2))


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else mul(y, _per_channel(weight, y.array.ndim))
    return y if bias is None else add(y, _per_channel(bias, y.array.ndim))


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Each group of channels of (N, C, ..) to mean 0 and variance 1, then weight and bias by channel.  Wu & He 2018."""
    need_float("group_norm", input)
    if input.array.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise RuntimeError(f"group_norm: {num_groups} groups do not divide the channels of shape {input.shape}")
    x = reshape(input, input.shape[0], num_groups, -1) if input.array.size else input
    y = mul(sub(x, mean(x, -1, True)), rsqrt(add(var(x, -1, False, True), eps)))
    return _affine(reshape(y, input.shape), weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of (N, C, ..) to mean 0 and variance 1 over the batch, or by the running statistics in evaluation.

    In training the running ones move by `momentum` towards those of the batch, the variance unbiased.
    Ioffe & Szegedy 2015.
    """
    need_float("batch_norm", input)
    if input.array.ndim < 2:
        raise RuntimeError(f"batch_norm takes (N, C) or (N, C, ..), and the shape is {input.shape}")
    axes = tuple(a for a in range(input.array.ndim) if a != 1)
    n = input.array.size // (input.shape[1] or 1)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("batch_norm: evaluation needs running_mean and running_var")
        centre, spread = (_per_channel(x, input.array.ndim) for x in (running_mean, running_var))
    else:
        if n < 2:
            raise ValueError(
                f"batch_norm: more than 1 value per channel is needed in training, and the shape is {input.shape}"
            )
        centre, spread = mean(input, axes, True), var(input, axes, False, True)
        with no_grad():
            for old, new in ((running_mean, centre), (running_var, spread * (n / (n - 1)))):
                if old is not None:
                    old.copy_(old * (1 - momentum) + reshape(new, -1) * momentum)
    return _affine(mul(sub(input, centre), rsqrt(add(spread, eps))), weight, bias)
