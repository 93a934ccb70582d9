"""Sizes of well-known models, in the lecture's entries and LlamaConfig's."""

from __future__ import annotations

from typing import Any

Sizes = dict[str, Any]

GPT2_SMALL: Sizes = {
    "vocab_size": 50257, "context_length": 1024, "emb_dim": 768, "n_heads": 12, "n_layers": 12,
    "drop_rate": 0.1, "qkv_bias": True,
}  # fmt: skip

GPT2_PRESETS: dict[str, Sizes] = {  # Radford et al. 2019, table 2
    "gpt2-small": GPT2_SMALL,
    "gpt2-medium": {**GPT2_SMALL, "emb_dim": 1024, "n_heads": 16, "n_layers": 24},
    "gpt2-large": {**GPT2_SMALL, "emb_dim": 1280, "n_heads": 20, "n_layers": 36},
    "gpt2-xl": {**GPT2_SMALL, "emb_dim": 1600, "n_heads": 25, "n_layers": 48},
}

PRESETS: dict[str, Sizes] = {**GPT2_PRESETS}
