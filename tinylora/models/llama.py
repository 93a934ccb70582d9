"""Llama and models of the same architecture, in the lecture's names: Llama 2 and 3, SmolLM2, Mistral, Qwen2 and Qwen3.

Five things differ from GPT-2. Norms divide by the root mean square and do not subtract the mean. Positions are not
added to the tokens: they rotate queries and keys, so that a score depends on the distance of two tokens. Several query heads
share one head of keys and values. The feed-forward multiplies one layer's output by a gate. Linear layers have no biases.
Touvron et al. 2023, "LLaMA"; Grattafiori et al. 2024, "The Llama 3 Herd of Models".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinylora import nn
from tinylora.models.cache import Cache, LayerCache
from tinylora.models.config import ModelConfig, check_flag, check_number, check_size, checked_entries
from tinylora.models.decoder import Decoder
from tinylora.models.presets import LLAMA_PRESETS
from tinylora.models.rotary import RopeScaling, rotary_tables
from tinylora.tensor import Tensor
from tinylora.torch_api import functional as F
from tinylora.torch_api.creation import ones


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """Sizes of a Llama, plus entries that Mistral and Qwen change.

    `hidden_dim` is the feed-forward's width; `head_dim` defaults to emb_dim / n_heads (0). Qwen2 has biases on query, key
    and value, Qwen3 normalises each head's query and key (`qk_norm`). Mistral attends to the last `sliding_window` tokens;
    its context is limited to them, and `max_positions` is the one in its config.json. `model_type` is the name in Hugging
    Face's files.
    """

    n_kv_heads: int
    hidden_dim: int
    head_dim: int = 0
    rope_base: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    drop_att: float = 0.0
    sliding_window: int | None = None
    max_positions: int | None = None
    model_type: str = "llama"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_kv_heads", "hidden_dim"):
            check_size(name, getattr(self, name))
        for name in ("qkv_bias", "out_bias", "mlp_bias", "qk_norm"):
            check_flag(name, getattr(self, name))
        for name in ("sliding_window", "max_positions"):
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        check_number("norm_eps", self.norm_eps)
        check_number("rope_base", self.rope_base, low=1e-6)
        check_number("drop_att", self.drop_att, high=1.0)
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.n_kv_heads}")
        if not self.head_dim:
            if self.emb_dim % self.n_heads:
                raise ValueError(f"emb_dim {self.emb_dim} is not divisible by n_heads {self.n_heads}")
            object.__setattr__(self, "head_dim", self.emb_dim // self.n_heads)
        if isinstance(self.rope_scaling, Mapping):
            object.__setattr__(
                self, "rope_scaling", RopeScaling(**checked_entries(RopeScaling, self.rope_scaling, "rope_scaling"))
            )
        elif not isinstance(self.rope_scaling, RopeScaling | None):
            raise ValueError(f"rope_scaling must be a RopeScaling or its entries, not {str(self.rope_scaling)[:60]!r}")
        check_size("head_dim", self.head_dim)
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: features are rotated in pairs")


class RMSNorm(nn.Module):
    """Divides each position's features by their root mean square, then scales: x / √(mean x² + ε) ∘ w."""

    def __init__(self, emb_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(ones(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class FeedForward(nn.Module):
    """Gated feed-forward at each position, fc3(silu(fc1 x) ∘ fc2 x): C -> hidden -> C. Shazeer 2020, "GLU Variants Improve
    Transformer"."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(cfg.emb_dim, cfg.hidden_dim, bias=cfg.mlp_bias)  # the gate
        self.fc2 = nn.Linear(cfg.emb_dim, cfg.hidden_dim, bias=cfg.mlp_bias)
        self.fc3 = nn.Linear(cfg.hidden_dim, cfg.emb_dim, bias=cfg.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = nn.fan_out(x, self.fc1, self.fc2)  # 2 × (B, T, hidden)
        return self.fc3(F.swiglu(gate, up))


class GroupedQueryAttention(nn.Module):
    """Causal self-attention with H query heads of D features that share Hkv heads of keys and values.

    Ainslie et al. 2023, "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints".
    """

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        C, D = cfg.emb_dim, cfg.head_dim
        self.head_dim = D
        self.W_query = nn.Linear(C, cfg.n_heads * D, bias=cfg.qkv_bias)
        self.W_key = nn.Linear(C, cfg.n_kv_heads * D, bias=cfg.qkv_bias)
        self.W_value = nn.Linear(C, cfg.n_kv_heads * D, bias=cfg.qkv_bias)
        self.out_proj = nn.Linear(cfg.n_heads * D, C, bias=cfg.out_bias)
        self.q_norm = RMSNorm(D, cfg.norm_eps) if cfg.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(D, cfg.norm_eps) if cfg.qk_norm else nn.Identity()
        self.dropout = nn.Dropout(cfg.drop_att)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None = None) -> Tensor:
        q, k, v = map(self.heads, nn.fan_out(x, self.W_query, self.W_key, self.W_value))  # (B, H, T, D), 2 × (B, Hkv, T, D)
        q, k = F.rope(self.q_norm(q), cos, sin), F.rope(self.k_norm(k), cos, sin)
        p = self.dropout.p if self.dropout.training else 0.0
        if cache is None:
            context = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True, enable_gqa=True)  # (B, H, T, D)
        else:
            context = cache.attend(q, k, v, p)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, T, H, D) -> (B, T, C)

    def keys_values(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions of x, (B, Hkv, T, D) each."""
        k, v = map(self.heads, nn.fan_out(x, self.W_key, self.W_value))
        return F.rope(self.k_norm(k), cos, sin), v

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, H D) -> (B, H, T, D)"""
        B, T, _ = x.shape
        return x.view(B, T, -1, self.head_dim).transpose(1, 2)


class TransformerBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.att = GroupedQueryAttention(cfg)
        self.ff = FeedForward(cfg)
        self.norm1 = RMSNorm(cfg.emb_dim, cfg.norm_eps)
        self.norm2 = RMSNorm(cfg.emb_dim, cfg.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = x + self.att(self.norm1(x), cos, sin, cache)
        return x + self.ff(self.norm2(x))

    def keys_values(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return self.att.keys_values(self.norm1(x), cos, sin)


class LlamaModel(Decoder):
    """The whole model, from a LlamaConfig, a dictionary of its entries, or the name of a preset.

    >>> import tinylora
    >>> from tinylora.models.llama import LlamaModel
    >>> with tinylora.device("meta"):
    ...     model = LlamaModel("smollm2-135m")
    >>> model.summary().total
    134515008
    """

    config, presets = LlamaConfig, LLAMA_PRESETS
    cfg: LlamaConfig

    def __init__(self, cfg: LlamaConfig | Mapping[str, Any] | str) -> None:
        super().__init__(cfg)
        self.tok_emb = nn.Embedding(self.cfg.vocab_size, self.cfg.emb_dim)
        self.trf_blocks = nn.Sequential(*[TransformerBlock(self.cfg) for _ in range(self.cfg.n_layers)])
        self.final_norm = RMSNorm(self.cfg.emb_dim, self.cfg.norm_eps)
        self.out_head = self.new_head()

    def forward(self, in_idx: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (B, T) -> scores (B, T, vocabulary), or (B, T, classes) once out_head was replaced."""
        return self.out_head(self.features(in_idx, cache))

    def features(self, in_idx: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (B, T) -> final features, the head's input, (B, T, C)."""
        cos, sin = self.shared(self.positions(in_idx, cache))
        x = self.tok_emb(in_idx)
        for i, block in enumerate(self.trf_blocks):
            x = block(x, cos, sin, cache and cache[i])
        return self.final_norm(x)

    def kv_heads(self) -> tuple[int, int]:
        return self.cfg.n_kv_heads, self.cfg.head_dim

    def shared(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of each pair's angle at these positions, the same for all blocks: (1 or B, 1, T, D / 2)."""
        return rotary_tables(positions, self.cfg.head_dim, self.cfg.rope_base, self.cfg.rope_scaling)
