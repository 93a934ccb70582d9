"""Batch normalization over a batch of vectors or sequences."""

from __future__ import annotations

from typing import Any

from tinylora.nn import init
from tinylora.nn.module import Module, Parameter
from tinylora.tensor import Tensor, no_grad
from tinylora.torch_api.creation import ones, tensor, zeros


class BatchNorm1d(Module):
    """(x - mean) / √(variance + eps) · weight + bias for each feature, over the batch: x (N, C) or (N, C, L).

    In training mode mean and variance are those of the batch, and move running_mean and running_var towards them by
    `momentum` (None: their average over all batches). In evaluation mode the running ones are used, if they are tracked.
    Ioffe & Szegedy 2015, "Batch normalization", algorithm 1.

    >>> from tinylora import nn, randn
    >>> y = nn.BatchNorm1d(3)(randn(64, 3) * 5 + 2)
    >>> abs(y.mean().item()) < 1e-5, abs(y.var(0, unbiased=False).mean().item() - 1) < 1e-3
    (True, True)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        where: Any = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(ones(num_features, **where)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(num_features, **where)) if affine else None)
        self.register_buffer("running_mean", zeros(num_features, **where) if track_running_stats else None)
        self.register_buffer("running_var", ones(num_features, **where) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", tensor(0, device=device) if track_running_stats else None)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, nothing tracked yet."""
        for value, filled in ((self.weight, 1), (self.bias, 0), (self.running_mean, 0), (self.running_var, 1)):
            if value is not None:
                init.constant_(value, filled)

    def forward(self, x: Tensor) -> Tensor:
        if x.array.ndim not in (2, 3) or x.shape[1] != self.num_features:
            raise ValueError(f"expected (N, {self.num_features}) or (N, {self.num_features}, L), got shape {x.shape}")
        axes = (0,) if x.array.ndim == 2 else (0, 2)
        shape = (1, -1) if x.array.ndim == 2 else (1, -1, 1)
        if self.training or not self.track_running_stats:
            n = x.array.size // self.num_features
            if n < 2 and self.training:
                raise ValueError(f"expected more than one value for each feature in training, got shape {x.shape}")
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
            if self.training and self.track_running_stats:
                self._track(mean.detach(), var.detach() * (n / max(n - 1, 1)))
        else:
            mean, var = self.running_mean, self.running_var
        y = (x - mean.reshape(shape)) * (var.reshape(shape) + self.eps).rsqrt()
        return y if self.weight is None else y * self.weight.reshape(shape) + self.bias.reshape(shape)

    def _track(self, mean: Tensor, var: Tensor) -> None:
        with no_grad():
            self.num_batches_tracked.add_(1)
            rate = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.mul_(1 - rate).add_(mean * rate)
            self.running_var.mul_(1 - rate).add_(var * rate)

    def extra_repr(self) -> str:
        options = f"affine={self.affine}, bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, {options}"
