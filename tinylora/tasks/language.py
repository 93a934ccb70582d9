"""Scores of a language model: loss, perplexity and bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tinylora.tasks.task import Score


@dataclass(frozen=True)
class LanguageScore(Score):
    """The mean of -log p over `tokens` predicted tokens, which are `size` bytes of text."""

    loss: float
    tokens: int
    size: int

    @property
    def perplexity(self) -> float:
        """exp of the loss: the number of equally likely tokens that would be as hard to predict."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        return self.loss * self.tokens / math.log(2) / max(1, self.size)

    @property
    def headline(self) -> str:
        return f"perplexity {self.perplexity:.3f}"

    @property
    def rank(self) -> tuple[float, ...]:
        return (-self.loss,)

    def as_dict(self) -> dict[str, Any]:
        numbers = {"perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}
        return {"loss": self.loss, **numbers, "tokens": self.tokens, "bytes": self.size}
