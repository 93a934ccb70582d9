"""What is measured, told the same way to every contender: sizes, tokens, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Work:
    """A training step of GPT-2 small with a two-class head: `batch` rows of `length` tokens, LoRA of `rank` on every Linear.

    `full` trains all weights instead, without LoRA. No dropout: it would be one more thing to compare, and not the same
    work everywhere.
    """

    batch: int = 8
    length: int = 128
    rank: int = 16
    full: bool = False
    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257
    context: int = 1024
    dropout: float = 0.0

    @property
    def config(self) -> dict[str, Any]:
        """The lecture's configuration dictionary."""
        return {
            "vocab_size": self.vocabulary, "context_length": self.context, "emb_dim": self.width, "n_heads": self.heads,
            "n_layers": self.layers, "drop_rate": self.dropout, "qkv_bias": True,
        }  # fmt: skip

    def tokens(self) -> np.ndarray:
        """Random token ids (batch, length); the last id of the vocabulary is left out, Hugging Face pads with it."""
        return np.random.default_rng(0).integers(0, self.vocabulary - 1, (self.batch, self.length))

    def labels(self) -> np.ndarray:
        """A class per row: 0, 1, 0, 1, .."""
        return np.arange(self.batch) % 2


@dataclass(frozen=True)
class LlamaWork(Work):
    """A training step of SmolLM2-135M as a language model: the loss of the next token at each of `length` positions of
    `batch` rows, LoRA of `rank` on the seven Linears of every block, the tied head frozen and as it is.

    Three query heads share a head of keys and values, and the feed-forward is 8/3 as wide as the model.
    """

    layers: int = 30
    width: int = 576
    heads: int = 9
    vocabulary: int = 49152

    @property
    def kv_heads(self) -> int:
        return max(1, self.heads // 3)

    @property
    def hidden(self) -> int:
        return 8 * self.width // 3

    @property
    def config(self) -> dict[str, Any]:
        """LlamaConfig's entries."""
        return {
            "vocab_size": self.vocabulary, "context_length": self.context, "emb_dim": self.width, "n_heads": self.heads,
            "n_kv_heads": self.kv_heads, "n_layers": self.layers, "hidden_dim": self.hidden, "rope_base": 100000.0,
            "tie_head": True,
        }  # fmt: skip

    def texts(self) -> tuple[np.ndarray, np.ndarray]:
        """Random tokens and those that follow them, (batch, length) each."""
        tokens = np.random.default_rng(0).integers(0, self.vocabulary, (self.batch, self.length + 1))
        return tokens[:, :-1], tokens[:, 1:]


@dataclass(frozen=True)
class Llama1BWork(LlamaWork):
    """The same of a model of Llama-3.2-1B's shape."""

    layers: int = 16
    width: int = 2048
    heads: int = 32
    vocabulary: int = 128256
    context: int = 2048

    @property
    def kv_heads(self) -> int:
        return max(1, self.heads // 4)

    @property
    def hidden(self) -> int:
        return 4 * self.width
