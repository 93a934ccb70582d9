"""PiSSA: LoRA initialised with the largest singular values of the weight, which are subtracted from the base."""

from __future__ import annotations

import warnings

from tinylora import nn
from tinylora.backend import Array
from tinylora.lora import LinearWithLoRA, low_rank
from tinylora.tensor import Tensor
from tinylora.torch_api import functional as F
from tinylora.torch_api.shaping import cat


class PiSSA(LinearWithLoRA):
    """y = x (W - s (A₀B₀)ᵀ)ᵀ + b + s (x A) B,  A and B starting as A₀ and B₀, s A₀B₀ the best of rank r for Wᵀ.

    With the singular values S and W = U S Vᵀ, √s A₀ = V√S and √s B₀ = √S Uᵀ, the r largest. The initial output is unchanged.
    Meng, Wang, Zhang 2024, "PiSSA: Principal Singular Values and Singular Vectors Adaptation", equations 2 to 4.

    The residual W - s (A₀B₀)ᵀ is never formed: -s A₀B₀ stands beside s A B as a second half, of rank r and frozen. So W
    stays the base's, bit for bit, and `as_lora` needs no arithmetic: [A A₀] and [B; -B₀] are a plain LoRA of rank 2 r.

    >>> from tinylora import nn, randn
    >>> layer = PiSSA(nn.Linear(6, 4), rank=2, alpha=4.0)
    >>> layer.as_lora().lora.A.shape
    (6, 4)
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(linear, rank, alpha)
        if not alpha > 0:
            raise ValueError(f"PiSSA needs a scale above 0, not {alpha}")
        best = low_rank(linear.weight.array.T, rank)
        root = alpha**-0.5
        A, B = best.A * root, best.B * root
        self.lora.A, self.lora.B = nn.Parameter(A), nn.Parameter(B)
        self.lora.register_buffer("A0", A.clone())  # training writes into A and B
        self.lora.register_buffer("B0", B.clone())

    def factors(self) -> tuple[Tensor, Tensor]:
        """[A A₀] (in, 2 r) and [B; -B₀] (2 r, out)."""
        return cat([self.lora.A, self.lora.A0], 1), cat([self.lora.B, -self.lora.B0], 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return super().forward(x)
        return F.lora_linear(x, self.linear.weight, self.linear.bias, *self.factors(), self.lora.alpha)

    def changed(self) -> Array:
        return self.as_lora().changed()

    def as_lora(self) -> LinearWithLoRA:
        """The same function of the same base as a plain LoRA of rank 2 r, for a file or another library."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 2 r may be more than the matrix can use
            plain = LinearWithLoRA(self.linear, 2 * self.lora.A.shape[1], self.lora.alpha)
        A, B = self.factors()
        plain.lora.A, plain.lora.B = nn.Parameter(A.detach()), nn.Parameter(B.detach())
        plain.train(self.training)
        return plain
