"""LoRA-FA: trains B only; A keeps its random initial values."""

from __future__ import annotations

from tinylora import nn
from tinylora.lora import LinearWithLoRA


class LoRAFA(LinearWithLoRA):
    """LoRA of which only B is trained: y = x Wᵀ + b + s (x A) B,  dL/dB = s (x A)ᵀ g, and nothing else.

    A is frozen, so no edge leads to it, and x, which only its gradient needs, is not kept for backward: x A is, r numbers
    for each row where x has `in`. Zhang et al. 2023, "LoRA-FA: Memory-efficient Low-rank Adaptation", section 3.

    >>> from tinylora import nn
    >>> [p.requires_grad for p in LoRAFA(nn.Linear(6, 4), rank=2, alpha=4.0).lora.parameters()]
    [False, True]
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(linear, rank, alpha)
        self.lora.A.requires_grad = False
