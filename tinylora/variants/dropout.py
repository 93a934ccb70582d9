"""LoRA with dropout on its own input."""

from __future__ import annotations

from tinylora import nn
from tinylora.lora import LinearWithLoRA
from tinylora.tensor import Tensor


class DropoutLoRA(LinearWithLoRA):
    """y = x Wᵀ + b + s (m ∘ x) A B,  m the mask of a dropout with probability p: what the base sees is never dropped.

    PEFT's `lora_dropout`. In evaluation, plain LoRA.

    >>> from tinylora import nn, randn
    >>> layer = DropoutLoRA(nn.Linear(6, 4), rank=2, alpha=4.0, p=0.1)
    >>> layer(randn(3, 6)).shape
    (3, 4)
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, p: float) -> None:
        super().__init__(linear, rank, alpha)
        self.dropout = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        if self.unmerged or not self.training or not self.dropout.p:
            return super().forward(x)
        return self.linear(x) + self.low_rank(x)

    def low_rank(self, x: Tensor) -> Tensor:
        """s (m ∘ x) A B in the dtype of x; A and B stay float32 where the base is bfloat16."""
        return self.lora(self.dropout(x).to(self.lora.A.dtype)).to(x.dtype)
