"""LoRA: trains a low-rank change of a weight instead of the weight. (Reading path 6 of 6: the end.)

A fine-tuned weight is W + ΔW. LoRA writes ΔW = s · A B with A (in, r) and B (r, out): for r = 16 and a 768 × 768 layer,
24,576 numbers move instead of 589,824. W is frozen, so no edge of the graph leads to it and its gradient costs nothing.
Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".

Applying LoRA by names, saving and loading adapters: adapters/.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tinylora import nn, ops
from tinylora.backend import Array, array_module, device, is_floating, to_device
from tinylora.tensor import Tensor, grad_enabled, record
from tinylora.torch_api import functional as F
from tinylora.torch_api.creation import randn, zeros


class LoRALayer(nn.Module):
    """x -> alpha · (x A) B: (.., in_dim) -> (.., out_dim).

    A (in_dim, rank) starts as N(0, 1)/√rank, B (rank, out_dim) as zeros: the change starts at exactly nothing.
    Assigning another `alpha` takes effect at once. Raises ValueError unless rank is an integer above 0.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, alpha: float) -> None:
        super().__init__()
        if type(rank) is not int or rank <= 0:
            raise ValueError(f"rank must be an integer of at least 1, not {rank!r}")
        if rank > min(in_dim, out_dim):
            warnings.warn(f"rank {rank} is more than a {in_dim} x {out_dim} matrix can use", stacklevel=2)
        self.A = nn.Parameter(randn(in_dim, rank) * (1 / math.sqrt(rank)))
        self.B = nn.Parameter(zeros(rank, out_dim))
        self.alpha = float(alpha)

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * (x @ self.A @ self.B)

    def delta(self) -> Array:
        """ΔWᵀ = alpha · A B, the array (in_dim, out_dim)."""
        return (self.alpha * (self.A.detach() @ self.B.detach())).array


class LinearWithLoRA(nn.Module):
    """A Linear and its low-rank change, side by side: linear(x) + lora(x).

    `merge()` adds the change to the weight, `unmerge()` restores the original array, bit for bit.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"LoRA goes around a Linear, not around a {type(linear).__name__}")
        self.linear = linear
        with device(linear.weight.device):
            self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)
        self._original: nn.Parameter | None = None

    @property
    def merged(self) -> bool:
        """Whether the change is merged into the weight."""
        return self._original is not None

    def forward(self, x: Tensor) -> Tensor:
        if not self.merged:
            return F.lora_linear(x, self.linear.weight, self.linear.bias, self.lora.A, self.lora.B, self.lora.alpha)
        if self.training and grad_enabled() and self.lora.A.requires_grad:
            raise RuntimeError("this LoRA is merged, and merged it cannot be trained: call unmerge(), or eval()")
        return self.linear(x)

    @classmethod
    def forward_many(cls, layers: Sequence[LinearWithLoRA], x: Tensor) -> list[Tensor]:
        """Run the layers, such as query, key and value, as one op; one by one if one is merged or of another kind."""
        parts = [p for m in layers for p in (m.linear.weight, m.linear.bias, m.lora.A, m.lora.B)]
        if cls is not LinearWithLoRA or not all(m._is_plain_for(x) for m in layers):
            return super().forward_many(layers, x)
        return list(record(ops.lora_linears, x, tuple(m.lora.alpha for m in layers), *parts))

    def _is_plain_for(self, x: Tensor) -> bool:
        """Whether the fused op applies: a plain Linear, equal dtypes, not merged, valid shapes."""
        W, b, A, B = self.linear.weight, self.linear.bias, self.lora.A, self.lora.B
        fits = x.shape[-1:] == W.shape[1:] == A.shape[:1] and B.shape == (A.shape[1], W.shape[0])
        same = x.dtype == W.dtype and is_floating(x.dtype) and (b is None or (b.dtype, b.shape) == (W.dtype, W.shape[:1]))
        return type(self.linear) is nn.Linear and not self.merged and fits and same

    def merge(self) -> None:
        """W becomes W + ΔW, so that the adapter costs nothing at inference. Raises if it is merged already, or for a NaN."""
        if self.merged:
            raise RuntimeError("this LoRA is merged already: call unmerge() first")
        if self.linear.weight.device == "meta":
            raise RuntimeError("a layer on the meta device holds no numbers to merge")
        merged = self.changed()
        if not array_module(merged).isfinite(merged).all():
            raise RuntimeError("merging would put NaN or infinity into the weight: the adapter is broken")
        self.__dict__["_original"] = self.linear.weight  # into __dict__, since assignment would register a parameter
        self.linear.weight = nn.Parameter(Tensor(merged), self.linear.weight.requires_grad)  # others may share the old one

    def changed(self) -> Array:
        """W + ΔW."""
        return self.linear.weight.array + self.lora.delta().T

    def unmerge(self) -> None:
        """Restore the original weight, with the device, dtype and requires_grad of the merged one."""
        if self._original is None:
            raise RuntimeError("this LoRA is not merged")
        merged, self.linear.weight = self.linear.weight, self._original
        self._original = None
        self.linear.weight.array = to_device(self.linear.weight.array, merged.device).astype(merged.dtype, copy=False)
        self.linear.weight.requires_grad = merged.requires_grad


def replace_linear_with_lora(model: nn.Module, rank: int, alpha: float) -> None:
    """Wrap every Linear below `model` in a LinearWithLoRA, in place. If one is wrapped already, raises and wraps none."""
    for path, _ in lora_modules(model):
        raise RuntimeError(f"{path or 'this layer'} has a LoRA already: a layer is wrapped once")
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            setattr(model, name, LinearWithLoRA(module, rank, alpha))
        else:
            replace_linear_with_lora(module, rank, alpha)


def freeze(model: nn.Module) -> None:
    """Freeze all parameters below `model`."""
    model.requires_grad_(False)


def lora_modules(model: nn.Module) -> Iterator[tuple[str, LinearWithLoRA]]:
    """Every LinearWithLoRA below `model`, with its path."""
    return ((path, m) for path, m in model.named_modules() if isinstance(m, LinearWithLoRA))


# ------------------------------------------------------------------------------ what a rank is
class LowRank(NamedTuple):
    """Factors with A B ≈ W, and the error ‖W - A B‖ they leave (Frobenius norm)."""

    A: Tensor
    B: Tensor
    error: float


def low_rank(W: Any, r: int) -> LowRank:
    """The best A (d, r) and B (r, k) for a matrix W (d, k): no other pair leaves a smaller ‖W - A B‖.

    Eckart & Young 1936: keep the r largest singular values, W = U S Vᵀ, A = U√S, B = √S Vᵀ. The error is the root of the
    sum of the squares of the others.

    >>> import tinylora
    >>> low_rank(tinylora.tensor([[1.0, 2.0], [2.0, 4.0]]), 1).error < 1e-6
    True
    """
    data = W.array if isinstance(W, Tensor) else W
    if data.ndim != 2 or not isinstance(r, int) or not 0 < r <= min(data.shape):
        raise ValueError(f"low_rank needs a matrix and a rank of 1 to its smaller side, got {data.shape} and {r!r}")
    xp = array_module(data)
    U, S, Vt = xp.linalg.svd(data, full_matrices=False)
    root = xp.sqrt(S[:r])
    return LowRank(Tensor(U[:, :r] * root), Tensor(root[:, None] * Vt[:r]), float(xp.sqrt((S[r:] ** 2).sum())))


def spectrum(lora: Any) -> Array:
    """The r singular values of ΔW = s A B of a LoRALayer or LinearWithLoRA, largest first, in r × r work.

    A = Q R and Bᵀ = P T by QR, so A B = Q (R Tᵀ) Pᵀ, and Q, P turn without stretching: R Tᵀ has the singular values of A B.
    """
    layer = getattr(lora, "lora", lora)
    xp = array_module(layer.A.array)
    R, T = xp.linalg.qr(layer.A.array, mode="r"), xp.linalg.qr(layer.B.array.T, mode="r")
    return abs(layer.alpha) * xp.linalg.svd(R @ T.T, compute_uv=False)
