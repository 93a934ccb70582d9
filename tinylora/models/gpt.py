"""GPT-2, in the lecture's names. (Reading path 5 of 6; next: lora.py.)

Token ids go in, (B, T); each becomes a vector of C features, passes through a stack of blocks, and comes out as scores,
(B, T, vocabulary). Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

The same code trains, evaluates and generates. While generating, a cache holds the keys and values of earlier tokens
(cache.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinylora import nn
from tinylora.models.activations import ACTIVATIONS
from tinylora.models.cache import Cache, LayerCache
from tinylora.models.config import ModelConfig, check_choice, check_flag, check_number, check_size
from tinylora.models.decoder import Decoder
from tinylora.models.presets import GPT2_PRESETS
from tinylora.tensor import Tensor
from tinylora.torch_api import functional as F
from tinylora.torch_api.creation import ones, zeros


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    """The lecture's configuration, plus entries that variants of GPT-2 change: width of the feed-forward (default
    4 · emb_dim), activation, ε of the layer norms, dropout of embeddings and attention (default `drop_rate`)."""

    drop_rate: float
    qkv_bias: bool
    ff_dim: int | None = None
    activation: str = "gelu_new"
    norm_eps: float = 1e-5
    drop_emb: float | None = None
    drop_att: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("qkv_bias", self.qkv_bias)
        check_size("ff_dim", self.hidden_dim)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_number("norm_eps", self.norm_eps)
        for name in ("drop_rate", "drop_emb", "drop_att"):
            check_number(name, self.drop_rate if getattr(self, name) is None else getattr(self, name), high=1.0)
        if self.emb_dim % self.n_heads:
            raise ValueError(f"emb_dim {self.emb_dim} is not divisible by n_heads {self.n_heads}")

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the feed-forward."""
        return 4 * self.emb_dim if self.ff_dim is None else self.ff_dim


class LayerNorm(nn.Module):
    """Normalises each position's features, (.., C), to mean 0 and variance 1, then scales and shifts."""

    def __init__(self, emb_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(ones(emb_dim))
        self.shift = nn.Parameter(zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class FeedForward(nn.Module):
    """Two linear layers, applied at each position: C -> 4C -> C."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        C, hidden = cfg.emb_dim, cfg.hidden_dim
        self.layers = nn.Sequential(nn.Linear(C, hidden), ACTIVATIONS[cfg.activation](), nn.Linear(hidden, C))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MultiHeadAttention(nn.Module):
    """Causal self-attention with H independent heads of D = C / H features."""

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, num_heads: int, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_out % num_heads:
            raise ValueError(f"d_out {d_out} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        q, k, v = map(self.heads, nn.fan_out(x, self.W_query, self.W_key, self.W_value))  # 3 × (B, H, T, D)
        p = self.dropout.p if self.dropout.training else 0.0
        if cache is None:
            context = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)  # (B, H, T, D)
        else:
            context = cache.attend(q, k, v, p)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, T, H, D) -> (B, T, C)

    def keys_values(self, x: Tensor) -> list[Tensor]:
        """Keys and values of all positions of x, (B, H, T, D) each."""
        return [self.heads(y) for y in nn.fan_out(x, self.W_key, self.W_value)]

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D)"""
        B, T, C = x.shape
        return x.view(B, T, self.num_heads, C // self.num_heads).transpose(1, 2)


class TransformerBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        C, drop = cfg.emb_dim, cfg.drop_rate if cfg.drop_att is None else cfg.drop_att
        self.att = MultiHeadAttention(C, C, cfg.context_length, drop, cfg.n_heads, cfg.qkv_bias)
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(C, cfg.norm_eps)
        self.norm2 = LayerNorm(C, cfg.norm_eps)
        self.drop_resid = nn.Dropout(cfg.drop_rate)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = x + self.drop_resid(self.att(self.norm1(x), cache))
        return x + self.drop_resid(self.ff(self.norm2(x)))

    def keys_values(self, x: Tensor) -> list[Tensor]:
        return self.att.keys_values(self.norm1(x))


class GPTModel(Decoder):
    """The whole model, from a GPTConfig, the lecture's configuration dictionary, or the name of a preset.

    With `"tie_head": True` in the configuration the head shares the token embedding's weight, as in GPT-2 itself.
    Raises ValueError for a configuration that is incomplete, misspelt, or whose emb_dim is not divisible by n_heads.

    >>> import tinylora
    >>> from tinylora.models.gpt import GPTModel
    >>> from tinylora.models.presets import PRESETS
    >>> with tinylora.device("meta"):
    ...     model = GPTModel({**PRESETS["gpt2-small"], "tie_head": True})
    >>> model.summary().total
    124439808
    """

    config, presets = GPTConfig, GPT2_PRESETS
    cfg: GPTConfig

    def __init__(self, cfg: GPTConfig | Mapping[str, Any] | str) -> None:
        super().__init__(cfg)
        C = self.cfg.emb_dim
        self.tok_emb = nn.Embedding(self.cfg.vocab_size, C)
        self.pos_emb = nn.Embedding(self.cfg.context_length, C)
        self.drop_emb = nn.Dropout(self.cfg.drop_rate if self.cfg.drop_emb is None else self.cfg.drop_emb)
        self.trf_blocks = nn.Sequential(*[TransformerBlock(self.cfg) for _ in range(self.cfg.n_layers)])
        self.final_norm = LayerNorm(C, self.cfg.norm_eps)
        self.out_head = self.new_head()

    def forward(self, in_idx: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (B, T) -> scores (B, T, vocabulary), or (B, T, classes) once out_head was replaced."""
        return self.out_head(self.features(in_idx, cache))

    def features(self, in_idx: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (B, T) -> final features, the head's input, (B, T, C)."""
        x = self.embed(in_idx, self.positions(in_idx, cache))
        for i, block in enumerate(self.trf_blocks):
            x = block(x, cache and cache[i])
        return self.final_norm(x)

    def embed(self, in_idx: Tensor, positions: Tensor) -> Tensor:
        """Token ids (B, T) -> the first block's input, (B, T, C): token embedding plus position embedding."""
        return self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))
