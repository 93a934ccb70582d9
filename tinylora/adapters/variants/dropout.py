"""LoRA with dropout on the input of A."""

from __future__ import annotations

from tinylora import nn, ops
from tinylora.backend import next_key
from tinylora.lora import LinearWithLoRA
from tinylora.tensor import Tensor, record
from tinylora.torch_api.promote import follow


class DropoutLoRA(LinearWithLoRA):
    """y = x Wᵀ + b + s (m ∘ x) A B,  m a dropout mask with probability p; the base's input is not dropped.

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
        if self.merged or not self.training or not self.dropout.p:
            return super().forward(x)
        if not self._is_plain_for(x) or not (x.dtype == self.lora.A.dtype or x.device == "cuda"):
            return self.linear(x) + self.side(x)
        W, b, lora = self.linear.weight, self.linear.bias, self.lora
        return record(ops.dropout_lora_linear, x, W, b, lora.A, lora.B, lora.alpha, float(self.dropout.p), next_key())

    def side(self, x: Tensor) -> Tensor:
        """s (m ∘ x) A B, in bfloat16 where x is: A and B stay float32."""
        (dropped,) = follow(self.lora.A, self.dropout(x))
        return follow(x, self.lora(dropped))[0]
