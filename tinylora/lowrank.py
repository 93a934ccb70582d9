"""The idea of rank r: how little of a matrix may be enough, and what rank a change has. `lora.low_rank`, `lora.spectrum`."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinylora.backend import Array, array_module
from tinylora.tensor import Tensor


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
    data = W.data if isinstance(W, Tensor) else W
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
    xp = array_module(layer.A.data)
    R, T = xp.linalg.qr(layer.A.data, mode="r"), xp.linalg.qr(layer.B.data.T, mode="r")
    return abs(layer.alpha) * xp.linalg.svd(R @ T.T, compute_uv=False)
