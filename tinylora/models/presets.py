"""Configurations of well-known models, by name."""

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

LLAMA_3_1: Sizes = {  # Grattafiori et al. 2024, table 3
    "vocab_size": 128256, "context_length": 131072, "emb_dim": 4096, "n_heads": 32, "n_kv_heads": 8, "n_layers": 32,
    "hidden_dim": 14336, "rope_base": 500000.0, "rope_scaling": {"kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_context": 8192}, "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip
SMOLLM2: Sizes = {
    "vocab_size": 49152, "context_length": 8192, "emb_dim": 576, "n_heads": 9, "n_kv_heads": 3, "n_layers": 30,
    "hidden_dim": 1536, "rope_base": 100000.0, "tie_head": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
QWEN: Sizes = {
    "vocab_size": 151936, "rope_base": 1000000.0, "norm_eps": 1e-6, "tie_head": True, "bos_token_id": 151643,
    "eos_token_id": 151643,
}  # fmt: skip

LLAMA_PRESETS: dict[str, Sizes] = {
    "llama-3.2-1b": {
        **LLAMA_3_1, "emb_dim": 2048, "n_layers": 16, "hidden_dim": 8192, "tie_head": True,
        "rope_scaling": {**LLAMA_3_1["rope_scaling"], "factor": 32.0},
    },
    "llama-3.1-8b": LLAMA_3_1,
    "llama-3.1-70b": {**LLAMA_3_1, "emb_dim": 8192, "n_heads": 64, "n_layers": 80, "hidden_dim": 28672},
    "qwen2.5-0.5b": {
        **QWEN, "context_length": 32768, "emb_dim": 896, "n_heads": 14, "n_kv_heads": 2, "n_layers": 24, "hidden_dim": 4864,
        "qkv_bias": True, "model_type": "qwen2",
    },
    "qwen3-0.6b": {
        **QWEN, "context_length": 40960, "emb_dim": 1024, "n_heads": 16, "n_kv_heads": 8, "n_layers": 28, "hidden_dim": 3072,
        "head_dim": 128, "qk_norm": True, "model_type": "qwen3", "eos_token_id": 151645,
    },
    "smollm2-135m": SMOLLM2,
    "smollm2-360m": {**SMOLLM2, "emb_dim": 960, "n_heads": 15, "n_kv_heads": 5, "n_layers": 32, "hidden_dim": 2560},
    "smollm2-1.7b": {
        **SMOLLM2, "emb_dim": 2048, "n_heads": 32, "n_kv_heads": 32, "n_layers": 24, "hidden_dim": 8192,
        "rope_base": 130000.0,
    },
}  # fmt: skip

PRESETS: dict[str, Sizes] = {**GPT2_PRESETS, **LLAMA_PRESETS}
