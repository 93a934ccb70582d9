"""LoRA+: a higher learning rate for B than for A."""

from __future__ import annotations

import math
from typing import Any

from tinylora import nn
from tinylora.lora import lora_modules


def lora_plus(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: every B with the learning rate ratio · lr, all else that is trained with lr.

    With one rate for both, the wider the model the less B moves its output. Hayou, Ghosh, Yu 2024, "LoRA+: Efficient Low
    Rank Adaptation of Large Models", where a ratio of 2⁴ is found to do well. Raises ValueError if no B is trained.

    >>> from tinylora import nn, optim
    >>> from tinylora.lora import LinearWithLoRA
    >>> model = nn.Sequential(LinearWithLoRA(nn.Linear(6, 4), rank=2, alpha=4.0))
    >>> optimizer = optim.AdamW(lora_plus(model, lr=1e-4))
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.0001, 0.0016]
    """
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio is a finite number above 0, not {ratio!r}")
    faster = [m.lora.B for _, m in lora_modules(model) if m.lora.B.requires_grad]
    if not faster:
        raise ValueError("the model has no LoRA whose B is trained")
    known = {id(B) for B in faster}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    return [{"params": others, "lr": lr}, {"params": faster, "lr": ratio * lr}]
